"""A fresh run against the committed evidence, number by number: equal to the bit, within noise, or out."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd

from yolop import files, store
from yolop.files import DamagedRecord
from yolop.report.opened import OpenStudy
from yolop.run.status import graph_of
from yolop.store import Record
from yolop.study.plan import all_nodes

# Kinds whose numbers are times of a machine: only ratios are compared.
TIMED = ("latency", "stem", "sparse-tensors", "atlas", "configuration-times", "narrowing-times")
SCORES = ("mAP50", "mAP50_95", "precision", "recall", "AP50", "AP50_95")
# They follow from weights, which differ between machines and numbers of threads, or are that number: no verdict on them.
LOOSE = {"threads", "curve", "best_epoch", "weights_sha256", "boxes", "max_difference", "compressed_mb"}
LOOSE |= {f"{score}_resampled" for score in SCORES[:2]}
STATES = ("equal", "within noise", "out", "not computed")
COLUMNS = ["run", "state", "numbers", "different", "out", "largest_difference"]


def drift(opened: OpenStudy) -> pd.DataFrame:
    """One row per committed record of a study: run, state, numbers compared, how many differ, are out, and the largest difference.

    States: "equal" to the bit; "within noise": scores differ by less than chance would make two test sets of this size differ (a
    95 % interval of the bootstrap over images, for a difference), ratios of times have intervals that overlap; "out"; "not
    computed" (no fresh record of the same id: another data set, version or setting gives another id).
    """
    graph = graph_of(opened, ("committed",))
    nodes = all_nodes(graph) if graph else []
    pairs = {node.id: (_read(store.read_committed, node.id), _read(store.read_computed, node.id)) for node in nodes}
    noise, rows = _noise([ours for ours, _ in pairs.values() if ours]), []
    for run_id, (ours, theirs) in pairs.items():
        if ours and theirs:
            compare = _compare_ratios if ours.spec["kind"] in TIMED else _compare_numbers
            rows.append([run_id, *compare(places(ours.metrics), places(theirs.metrics), noise)])
        elif ours:
            rows.append([run_id, "not computed", 0, 0, 0, 0.0])
    return pd.DataFrame(rows, columns=COLUMNS)


def _read(read, run_id: str) -> Record | None:
    with suppress(DamagedRecord):
        return read(files.ROOT, run_id)


def _noise(records: list[Record]) -> float:
    """How far two measurements of one mAP50 on test images like these may lie apart by chance."""
    tested = [record.metrics["test"] for record in records if record.spec["kind"] == "train"]
    spreads = [np.std(test["mAP50_resampled"]) for test in tested if "mAP50_resampled" in test]
    return 1.96 * 2**0.5 * float(np.median(spreads)) if spreads else 0.0


def places(metrics: dict) -> pd.Series:
    """Every value in nested dicts and lists, by its place, such as "test/mAP50" or "rows/3/sparsity"."""
    values = pd.json_normalize(metrics, sep="/").squeeze(axis=0)
    inside = [
        places(dict(zip(map(str, range(len(items))), items, strict=True))).add_prefix(f"{place}/")
        for place, items in values.items()
        if isinstance(items, list)
    ]
    return pd.concat([values[[not isinstance(value, list) for value in values]], *inside])


def _compare_numbers(ours: pd.Series, theirs: pd.Series, noise: float) -> list:
    """Number by number: scores may differ by noise, what follows from weights by anything, the rest by nothing."""
    ours, theirs = ours.align(theirs)
    apart = (pd.to_numeric(ours, errors="coerce") - pd.to_numeric(theirs, errors="coerce")).abs()
    apart = apart.mask((ours == theirs) | (ours.isna() & theirs.isna()), 0.0).fillna(np.inf)  # text, or there once only
    parts = [place.split("/") for place in apart.index]
    scores = [part[-1] in SCORES or part[-1].endswith("_lost") for part in parts]
    allowed = [np.inf if LOOSE & set(part) else noise * score for part, score in zip(parts, scores, strict=True)]
    return _row(apart, apart > allowed)


def _compare_ratios(ours: pd.Series, theirs: pd.Series, noise: float) -> list:
    """Ratios of times, row by row, by their intervals; milliseconds are the machine's own."""
    rows = [place.removesuffix("_low") for place in ours.index if place.endswith("ratio_low") and place in theirs.index]
    low, high = (np.array([[some[row + end] for row in rows] for some in (ours, theirs)]) for end in ("_low", "_high"))
    apart = pd.Series([abs(ours[row] - theirs[row]) for row in rows], dtype=float)
    return _row(apart, pd.Series(high.min(axis=0) < low.max(axis=0)))


def _row(apart: pd.Series, out: pd.Series) -> list:
    state = "out" if out.any() else "within noise" if (apart > 0).any() else "equal"
    return [state, len(apart), int((apart > 0).sum()), int(out.sum()), float(apart.max()) if len(apart) else 0.0]


def summary(table: pd.DataFrame) -> str:
    """The drift report in one sentence."""
    if table.empty:
        return "no committed evidence to compare with"
    counts = table["state"].value_counts()
    text = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
    numbers, different, out = table[["numbers", "different", "out"]].sum()
    return (
        f"against the committed evidence, {len(table)} records: {text}; of {numbers:,} numbers {numbers - different:,} equal "
        f"to the bit, {out} out"
    )
