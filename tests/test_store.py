"""Work is done once; what is partial counts as absent; what is damaged is never trusted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolop import store
from yolop.files import DamagedRecord, StoreError, write_atomically
from yolop.specs import CensusSpec, FolderSpec, ModelSpec, PruneSpec, SweepSpec, canonical, run_id
from yolop.store import Record, Store
from yolop.study.graph import Node

SPEC = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)
CONTENT = json.loads(canonical({"kind": SPEC.kind} | asdict(SPEC)))
RECORD = Record(run_id(SPEC), CONTENT, {"mAP50": 0.5, "é": [1]}, {"w": "0" * 64}, 1.5, {"cores": 2}, {})
JSON = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON |= st.text(st.characters(exclude_categories=["Cs"]))


class Work:
    """A piece of work that counts how often it is done and leaves one file."""

    def __init__(self, metrics=None):
        self.metrics, self.times = metrics or {"params": 7, "shape": (1, 2)}, 0

    def __call__(self, spec, parents, folder):
        assert list(folder.iterdir()) == []  # nothing of an earlier, killed run
        self.times += 1
        (folder / "weights.bin").write_bytes(bytes(range(200)))
        return self.metrics


@pytest.fixture
def doing(monkeypatch):
    """Make a piece of work what computes SPEC."""

    def doing(work):
        monkeypatch.setattr(sys.modules[__name__], "work", work, raising=False)
        monkeypatch.setitem(store.COMPUTE, SPEC.kind, f"{__name__}:work")
        return work

    return doing


def obtained(tmp_path, spec=SPEC, records="fresh") -> Record:
    return Store(records, tmp_path).obtain(Node(spec))


def test_a_timing_waits_and_its_record_says_how_busy_the_machine_was(tmp_path, doing, monkeypatch):
    doing(Work())
    monkeypatch.setattr(store.idle, "wait_until_idle", lambda: 0.1)
    monkeypatch.setattr(store.idle, "busy_cores", lambda: 0.3)
    host = Store("fresh", tmp_path).obtain(Node(SPEC, quiet=True)).host
    assert (host["busy_cores_before"], host["busy_cores_after"]) == (0.1, 0.3)
    assert "busy_cores_before" not in obtained(tmp_path, replace(SPEC, label="other")).host


def test_work_is_done_once(tmp_path, doing):
    work = doing(Work())
    first, again = obtained(tmp_path), obtained(tmp_path)
    assert work.times == 1 and again == first  # what is handed out is what a reader of the file gets
    assert first.metrics == {"params": 7, "shape": [1, 2]} and first.spec["label"] == "toy" and first.asked == SPEC
    assert first.path("weights.bin").read_bytes() == bytes(range(200))
    obtained(tmp_path, replace(SPEC, imgsz=96))
    assert work.times == 2


def test_parents_are_obtained_first_and_handed_over_by_role(tmp_path, monkeypatch):
    order = []

    def compute(spec, parents, folder):
        order.append(spec.label)
        return {"from": {role: record.metrics["me"] for role, record in parents.items()}, "me": spec.label}

    monkeypatch.setattr(sys.modules[__name__], "work", compute, raising=False)
    monkeypatch.setitem(store.COMPUTE, SPEC.kind, f"{__name__}:work")
    data, weights = (Node(replace(SPEC, label=label)) for label in ("data", "weights"))
    weights = replace(weights, parents=(("data", data),))
    record = Store("fresh", tmp_path).obtain(Node(SPEC, (("data", data), ("weights", weights))))
    assert order == ["data", "weights", "toy"] and record.metrics["from"] == {"data": "data", "weights": "weights"}


def test_what_cannot_change_a_number_is_outside_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "work", lambda spec, parents, folder: {}, raising=False)
    monkeypatch.setitem(store.COMPUTE, "data", f"{__name__}:work")
    here, there = (obtained(tmp_path, FolderSpec("mine", "0" * 64, path)) for path in ("/here/data.yaml", "/there/data.yaml"))
    assert here.run_id == there.run_id and here.asked.path != there.asked.path
    assert "here" not in there.to_json() and "there" not in there.to_json()


def test_a_record_has_one_line_for_each_row(tmp_path, doing):
    doing(Work({"rows": [{"label": "a", "draws": [1, 2]}, {"label": "b", "draws": [3]}], "flat": [1, 2, 3]}))
    lines = [line.strip() for line in obtained(tmp_path).to_json().splitlines()]
    assert '{"draws": [1, 2], "label": "a"},' in lines and '"flat": [1, 2, 3],' in lines


def test_sweeps_are_found_point_by_point(tmp_path, monkeypatch):
    """A subset, another order, and points that several records hold need no work; one new point is computed alone."""
    asked = []

    def compute(spec, parents, folder):
        asked.append(len(spec.points))
        return {"rows": [asdict(point) | {"mAP50": point.conv} for point in spec.points]}

    monkeypatch.setattr(sys.modules[__name__], "work", compute, raising=False)
    monkeypatch.setitem(store.COMPUTE, "sweep", f"{__name__}:work")

    def rows(*ratios, parent="train-p", records="fresh"):
        points = tuple(PruneSpec(conv=ratio) for ratio in ratios)
        return [r["mAP50"] for r in Store(records, tmp_path).rows(Node(SweepSpec("m", parent, "d", points)))]

    assert rows(0.1, 0.2, 0.3) == [0.1, 0.2, 0.3] and asked == [3]
    assert rows(0.3, 0.1) == [0.3, 0.1] and asked == [3]
    assert rows(0.4, 0.1) == [0.4, 0.1] and asked == [3, 1]
    assert rows(0.4, 0.2, 0.1) == [0.4, 0.2, 0.1] and asked == [3, 1]
    assert rows(0.1, parent="train-q") == [0.1] and asked == [3, 1, 1]  # another network has rows of its own
    with pytest.raises(StoreError, match="never published"):
        rows(0.1, records="committed")


def test_record_says_where_it_ran_without_naming_the_machine(tmp_path, doing):
    doing(Work())
    record = obtained(tmp_path)
    assert set(record.host) == {"cpu", "cores", "memory_gb", "system", "machine", "python"}
    assert set(record.versions) == set(store.VERSIONED) and "absent" not in record.versions.values()
    assert str(tmp_path) not in record.to_json()


def test_a_record_as_large_as_a_disk_is_not_even_read(tmp_path, doing):
    doing(Work())
    path = obtained(tmp_path).path("record.json")
    os.truncate(path, 2**33)  # takes no room
    with pytest.warns(UserWarning, match="more than 100,000,000 bytes"):
        Store("fresh", tmp_path).get(SPEC)


def test_unfinished_work_counts_as_absent(tmp_path, doing):
    folder = tmp_path / "data" / "runs" / run_id(SPEC)

    def fails(spec, parents, where):
        (where / "half.bin").touch()
        raise RuntimeError("out of memory")

    doing(fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        obtained(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["half.bin"]
    assert Store("fresh", tmp_path).get(SPEC) is None
    doing(Work())
    record = obtained(tmp_path)
    assert list(record.files) == ["weights.bin"]


def test_metrics_that_are_no_numbers_leave_no_record(tmp_path, doing):
    doing(Work({"mAP50": float("nan")}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        obtained(tmp_path)
    assert Store("fresh", tmp_path).get(SPEC) is None


@given(st.data())
def test_every_changed_byte_is_noticed(data):
    text = RECORD.to_json().encode()
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + bytes([data.draw(st.integers(0, 255))]) + text[position + 1 :]
    try:
        read = Record.from_json(changed.decode())
    except (DamagedRecord, UnicodeDecodeError):
        return
    assert read == RECORD  # white space only, or the same byte


@given(st.integers(0, len(RECORD.to_json().encode()) - 2))
def test_every_cut_is_noticed(length):
    with pytest.raises((DamagedRecord, UnicodeDecodeError)):
        Record.from_json(RECORD.to_json().encode()[:length].decode())


@given(st.sampled_from(["mAP50", "a\n", ""]), JSON | st.lists(JSON))
def test_records_survive_writing_and_reading(name, value):
    record = replace(RECORD, metrics={name: value})
    assert Record.from_json(record.to_json()) == record
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


def test_foreign_text_is_no_record():
    whole = json.loads(RECORD.to_json())
    altered = [json.dumps(whole | extra) for extra in ({"extra": 1}, {"schema": 0}, {"status": "running"})]
    for text in ("", "[]", "{}", "null", "[" * 100_000, *altered):
        with pytest.raises(DamagedRecord):
            Record.from_json(text)


@pytest.mark.parametrize("harm", ["metrics", "cut", "not text", "file changed", "file cut", "file lost"])
def test_damaged_record_is_set_aside_and_computed_again(tmp_path, doing, harm):
    work = doing(Work())
    record = obtained(tmp_path)
    path, weights = record.folder / "record.json", record.path("weights.bin")
    whole = path.read_bytes()
    {
        "metrics": lambda: path.write_bytes(whole.replace(b'"params": 7', b'"params": 8')),
        "cut": lambda: path.write_bytes(whole[:100]),
        "not text": lambda: path.write_bytes(b"\xff" + whole),
        "file changed": lambda: weights.write_bytes(bytes(200)),
        "file cut": lambda: weights.write_bytes(b""),
        "file lost": lambda: weights.unlink(),
    }[harm]()
    with pytest.warns(UserWarning, match=f"record {record.run_id} was damaged"):
        assert Store("fresh", tmp_path).get(SPEC) is None
    assert not path.exists() and (record.folder / "record.damaged").exists()
    again = obtained(tmp_path)
    assert work.times == 2 and again.metrics == record.metrics and again.files == record.files
    assert Store("fresh", tmp_path).get(SPEC) == again  # and it is whole now


def in_another_process(tmp_path, work: str) -> subprocess.Popen:
    """Start a process that asks for SPEC, doing `work` (the body of a function of `folder`) if it must."""
    script = f"""
