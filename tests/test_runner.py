"""The runner refuses before a kernel starts, stops at the first failure, and leaves nothing half-written."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat import v4

import yolop
from yolop.__main__ import main
from yolop.run import doctor, runner
from yolop.specs import CensusSpec, ModelSpec, named_study
from yolop.store import Store

PARAMETERS = """study = "digits"
records = "committed"
write_report = False
dataset = None
imgsz = None
models = None
p = None
epochs = None
batch = None
pretraining = None
pretrain_epochs = None
seeds = None
ratios = None
sparsities = None
narrowed_to = None
timing_rounds = None
device = None"""
CENSUS = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)


def toy(root: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook: title, parameters, then the given code cells."""
    cells = [v4.new_markdown_cell(f"# {name[:2]} Toy"), v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    book = v4.new_notebook(cells=cells + [v4.new_code_cell(source) for source in sources])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


@pytest.fixture
def reporting(monkeypatch):
    """A stand-in for the module that writes reports; `calls` holds what it was asked for."""
    fake = SimpleNamespace(calls=[])
    fake.write_index = lambda study, folder, records: fake.calls.append((study, folder))
    monkeypatch.setitem(sys.modules, "yolop.report.reporting", fake)
    monkeypatch.setattr(yolop, "reporting", fake, raising=False)
    return fake


def record(root: Path, spec=CENSUS, study: str = "smoke"):
    """Compute a small record with one file."""
    return Store(study, compute=True, root=root).get_or_run(
        spec, lambda folder: (folder / "weights.bin").write_bytes(b"1234") and {"params": 7}
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["--only", "07"],
        ["--only", "02,,"],
        ["--set", "epochs"],
        ["--set", "epoch=3"],
        ["--set", "epochs=many"],
        ["--set", "epochs=2.5"],
        ["--set", "epochs=0"],
        ["--set", "epochs="],
        ["--set", "epochs=nan"],
        ["--set", "imgsz=100"],
        ["--set", "models=n,q"],
        ["--set", "models="],
        ["--set", "ratios=0.1,30"],
        ["--set", "seeds=-1"],
        ["--set", "device=gpu"],
        ["--set", "dataset=pictures"],
        ["--set", "dataset=absent/data.yaml"],
        ["--set", "records=fresh"],
        ["--set", "name=mine"],
        ["--set", "self=1"],
        ["--set", "epochs=3", "imgsz=31"],
        ["--set", "x;open('canary','w')=1"],
        ["--set", "epochs\nopen('canary', 'w')\nx=1"],
    ],
)
def test_refused_before_a_kernel_starts(project, monkeypatch, capsys, arguments):
    toy(project, "01_first")
    toy(project, "02_second")
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    monkeypatch.chdir(project)
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("yolop: ") and "Traceback" not in error
    assert sorted(path.name for path in project.iterdir()) == ["notebooks"]


@pytest.mark.parametrize(
    "parameters",
    [
        PARAMETERS.replace("records = ", "record = "),
        PARAMETERS.replace("epochs = None", ""),
        PARAMETERS + "\nwhen = open('canary', 'w')",
        PARAMETERS + "\nimport os",
        PARAMETERS + "\nseeds[0] = 1",
        PARAMETERS + "\n(",
    ],
)
def test_notebook_must_declare_every_parameter_by_literals(project, monkeypatch, capsys, parameters):
    toy(project, "01_first", parameters=parameters)
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert main(["run", "--set", "epochs=3"]) == 2
    assert "01_first" in capsys.readouterr().err


