"""Damaged and edited evidence: found on read, set aside, named, computed again; `verify` tells what an edit has changed."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest

from yolop import store
from yolop.__main__ import main
from yolop.run import runner
from yolop.specs import CensusSpec, ModelSpec
from yolop.store import Record, Store

ROOT = Path(__file__).resolve().parents[2]
SPEC = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)


def work(folder: Path) -> dict:
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4)
    return {"params": 7, "rows": [{"x": 0.1, "label": "é"}] * 5}


def test_any_flipped_or_missing_byte_is_found_and_computed_again(tmp_path, seen):
    expected = Store("s", True, tmp_path).get_or_run(SPEC, work)
    draw, tries, lost = random.Random(0), 400, 0
    for _ in range(tries):
        path = expected.folder / draw.choice(["record.json", "weights.bin"])
        whole = path.read_bytes()
        place = draw.randrange(len(whole) - 1)  # without its last newline a record says what it said
        flipped = whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
        path.write_bytes(draw.choice([flipped, whole[:place], b"", whole + b"x"]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            record = Store("s", True, tmp_path).get_or_run(SPEC, work)
        lost += (record.metrics, record.files) != (expected.metrics, expected.files)
        assert any(expected.run_id in str(item.message) for item in caught)
    assert lost == 0
    seen("a byte of a record or its weights flipped, cut or added", tries, "named, set aside, computed again", lost)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A copy of a published study, with nothing else around it."""
    study = "coco128"
    for part in ("data/records", "reports"):
        shutil.copytree(ROOT / part / study, tmp_path / part / study)
    for other in store.published():  # the ledger is over all studies
        for name in (f"reports/{other}/claims.json", f"data/records/{other}/x.json"):
            target = tmp_path / name
            if not target.exists() and other != study:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes() if name.endswith("claims.json") else b"")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    return study


def numbers(part, found: list) -> list[tuple]:
    """Where numbers are in there: (container, key) each."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict | list):
            numbers(value, found)
        elif type(value) in (int, float):
            found.append((part, key))
    return found


def test_verify_names_edited_evidence(published, capsys, seen):
    assert main(["verify", published]) == 0, capsys.readouterr().out
    draw, tries, missed = random.Random(1), 6, 0
    records = sorted((store.ROOT / "data" / "records" / published).glob("*.json"))
    for path in draw.sample(records, tries):
        text = path.read_text(encoding="utf-8")
        body = json.loads(text)
        part, key = draw.choice(numbers(body["metrics"], []))
        part[key] += 1
        fields = {name: value for name, value in body.items() if name not in ("checksum", "schema", "status")}
        path.write_text(Record(**fields).to_json(), encoding="utf-8")  # with a checksum that is right again
        missed += main(["verify", published]) == 0
        assert path.stem in capsys.readouterr().out  # named, by the manifest at least
        path.write_text(text, encoding="utf-8")
    assert missed == 0
    seen(
        "a number of committed evidence edited, its checksum computed anew",
        tries,
        "`verify` fails and names the record",
        missed,
    )


def test_damaged_small_files(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    timings, damages = tmp_path / "timings.json", [b"", b"[", b"\xff\xfe", b"[]", b'{"a": "b"}', b"[" * 100_000]
    for damage in damages:
        timings.write_bytes(damage)
        assert runner._known_seconds(timings) == {}
        timings.write_bytes(damage[:1] or b"{")
        with pytest.raises(store.DamagedRecord, match="is damaged.*restore"):
            store.read_json(timings)
    seen("damaged times of earlier runs, from which the time left is estimated", len(damages), "no estimate, no error")
