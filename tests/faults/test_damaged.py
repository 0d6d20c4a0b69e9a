"""Damaged and edited evidence: found on read, set aside, named, computed again; `verify` tells what an edit has changed."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path

import pytest
from support import CENSUS

from yolop import files, store
from yolop.__main__ import main
from yolop.run import estimate
from yolop.specs import run_id
from yolop.store import Record, get_or_run

ROOT = files.ROOT


def compute(spec, parents, folder: Path) -> dict:
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4)
    return {"params": 7, "rows": [{"x": 0.1, "label": "é"}] * 5}


def test_any_flipped_or_missing_byte_is_found_and_computed_again(tmp_path, monkeypatch, seen):
    monkeypatch.setitem(store.COMPUTE, "census", f"{__name__}:compute")
    expected = get_or_run(tmp_path, CENSUS, {})
    draw, tries, lost = random.Random(0), 400, 0
    for _ in range(tries):
        path = expected.folder / draw.choice(["record.json", "weights.bin"])
        whole = path.read_bytes()
        place = draw.randrange(len(whole) - 1)  # without its last newline a record says what it said
        flipped = whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
        path.write_bytes(draw.choice([flipped, whole[:place], b"", whole + b"x"]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            record = get_or_run(tmp_path, CENSUS, {})
        lost += (record.metrics, record.files) != (expected.metrics, expected.files)
        assert any(expected.run_id in str(item.message) for item in caught)
    assert lost == 0
    seen("a byte of a record or its weights flipped, cut or added", tries, "named, set aside, computed again", lost)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A copy of all that is published, and of the notebooks that it comes from."""
    for part in ("data/records", "reports", "notebooks"):
        shutil.copytree(ROOT / part, tmp_path / part)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setenv("YOLOP_ROOT", str(tmp_path))
    return "coco128"


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
    used = files.read_json(files.ROOT / "reports" / published / "manifest.json")["records"]
    for name in draw.sample(sorted(used), tries):
        path = store.committed_path(files.ROOT, name)
        text = path.read_text(encoding="utf-8")
        record = Record.from_json(text)
        part, key = draw.choice(numbers(record.metrics, []))
        part[key] += 1
        path.write_text(record.to_json(), encoding="utf-8")  # with a checksum that is right again
        missed += main(["verify", published]) == 0
        said = "".join(capsys.readouterr())
        assert name in said or "failed at" in said  # the manifest names it, where no notebook stumbles over the number
        path.write_text(text, encoding="utf-8")
    assert missed == 0
    seen("a number of committed evidence edited, its checksum computed anew", tries, "`verify` fails and names the record", missed)


def test_damaged_evidence_gives_no_estimate_but_no_error(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    path, damages = store.committed_path(tmp_path, run_id(CENSUS)), [b"", b"[", b"\xff\xfe", b"[]", b'{"a": "b"}', b"[" * 100_000]
    path.parent.mkdir(parents=True)
    for damage in damages:
        path.write_bytes(damage)
        estimate.committed.cache_clear()
        assert estimate.committed(tmp_path) == {}
        with pytest.raises(store.DamagedRecord, match="is damaged.*restore"):
            store.read_committed(tmp_path, path.stem)
    seen("damaged records, from which the time left is estimated", len(damages), "no estimate, no error")
