"""What travels as bytes arrives whole or is refused by name; the first whole record of an id stays."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from support import yolo_set
from toy_work import toy

from yolop.data.folder import read
from yolop.files import DamagedRecord, StoreError
from yolop.run import worker
from yolop.run.parcels import accept, folder_files, pack
from yolop.specs import run_id
from yolop.store import Store, read_computed, run_folder, versions


@pytest.fixture
def sent(tmp_path):
    """A record that another machine has computed, and its parcel."""
    record = Store("fresh", tmp_path / "there").obtain(toy("a"))
    return record, pack(record)


def test_a_parcel_arrives_whole(sent, tmp_path):
    record, parcel = sent
    found = accept(tmp_path, record.run_id, parcel)
    assert (
        found.to_json() == record.to_json()
        and found.path("weights.bin").read_bytes() == record.path("weights.bin").read_bytes()
    )
    assert {path.name for path in run_folder(tmp_path, record.run_id).iterdir()} == {"record.json", "weights.bin"}


def test_the_first_whole_record_stays_and_a_damaged_one_does_not(sent, tmp_path):
    record, parcel = sent
    own = Store("fresh", tmp_path).obtain(toy("a"))
    other = pack(replace(record, seconds=99.0))
    assert accept(tmp_path, record.run_id, other).seconds == own.seconds
    own.path("weights.bin").write_bytes(b"damaged")
    assert accept(tmp_path, record.run_id, other).seconds == 99.0


def test_what_is_damaged_is_refused_and_nothing_kept(sent, tmp_path):
    record, parcel = sent
    data = parcel.files["weights.bin"]
    for wrong in (
        replace(parcel, files={"weights.bin": data[:-1]}),
        replace(parcel, files={}),
        replace(parcel, files=parcel.files | {"more.bin": b""}),
        replace(parcel, files={"../weights.bin": data}),
        replace(parcel, record=parcel.record.replace("0", "1", 1)),
        pack(Store("fresh", tmp_path / "there").obtain(toy("b"))),
    ):
        with pytest.raises(DamagedRecord):
            accept(tmp_path, record.run_id, wrong)
    assert read_computed(tmp_path, record.run_id) is None


def test_a_users_data_set_arrives_with_the_same_content(tmp_path):
    root = yolo_set(tmp_path / "set")
    own = read(root / "data.yaml")
    sent = folder_files(root / "data.yaml")
    found = read(worker._unpacked(tmp_path / "there", own.digest, sent))
    assert found.digest == own.digest and found.names == own.names
    for split, part in own.splits.items():
        assert [path.name for path in found.splits[split].images] == [path.name for path in part.images]
    with pytest.raises(StoreError, match="leads out of the data set"):
        worker._unpacked(tmp_path / "there", "0" * 64, {"../../canary": b""})
    assert not any("canary" in names for _, _, names in os.walk(tmp_path))


def test_what_a_worker_prints_comes_in_whole_lines_with_a_name(tmp_path, capsys):
    worker._compute(tmp_path, toy("a", act="print").spec, {}, False)
    assert capsys.readouterr().out == "    toy-a: half a line and the rest\n"


def test_a_worker_computes_in_a_process_of_its_own_and_survives_its_death(tmp_path, monkeypatch):
    for name, value in (("_address", lambda: "here"), ("_root", lambda: tmp_path), ("get_or_run", None)):
        monkeypatch.setattr(worker, name, value)  # of this process, in which Dask's threads draw from `random`
    tasks = [worker.Task(spec, False, {}, {}, versions()) for spec in (toy("a", act="die").spec, toy("b").spec)]
    with pytest.raises(StoreError, match="died: out of memory, or killed"):
        worker.work(tasks[0])
    assert accept(tmp_path / "here", run_id(tasks[1].spec), worker.work(tasks[1])).path("weights.bin").exists()
    worker._process().shutdown()
    worker._process.cache_clear()


def test_packages_that_differ_are_named():
    assert worker.differences({"numpy": "1", "torch": "2"}, {"numpy": "1", "torch": "2", "more": "3"}) == ""
    assert (
        worker.differences({"numpy": "1", "torch": "2"}, {"numpy": "3"})
        == "numpy 3 instead of 1; torch absent instead of 2"
    )