import os, sys, time, uuid
from pathlib import Path
from yolop import store
from yolop.specs import CensusSpec, ModelSpec

def work(spec, parents, folder):
{textwrap.indent(textwrap.dedent(work).strip(), "    ")}

store.COMPUTE["census"] = "__main__:work"
spec = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)
print(store.get_or_run(Path(sys.argv[1]), spec, {{}}).metrics)
"""
    return subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)


def test_two_processes_do_the_work_once(tmp_path):
    work = """
    with open(sys.argv[1] + "/times", "a") as file:
        file.write("x")
    time.sleep(1)
    return {"who": uuid.uuid4().hex}
    """
    processes = [in_another_process(tmp_path, work) for _ in range(2)]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1] and (tmp_path / "times").read_text() == "x"


@pytest.mark.parametrize(
    "work",
    [
        "(folder / 'half.bin').touch(); os.kill(os.getpid(), 9)",  # while it computes
        "os.replace = lambda *_: os.kill(os.getpid(), 9); return {}",  # while it writes the record
    ],
)
def test_killed_run_goes_on_where_it_was(tmp_path, doing, work):
    process = in_another_process(tmp_path, work)
    process.communicate()
    assert process.returncode == -9
    assert Store("fresh", tmp_path).get(SPEC) is None
    doing(lambda spec, parents, folder: {"params": 7})
    obtained(tmp_path)
    assert Store("fresh", tmp_path).get(SPEC).metrics["params"] == 7


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "permissions")])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, doing, number, hint):
    doing(Work())
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=hint):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="finished records are kept"):
        obtained(tmp_path)
    assert Store("fresh", tmp_path).get(SPEC) is None


def test_committed_evidence_is_read_and_never_computed(tmp_path, doing):
    doing(Work())
    record = obtained(tmp_path)
    committed = tmp_path / "data" / "records" / f"{record.run_id}.json"
    with pytest.raises(StoreError, match=f'{record.run_id}(?s:.*)records="fresh"'):
        obtained(tmp_path, records="committed")
    committed.parent.mkdir(parents=True)
    committed.write_text(record.to_json())
    doing(lambda *_: pytest.fail("computed"))
    read = obtained(tmp_path, records="committed")
    assert read == replace(record, folder=None)
    with pytest.raises(StoreError, match=r'weights.bin: compute it with records="fresh"'):
        read.path("weights.bin")
    committed.write_text(committed.read_text().replace('"params": 7', '"params": 8'))
    with pytest.raises(DamagedRecord, match="restore it"):
        Store("committed", tmp_path).get(SPEC)
    assert "8" in committed.read_text()  # evidence is never touched by reading it
