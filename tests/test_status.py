"""What a study has is told by the ids of its records, and how long the rest takes by the seconds of records."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from support import toy, yolo_set

from yolop import files, store
from yolop.__main__ import main
from yolop.run import estimate, status
from yolop.specs import SpecError, SweepSpec
from yolop.study.plan import all_nodes, by_notebook

ROOT = files.ROOT


@pytest.fixture
def graph(project):
    """The graph of digits, in a project with its committed records and six notebooks."""
    shutil.copytree(ROOT / "data" / "records", project / "data" / "records")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        toy(project, path.stem)
    return status.graph_of(status.opened("digits", []))


def test_status_counts_records_by_notebook_and_names_what_is_not_whole(graph, project, capsys):
    nodes = by_notebook(graph)
    begun, missing, damaged = nodes["03"][-1].id, nodes["04"][-1].id, nodes["06"][-1].id
    for run_id in (begun, missing, damaged):
        store.committed_path(project, run_id).unlink()
    for run_id in (begun, damaged):
        store.run_folder(project, run_id).mkdir(parents=True)
    (store.run_folder(project, damaged) / "record.json").write_text("{}")
    assert main(["status", "digits"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"01_architecture committed {len(nodes['01'])}"
    at = lines.index(f"03_custom_pretraining committed {len(nodes['03']) - 1}, started 1")
    assert lines[at + 1] == f"started: {begun}"
    assert f"04_pruning_sweeps committed {len(nodes['04']) - 1}, missing 1" in lines
    assert lines[-2:] == ["06_results damaged 1", f"damaged: {damaged}"]


def test_points_that_other_records_hold_are_not_missing(graph, capsys):
    assert main(["status", "digits", "--set", "ratios=0.3,0.1"]) == 0
    assert "missing" not in capsys.readouterr().out
    assert main(["status", "digits", "--set", "ratios=0.3,0.11"]) == 0
    assert "missing" in capsys.readouterr().out


def test_status_without_a_data_record_or_a_readable_data_set(project, capsys):
    assert main(["status", "smoke"]) == 0
    assert "no record says what the data set of smoke holds" in capsys.readouterr().out
    assert main(["status", "digits", "--set", "dataset=absent.yaml"]) == 2
    with pytest.raises(SpecError, match="absent.yaml"):
        status.opened("digits", ["dataset=absent.yaml"])


def test_the_name_of_a_report_stands_for_its_study_and_settings(project, tmp_path):
    path = yolo_set(tmp_path / "mine") / "data.yaml"
    changes = [f"dataset={path}", "seeds=0,1"]
    study = status.opened("smoke", changes)
    with pytest.raises(SpecError, match="study = 'smoke-[0-9a-f]{6}' is not possible"):
        status.opened(study.settings.report, [])
    status.remember(study, changes)
    assert status.opened(study.settings.report, []).settings == study.settings
    assert status.opened(study.settings.report, ["epochs=3"]).settings.epochs == 3
    status.remember(status.opened("smoke", []), [])
    assert [path.name for path in (project / "data/runs").iterdir()] == [f"study-{study.settings.report}.json"]


def test_expected_seconds_are_those_of_missing_records(graph, project):
    seconds = {path.stem: store.read_committed(project, path.stem).seconds for path in (project / "data/records").glob("*")}
    nodes, start = by_notebook(graph), estimate.UNKNOWN_S
    needed = {node.id for node in nodes["03"]} | {graph.data.id, graph.training("n", 0).id}  # parents of two of them
    expected = status.expected_seconds(graph, ["03_custom_pretraining", "04_pruning_sweeps"])
    assert expected["03_custom_pretraining"] == pytest.approx(start + sum(map(seconds.get, needed)))
    best = graph.training("p-best", 0)
    pretraining = {best.id} | {parent.id for _, corpus in best.parents for parent in (corpus, *dict(corpus.parents).values())}
    needed = {node.id for node in nodes["04"]} | pretraining - {graph.data.id}  # the data set came with 03
    assert expected["04_pruning_sweeps"] == pytest.approx(start + sum(map(seconds.get, needed)))

    training = nodes["03"][-1]
    record = replace(store.read_committed(project, training.id), folder=None)
    longer = replace(training, spec=replace(training.spec, epochs=2 * training.spec.epochs))
    assert estimate._seconds(longer, {training.id: record}) == pytest.approx(2 * record.seconds)
    larger = replace(training, spec=replace(training.spec, imgsz=2 * training.spec.imgsz))
    assert estimate._seconds(larger, {training.id: record}) == pytest.approx(4 * record.seconds)
    assert status.expected_seconds(None, ["01_a"]) == {"01_a": start}
    sweeps = [node for node in nodes["04"] if isinstance(node.spec, SweepSpec)]
    assert status.state(replace(sweeps[-1], spec=replace(sweeps[-1].spec, points=sweeps[-1].spec.points[:3]))) == "committed"


def test_the_plan_of_any_study_whose_data_set_is_known(graph, capsys):
    assert main(["run", "digits", "--plan"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    by_kind = {line[0]: line[1:] for line in lines if len(line) == 5}
    assert int(by_kind["train"][0]) == sum(node.spec.kind == "train" for node in all_nodes(graph)) and by_kind["train"][1] == "0"
    hours = {float(line[0]): float(line[1]) for line in lines if len(line) == 3 and line[0][0].isdigit()}
    assert list(hours) == list(estimate.WORKERS) and hours[1] == pytest.approx(float(by_kind["all"][2]), abs=0.01)
    assert list(hours.values()) == sorted(hours.values(), reverse=True)
    assert main(["run", "smoke", "--plan"]) == 1
    assert "no record says what the data set holds" in capsys.readouterr().err
