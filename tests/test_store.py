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
from yolop.specs import CensusSpec, ModelSpec, canonical, run_id
from yolop.store import DamagedRecord, Record, Store, StoreError, write_atomically

SPEC = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)
CONTENT = json.loads(canonical({"kind": SPEC.kind} | asdict(SPEC)))
RECORD = Record(run_id(SPEC), CONTENT, {"mAP50": 0.5, "é": [1]}, {"w": "0" * 64}, 1.5, {"cores": 2}, {})
JSON = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON |= st.text(st.characters(exclude_categories=["Cs"]))


class Work:
    """A piece of work that counts how often it is done and leaves one file."""

    def __init__(self, metrics=None):
        self.metrics, self.times = metrics or {"params": 7, "shape": (1, 2)}, 0

    def __call__(self, folder):
        assert list(folder.iterdir()) == []  # nothing of an earlier, killed run
        self.times += 1
        (folder / "weights.bin").write_bytes(bytes(range(200)))
        return self.metrics


def test_work_is_done_once(tmp_path):
    work = Work()
    first = Store("s", True, tmp_path).get_or_run(SPEC, work)
    again = Store("s", True, tmp_path).get_or_run(SPEC, work)
    assert work.times == 1 and again == first  # what is handed out is what a reader of the file gets
    assert first.metrics == {"params": 7, "shape": [1, 2]} and first.spec["label"] == "toy"
    assert first.path("weights.bin").read_bytes() == bytes(range(200))
    Store("s", True, tmp_path).get_or_run(replace(SPEC, imgsz=96), work)
    Store("other", True, tmp_path).get_or_run(SPEC, work)
    assert work.times == 3


def test_record_says_where_it_ran_without_naming_the_machine(tmp_path):
    record = Store("s", True, tmp_path).get_or_run(SPEC, Work())
    assert set(record.host) == {"cpu", "cores", "memory_gb", "system", "machine", "python"}
    assert set(record.versions) == set(store.VERSIONED) and "absent" not in record.versions.values()
    assert str(tmp_path) not in record.to_json()


def test_a_record_as_large_as_a_disk_is_not_even_read(tmp_path):
    work = Work()
    path = Store("s", True, tmp_path).get_or_run(SPEC, work).path("record.json")
    os.truncate(path, 2**33)  # takes no room
    with pytest.warns(UserWarning, match="more than 100,000,000 bytes"):
        Store("s", True, tmp_path).get_or_run(SPEC, lambda folder: {"params": 7})


def test_unfinished_work_counts_as_absent(tmp_path):
    folder = tmp_path / "data" / "runs" / "s" / run_id(SPEC)

    def fails(where):
        (where / "half.bin").touch()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Store("s", True, tmp_path).get_or_run(SPEC, fails)
    assert [path.name for path in folder.iterdir()] == ["half.bin"]
    assert Store("s", True, tmp_path).get(SPEC) is None
    record = Store("s", True, tmp_path).get_or_run(SPEC, Work())
    assert list(record.files) == ["weights.bin"]


def test_metrics_that_are_no_numbers_leave_no_record(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Store("s", True, tmp_path).get_or_run(SPEC, Work({"mAP50": float("nan")}))
    assert Store("s", True, tmp_path).get(SPEC) is None


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
def test_damaged_record_is_set_aside_and_computed_again(tmp_path, harm):
    work = Work()
    record = Store("s", True, tmp_path).get_or_run(SPEC, work)
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
        assert Store("s", True, tmp_path).get(SPEC) is None
    assert not path.exists() and (record.folder / "record.damaged").exists()
    again = Store("s", True, tmp_path).get_or_run(SPEC, work)
    assert work.times == 2 and again.metrics == record.metrics and again.files == record.files
    assert Store("s", True, tmp_path).get(SPEC) == again  # and it is whole now


def in_another_process(tmp_path, work: str) -> subprocess.Popen:
    """Start a process that asks for SPEC, doing `work` (the body of a function of `folder`) if it must."""
    script = f"""
import os, sys, time, uuid
from pathlib import Path
from yolop.specs import CensusSpec, ModelSpec
from yolop.store import Store

def work(folder):
{textwrap.indent(textwrap.dedent(work).strip(), "    ")}

spec = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)
print(Store("s", True, Path(sys.argv[1])).get_or_run(spec, work).metrics)
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
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1] and (tmp_path / "times").read_text() == "x"


@pytest.mark.parametrize(
    "work",
    [
        "(folder / 'half.bin').touch(); os.kill(os.getpid(), 9)",  # while it computes
        "os.replace = lambda *_: os.kill(os.getpid(), 9); return {}",  # while it writes the record
    ],
)
def test_killed_run_goes_on_where_it_was(tmp_path, work):
    process = in_another_process(tmp_path, work)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert Store("s", True, tmp_path).get(SPEC) is None
    again = Work()
    Store("s", True, tmp_path).get_or_run(SPEC, lambda folder: again.metrics)
    assert Store("s", True, tmp_path).get(SPEC).metrics["params"] == 7


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "permissions")])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, number, hint):
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=hint):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="finished records are kept"):
        Store("s", True, tmp_path).get_or_run(SPEC, Work())
    assert Store("s", True, tmp_path).get(SPEC) is None


def test_committed_evidence_is_read_and_never_computed(tmp_path):
    fresh = Store("s", True, tmp_path)
    record = fresh.get_or_run(SPEC, Work())
    committed = tmp_path / "data" / "records" / "s" / f"{record.run_id}.json"
    with pytest.raises(StoreError, match=f'{record.run_id}(?s:.*)records="fresh"'):
        Store("s", False, tmp_path).get_or_run(SPEC, Work())
    committed.parent.mkdir(parents=True)
    committed.write_text(record.to_json())
    read = Store("s", False, tmp_path).get_or_run(SPEC, lambda folder: pytest.fail("computed"))
    assert read == replace(record, folder=None)
    with pytest.raises(StoreError, match=r'weights.bin: compute it with records="fresh"'):
        read.path("weights.bin")
    committed.write_text(committed.read_text().replace('"params": 7', '"params": 8'))
    with pytest.raises(DamagedRecord, match="restore it"):
        Store("s", False, tmp_path).get(SPEC)
    assert "8" in committed.read_text()  # evidence is never touched by reading it
