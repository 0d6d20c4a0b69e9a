"""Verdicts on the paper's sentences: each claim of claims.toml is judged by an estimate that the reader has just seen.

A verdict is one of: holds, does not hold, undecided (the interval reaches across the threshold), not run.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from yolop.specs import require

HOLDS, FAILS, OPEN, NOT_RUN = "holds", "does not hold", "undecided", "not run"
ABOUT = 0.25  # "about a" means from 0.75 a to 1.25 a


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper that can be checked, and the numbers that decide it; see the head of claims.toml."""

    id: str
    where: str
    text: str
    estimator: str
    table: str
    unit: str = ""  # points | % | ratio | share | count
    above: float = -np.inf
    below: float = np.inf
    about: float | None = None
    equivalent: float | None = None
    exactly: int | None = None
    at_most: float | None = None
    rule: str = ""
    note: str = ""

    @property
    def limits(self) -> tuple[float, float]:
        """What the whole interval of the estimate must lie between."""
        if self.about is not None:
            return (1 - ABOUT) * self.about, (1 + ABOUT) * self.about
        if self.equivalent is not None:
            return 1 - self.equivalent, 1 + self.equivalent
        return self.above, self.below

    @property
    def threshold(self) -> str:
        """When the claim holds, in words made of its numbers."""
        low, high = self.limits
        per_cent = " %" if self.unit == "%" else ""
        if self.rule:
            text = self.rule
        elif self.exactly is not None:
            text = f"exactly {self.exactly}"
        elif self.at_most is not None:
            text = f"at most {self.at_most:g}"
        elif self.about is not None:
            text = f"about {self.about:g} {self.unit}: {low:g} to {high:g}{per_cent}"
        elif self.equivalent is not None:
            text = f"equivalent: ratio within {low:g} to {high:g}, two one-sided tests"
        else:
            quantity = {"points": "difference", "%": "difference in %"}.get(self.unit, self.unit)
            form = "{:.0%}" if self.unit == "share" else "{:g}"
            text = f"{quantity} " + ("above " + form.format(low) if low > -np.inf else "below " + form.format(high))
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class Exact:
    """What was counted, so that no interval is needed: whether the claim holds, None if readings differ, and the counts."""

    holds: bool | None
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Readings:
    """An exact value under two readings of a sentence, as an interval that holds both; one value where they agree."""

    value: float
    high: float | None = None

    @property
    def low(self) -> float:
        """The value under the first reading."""
        return self.value

    def __post_init__(self):
        object.__setattr__(self, "high", self.value if self.high is None else self.high)


@dataclass(frozen=True)
class NotRun:
    """Why a claim was not tested here, or what was measured in its place."""

    text: str

    def __str__(self) -> str:
        return self.text


@cache
def load() -> dict[str, Claim]:
    """All claims by id, in the order of the paper."""
    rows = tomllib.loads((files("yolop.paper") / "claims.toml").read_text(encoding="utf-8"))["claim"]
    return {row["id"]: Claim(**row) for row in rows}


def judge(*pairs: tuple) -> pd.DataFrame:
    """A row per claim: id, claim, where, estimator, estimate, threshold, verdict, table.

    Args:
        pairs: (id, estimate) or (id, estimate, text), which is shown instead of `str(estimate)`. An estimate has `value`,
            `low` and `high` (`scores.Estimate`), or is Exact or NotRun; "no change" takes a list of ratios too.

    Raises:
        SpecError: an unknown id, an id given twice, or an estimate without an interval.
    """
    known, rows = load(), {}
    for name, estimate, *text in pairs:
        close = difflib.get_close_matches(str(name), known, 1)
        require(name in known, "claim", name, (f'"{close[0]}", or ' if close else "") + "one of " + ", ".join(known))
        require(name not in rows, "claim", name, "each claim once")
        shown = text[0] if text else in_words(estimate)
        rows[name] = blank(known[name]) | {"estimate": shown, "verdict": verdict(known[name], estimate)}
    verdicts = pd.DataFrame(list(rows.values()))
    verdicts.attrs["verdicts"] = True
    return verdicts


def in_words(estimate: Any) -> str:
    """An estimate with its unit."""
    before, after = {"points": ("", " points of mAP50"), "%": ("", " % of mAP50"), "ratio": ("time ratio ", "")}.get(
        getattr(estimate, "unit", ""), ("", "")
    )
    return f"{before}{estimate}{after}"


def blank(claim: Claim) -> dict:
    """The row of a claim that nothing has judged yet."""
    row = {"id": claim.id, "claim": claim.text, "where": claim.where, "estimator": claim.estimator}
    return row | {"estimate": "", "threshold": claim.threshold, "verdict": NOT_RUN, "table": claim.table}


def verdict(claim: Claim, estimate: Any) -> str:
    """The verdict on one claim by its limits: all of the interval inside holds, all outside does not, else undecided."""
    if isinstance(estimate, NotRun):
        return NOT_RUN
    if isinstance(estimate, Exact):
        return {True: HOLDS, False: FAILS, None: OPEN}[estimate.holds]
    low, high = claim.limits
    if isinstance(estimate, (list, tuple)) and estimate:  # "no change" of several; nothing but a gain in speed refutes it
        if any(ratio.high90 < low for ratio in estimate):
            return FAILS
        return HOLDS if all(ratio.equivalent for ratio in estimate) else OPEN
    has_interval = all(hasattr(estimate, name) for name in ("value", "low", "high"))
    require(has_interval, f"estimate of {claim.id}", estimate, "an estimate with an interval: a Score minus a Score, a Ratio")
    if not np.isfinite(estimate.value):
        return OPEN
    if claim.exactly is not None:
        return HOLDS if estimate.low == estimate.high == claim.exactly else FAILS
    if claim.equivalent is not None:
        outside = estimate.high <= low or high <= estimate.low
        return HOLDS if estimate.equivalent else FAILS if outside else OPEN
    if low < estimate.low and estimate.high < high:
        return HOLDS
    return FAILS if estimate.high <= low or high <= estimate.low else OPEN


def counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How many claims hold, do not, are undecided, and were not run, in this order."""
    return {word: int((verdicts["verdict"] == word).sum()) for word in (HOLDS, FAILS, OPEN, NOT_RUN)}


def ledger(by_study: dict[str, pd.DataFrame], estimates: bool = False) -> pd.DataFrame:
    """One row per claim with its verdict on every study; with `estimates` also how it is estimated, and each estimate."""
    table = pd.DataFrame([blank(claim) for claim in load().values()])
    columns = ["claim", "where", "estimator", "threshold"] if estimates else ["claim", "where"]
    ledger = table.set_index("id")[columns]
    for name, verdicts in by_study.items():
        own = verdicts.set_index("id").reindex(ledger.index).fillna({"verdict": NOT_RUN, "estimate": ""})
        ledger[name] = own["verdict"] + ": " + own["estimate"] if estimates else own["verdict"]
    return ledger.reset_index(drop=True)
