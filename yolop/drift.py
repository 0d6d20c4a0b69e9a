"""A fresh run against the committed evidence, number by number: equal to the bit, or out by how much."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from yolop.specs import Study
from yolop.store import DamagedRecord, Record, Store

TIMED = ("latency", "stem", "sparse-tensors")  # kinds whose numbers are times of a machine: never equal, not compared


def drift(study: Study) -> pd.DataFrame:
    """One row per committed record: run, state, numbers compared, how many differ, and the largest difference.

    States: equal, differs, timed (not compared), not computed (no fresh record of the same id: another data set,
    version or setting gives another id).
    """
    store = Store(study.name, compute=True)
    rows = []
    for path in sorted(store.committed.glob("*.json")):
        committed, fresh = _read(path.read_text(encoding="utf-8")), store.runs / path.stem / "record.json"
        fresh = _read(fresh.read_text(encoding="utf-8")) if fresh.exists() else None
        row = {"run": path.stem, "state": "not computed", "numbers": 0, "different": 0, "largest_difference": 0.0}
        if committed and committed.spec["kind"] in TIMED:
            row["state"] = "timed" if fresh else "not computed"
        elif committed and fresh:
            ours, theirs = dict(_numbers(committed.metrics)), dict(_numbers(fresh.metrics))
            apart = [
                abs(ours[k] - theirs[k]) if k in ours and k in theirs else float("inf") for k in ours.keys() | theirs
            ]
            different = sum(d > 0 for d in apart)
            row |= {"numbers": len(apart), "different": different, "largest_difference": max(apart, default=0.0)}
            row["state"] = "differs" if different else "equal"
        rows.append(row)
    return pd.DataFrame(rows, columns=["run", "state", "numbers", "different", "largest_difference"])


def summary(table: pd.DataFrame) -> str:
    """The drift report in one sentence."""
    if table.empty:
        return "no committed evidence to compare with"
    counts = table["state"].value_counts()
    text = ", ".join(
        f"{counts[state]} {state}" for state in ("equal", "differs", "timed", "not computed") if state in counts
    )
    worst = table["largest_difference"].max()
    return f"against the committed evidence, {len(table)} records: {text}" + (
        f"; at most {worst:.3g} apart" if worst else ""
    )


def _read(text: str) -> Record | None:
    try:
        return Record.from_json(text)
    except DamagedRecord:
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