def test_unusable_command_line_is_refused(capsys):
    for arguments in ([], ["fly"], ["run", "--records", "old"], ["verify", "digits", "--only", "01"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    assert main(["verify", "nope"]) == main(["status", "nope"]) == main(["publish", "nope"]) == 2


def test_run_leaves_whole_notebooks_without_traces(project, reporting, monkeypatch, capsys):
    look = "import os, sys\nprint(epochs, seeds, records, write_report, study)\nprint(os.getcwd())"
    toy(project, "01_first", look, f"assert sys.executable == {sys.executable!r}\nprint('half', end='')")
    toy(project, "02_second", "1 + 1")
    other = project / "data" / "kernels" / "python3"  # another Python that calls itself python3
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(project / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "data"))

    assert main(["run", "smoke", "--set", "epochs=3", "seeds=0,1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "    3 [0, 1] fresh True smoke" in printed and "    half" in printed
    assert f"    {project / 'notebooks'}" in printed
    study = named_study("smoke", epochs=3, seeds=(0, 1))
    report = project / "reports" / study.name
    assert reporting.calls == [(study, report)]
    executed = sorted((report / "notebooks").iterdir())
    assert [path.name for path in executed] == ["01_first.ipynb", "02_second.ipynb"]
    text = executed[0].read_text(encoding="utf-8")
    book = nbformat.reads(text, as_version=4)
    assert "papermill" not in text and str(project) not in text
    assert book.cells[3].outputs[0].text == "3 [0, 1] fresh True smoke\n./notebooks\n"
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    seconds = json.loads((project / "data" / "runs" / study.name / "timings.json").read_text())
    assert list(seconds) == ["01_first", "02_second"] and min(seconds.values()) > 0

    assert main(["run", "smoke", "--only", "1,01", "--set", "epochs=3"]) == 2  # numbers have two digits
    assert main(["run", "smoke", "--only", "01", "--set", "epochs=3", "seeds=0,1"]) == 0
    assert executed[0].read_text(encoding="utf-8") == text  # the same run leaves the same bytes


@pytest.mark.parametrize(
    ("source", "reason"),
    [("raise ValueError('no luck')", "ValueError: no luck"), ("import os\nos.kill(os.getpid(), 9)", "the kernel died")],
)
def test_first_failure_stops_and_is_kept(project, capsys, source, reason):
    toy(project, "01_bad", "before = 1\nprint('so far')", source, "after = 1")
    toy(project, "02_next", "import pathlib; pathlib.Path('canary').touch()")
    earlier = project / "reports" / "smoke" / "notebooks" / "01_bad.ipynb"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("an earlier whole one")
    assert main(["run", "smoke"]) == 1
    error = capsys.readouterr().err
    failed = earlier.with_name("01_bad.failed.ipynb")
    assert f"01_bad failed at In [4]: {source.splitlines()[0]}" in error and reason in error and str(failed) in error
    assert "so far" in failed.read_text(encoding="utf-8") and earlier.read_text() == "an earlier whole one"
    assert sorted(path.name for path in earlier.parent.iterdir()) == ["01_bad.failed.ipynb", "01_bad.ipynb"]
    assert not (project / "notebooks" / "canary").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopping_ends_the_kernel(project, number, status):
    work = "import os, signal\nfor name in ('SIGINT', 'SIGTERM'): signal.signal(getattr(signal, name), signal.SIG_IGN)"
    toy(project, "01_long", work, "import time; print('kernel', os.getpid(), flush=True); time.sleep(100)")
    process = subprocess.Popen(
        [sys.executable, "-m", "yolop", "run", "smoke"], env=os.environ | {"YOLOP_ROOT": str(project)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    kernel = next(int(line.split()[1]) for line in process.stdout if "kernel" in line)
    began = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, time.monotonic() - began < 10) == (status, True)
    assert "finished records are kept" in error and "Traceback" not in error
    assert not psutil.pid_exists(kernel)
    assert list((project / "reports" / "smoke" / "notebooks").iterdir()) == []


def test_estimate_of_time_left():
    names, seconds = ["01_a", "02_b", "03_c"], {"01_a": 10, "02_b": 20, "03_c": 70}
    known = runner.Progress(names, seconds, io.StringIO())
    assert known.time_left("01_a", 4) == pytest.approx(96)
    known.done["01_a"] = 5.0  # twice as fast as last time
    assert known.time_left("02_b", 3) == pytest.approx(7 + 35)
    assert known.time_left() == pytest.approx(45)
    unknown = runner.Progress(list(runner.SHARES), {}, io.StringIO())
    assert unknown.time_left("01_architecture", 5) is None
    unknown.done["01_architecture"] = runner.SHARES["01_architecture"] * 2.0
    assert unknown.time_left("02_model_scaling", 0) == pytest.approx(2 * (100 - runner.SHARES["01_architecture"]))
    assert sum(runner.SHARES.values()) == 100


def test_progress_on_a_terminal_and_in_a_log():
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    for stream in (terminal, io.StringIO()):
        progress = runner.Progress(["01_a", "02_b"], {"01_a": 1, "02_b": 90}, stream)
        with progress.of("01_a"):
            progress.write("epoch 1\nep")
            progress.show("01_a", 65)
            progress.write("och 2\nlast")
        lines = stream.getvalue().replace("\r\x1b[K", "\n").splitlines()
        assert [line for line in lines if line.startswith("    ")] == ["    epoch 1", "    epoch 2", "    last"]
        assert lines[-1].startswith("01_a  0 s")
        assert ("01_a  1:05 min, about 1:30 min left" in lines) == stream.isatty()
        assert ("\x1b" in stream.getvalue()) == stream.isatty()
    assert [runner._clock(s) for s in (8.4, 125, 3725)] == ["8 s", "2:05 min", "1:02:05 h"]


def test_status_tells_done_from_damaged_and_unfinished(project, capsys):
    specs = [CENSUS, *(CensusSpec(label, CENSUS.models, nc=3, imgsz=64) for label in ("bad", "lost"))]
    names = [record(project, spec).run_id for spec in specs]
    runs = project / "data" / "runs" / "smoke"
    path = runs / names[1] / "record.json"
    path.write_text(path.read_text().replace('"params": 7', '"params": 8'))
    (runs / names[2] / "weights.bin").write_bytes(b"12")
    (runs / "train-n-e2-s0-00000000").mkdir()
    for name in ("01_old", "02_bad", "03_new", "04_absent"):
        toy(project, name)
    executed = project / "reports" / "smoke" / "notebooks"
    executed.mkdir(parents=True)
    for name in ("01_old.ipynb", "02_bad.failed.ipynb", "03_new.ipynb"):
        (executed / name).touch()
    os.utime(executed / "01_old.ipynb", (1, 1))
    assert main(["status", "smoke"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (f"done {names[0]}", f"damaged {names[1]}", f"damaged {names[2]}",
                 "started, not finished train-n-e2-s0-00000000", "1 of 4 records done, 0 committed",
                 "stale 01_old", "failed 02_bad", "done 03_new", "not run 04_absent"):  # fmt: skip
        assert line in lines


def test_verify_names_every_difference(project, reporting, capsys):
    texts = {"tables/a.csv": "x,y\n1,2\n", "tables/a.md": "| x |\n", "claims.json": "{}\n", "tables/c.csv": "é\n"}
    reporting.texts = lambda study: texts if study == named_study("smoke") else {}
    folder = project / "reports" / "smoke"
    (folder / "tables").mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    (folder / "index.html").touch()  # not text of this kind: not compared
    assert main(["verify", "smoke"]) == 0 and capsys.readouterr().out == "smoke:\n4 files equal\n"
    (folder / "tables" / "a.csv").write_text("x,y\n1,3\n")
    (folder / "tables" / "a.md").unlink()
    (folder / "tables" / "b.csv").touch()
    (folder / "claims.json").write_bytes(b"{}\r\n")
    assert main(["verify", "smoke"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "smoke:",
        "differs  claims.json: line ends differ",
        "differs  tables/a.csv: line 2 is '1,3', the records give '1,2'",
        "missing  tables/a.md",
        "extra    tables/b.csv",
        "1 files equal",
    ]


def test_publish_takes_all_records_or_none(project, capsys, monkeypatch):
    one, two = record(project), record(project, CensusSpec("two", CENSUS.models, nc=3, imgsz=64))
    manifest = project / "reports" / "smoke" / "manifest.json"
    committed = project / "data" / "records" / "smoke"
    assert main(["publish", "smoke"]) == 1 and "nothing to publish" in capsys.readouterr().err
    manifest.parent.mkdir(parents=True)
    checksums = {item.run_id: json.loads(item.to_json())["checksum"] for item in (one, two)}
    manifest.write_text(json.dumps({"records": checksums | {two.run_id: "0" * 64}}))
    assert main(["publish", "smoke"]) == 1 and two.run_id in capsys.readouterr().err
    assert not committed.exists()

    manifest.write_text(json.dumps({"records": checksums}))
    committed.mkdir(parents=True)
    (committed / "census-old-64px-00000000.json").touch()
    notebook = toy(project, "01_first", "print(study, records, write_report)")
    from yolop.report import reporting

    monkeypatch.setattr(reporting, "README_STUDY", "smoke")
    monkeypatch.setattr(reporting, "front_pages", lambda: {"README.md": "results"})
    assert main(["publish", "smoke"]) == 0
    assert (project / "README.md").read_text() == "results"
    assert sorted(path.stem for path in committed.iterdir()) == sorted([one.run_id, two.run_id])
    assert Store("smoke", compute=False, root=project).get(CENSUS).metrics == {"params": 7}
    book = nbformat.read(notebook, as_version=4)
    assert book.cells[2].outputs[0].text == "digits committed False\n" and len(book.cells) == 3
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert [dict(cell.metadata) for cell in book.cells] == [{}, {"tags": ["parameters"]}, {}]


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"opencv-python": "4.12.0.88"}, "pip uninstall -y opencv-python opencv-python-headless"),
        ({"thop": "0.1.1.post2209072238"}, "pip uninstall -y thop"),
        ({"ultralyticsheadless": "8.3.33"}, "pip uninstall -y ultralyticsheadless"),
        ({"ultralytics": "8.4.190"}, "pip uninstall -y ultralytics"),
        *[({doctor.ENGINE: version}, "malware") for version in ("8.3.41", "8.3.42", "8.3.45", "8.3.46")],
    ],
)
def test_doctor_refuses_packages_that_overwrite_or_impersonate(monkeypatch, extra, named):
    found = doctor.installed()
    assert [level for level, _ in doctor.conflicts()] == ["ok"]
    monkeypatch.setattr(doctor, "installed", lambda: found | extra)
    (level, message), *more = doctor.conflicts()
    assert level == "FAIL" and named in message and "--force-reinstall" in message and not more


def test_doctor_fails_when_one_check_does(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "conflicts", lambda: iter([("FAIL", "thop"), ("WARN", "more")]))
    monkeypatch.setattr(doctor.conflicts, "__name__", "conflicts")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL  conflicts: thop" in lines and "WARN  conflicts: more" in lines
    assert "ok    settings: no reporting, a settings file of our own" in lines


def test_doctor_compares_versions_with_the_lock(monkeypatch):
    wanted = doctor.locked()
    monkeypatch.setattr(doctor, "installed", lambda: wanted | {"torch": wanted["torch"] + "+cpu"})
    assert [level for level, _ in doctor.packages()] == ["ok"]
    monkeypatch.setattr(doctor, "installed", lambda: wanted | {"torch": "2.0.0", "jupyterlab": "4.0.0"})
    (bad, torch_message), (warned, lab_message) = doctor.packages()
    assert (bad, warned) == ("FAIL", "WARN")
    assert "torch 2.0.0 instead of" in torch_message and "jupyterlab 4.0.0" in lab_message
    monkeypatch.setattr(doctor, "installed", lambda: {k: v for k, v in wanted.items() if k != "ruff"})
    assert [(level, message.split(" instead")[0]) for level, message in doctor.packages()] == [("WARN", "ruff absent")]


def test_doctor_names_what_is_short(monkeypatch, project):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9))
    monkeypatch.setattr(doctor.sys, "version_info", (3, 12, 0))
    assert next(doctor.disk())[0] == next(doctor.python())[0] == "FAIL" and next(doctor.memory())[0] == "WARN"
    assert [level for level, _ in doctor.folders()] == ["ok"]
    (project / "reports").touch()  # a file where a folder is needed
    assert next(doctor.folders()) == ("FAIL", next(doctor.folders())[1]) and "reports" in next(doctor.folders())[1]
    assert [level for level, _ in doctor.flops()] == ["ok"]
