"""A fresh run against the committed evidence, number by number: equal to the bit, within noise, or out."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from yolop.specs import Study
from yolop.store import DamagedRecord, Record, Store

TIMED = (
    "latency",
    "stem",
    "sparse-tensors",
    "atlas",
    "road-times",
    "narrowing-times",
)  # kinds whose numbers are times of a machine: only ratios are compared
SCORES = ("mAP50", "mAP50_95", "precision", "recall", "AP50", "AP50_95")
# Follow from weights, which differ between machines: no verdict on them.
LOOSE = (
    "curve",
    "best_epoch",
    "weights_sha256",
    "mAP50_resampled",
    "mAP50_95_resampled",
    "boxes",
    "max_difference",
    "compressed_mb",
)
STATES = ("equal", "within noise", "out", "not computed")


def drift(study: Study) -> pd.DataFrame:
    """One row per committed record: run, state, numbers compared, how many differ, are out, and the largest difference.

    States: "equal" to the bit; "within noise": scores differ by less than chance would make two test sets of this size
    differ (a 95 % interval of the bootstrap over images, for a difference), ratios of times have intervals that overlap;
    "out"; "not computed" (no fresh record of the same id: another data set, version or setting gives another id).
    """
    store = Store(study.name, compute=True)
    committed = {path.stem: _read(path) for path in sorted(store.committed.glob("*.json"))}
    noise = _noise(committed)
    rows = []
    for run, ours in committed.items():
        path = store.runs / run / "record.json"
        theirs = _read(path) if path.exists() else None
        row = {"run": run, "state": "not computed", "numbers": 0, "different": 0, "out": 0, "largest_difference": 0.0}
        if ours and theirs:
            timed = ours.spec["kind"] in TIMED
            row |= _timed(ours.metrics, theirs.metrics) if timed else _apart(ours.metrics, theirs.metrics, noise)
        rows.append(row)
    return pd.DataFrame(rows, columns=["run", "state", "numbers", "different", "out", "largest_difference"])


def _noise(committed: dict[str, Record | None]) -> float:
    """How far two measurements of one mAP50 on test images like these may lie apart by chance."""
    spreads = [
        np.std(record.metrics["test"]["mAP50_resampled"])
        for record in committed.values()
        if record and record.spec["kind"] == "train" and "mAP50_resampled" in record.metrics["test"]
    ]
    return 1.96 * 2**0.5 * float(np.median(spreads)) if spreads else 0.0


def _apart(ours: dict, theirs: dict, noise: float) -> dict:
    """Compared number by number: scores may differ by noise, what follows from weights by anything, the rest by nothing."""
    a, b = dict(_numbers(ours)), dict(_numbers(theirs))
    apart = {k: abs(a[k] - b[k]) if k in a and k in b else float("inf") for k in a.keys() | b}
    strict = {k: d for k, d in apart.items() if not set(LOOSE) & set(map(str, k))}
    out = sum(d > (noise if k[-1] in SCORES or str(k[-1]).endswith("_lost") else 0) for k, d in strict.items())
    return _row(len(apart), sum(d > 0 for d in apart.values()), out, max(apart.values(), default=0.0))


def _timed(ours: dict, theirs: dict) -> dict:
    """Ratios of times, compared by their intervals; milliseconds are the machine's own."""
    pairs = [(a, b) for a, b in zip(_rows(ours), _rows(theirs), strict=False) if a.get("label") == b.get("label")]
    out = sum(a["ratio_high"] < b["ratio_low"] or b["ratio_high"] < a["ratio_low"] for a, b in pairs)
    apart = [abs(a["ratio"] - b["ratio"]) for a, b in pairs]
    return _row(len(pairs), sum(d > 0 for d in apart), out, max(apart, default=0.0))


def _row(numbers: int, different: int, out: int, largest: float) -> dict:
    state = "out" if out else "within noise" if different else "equal"
    return {"state": state, "numbers": numbers, "different": different, "out": out, "largest_difference": largest}


def _rows(value) -> Iterator[dict]:
    """Every dict with a ratio in nested lists and dicts."""
    if isinstance(value, dict) and "ratio_low" in value:
        yield value
    elif isinstance(value, (dict, list)):
        for _, item in sorted(value.items()) if isinstance(value, dict) else enumerate(value):
            yield from _rows(item)


def summary(table: pd.DataFrame) -> str:
    """The drift report in one sentence."""
    if table.empty:
        return "no committed evidence to compare with"
    counts = table["state"].value_counts()
    text = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
    numbers, different, out = (int(table[name].sum()) for name in ("numbers", "different", "out"))
    return (
        f"against the committed evidence, {len(table)} records: {text}; of {numbers:,} numbers {numbers - different:,} equal "
        f"to the bit, {out} out"
    )


def _read(path) -> Record | None:
    try:
        return Record.read(path)
    except (DamagedRecord, UnicodeDecodeError):
        return None


def _numbers(value, path: tuple = ()) -> Iterator[tuple[tuple, float]]:
    """Every number in nested lists and dicts, with its place; text counts by its content."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _numbers(item, (*path, i))
    elif isinstance(value, (int, float)) and value is not None:
        yield path, float(value)
    else:
        yield (*path, json.dumps(value)), 0.0
