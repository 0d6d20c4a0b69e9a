"""Verdicts on the paper's sentences: each claim of claims.toml is judged by an estimate that the reader has just seen.

A verdict is one of: holds, does not hold, undecided (the interval reaches across the threshold), not run.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from yolop.specs import require, require_known

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
    quantity: str = ""  # what the limits are for, in the text of the threshold
    above: float = -np.inf
    below: float = np.inf
    about: float | None = None
    equivalent: float | None = None
    exactly: int | None = None
    at_most: float | None = None
    rule: str = ""
    note: str = ""

    @property
    def counted(self) -> bool:
        """Whether the claim is decided by counts (Exact) and not by an interval."""
        return bool(self.rule) or self.at_most is not None

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
        if self.exactly is not None:
            text = f"exactly {self.exactly} {self.quantity}".rstrip()
        elif self.at_most is not None:
            text = f"at most {self.at_most:g}"
        elif self.about is not None:
            text = f"about {self.about:g} {self.unit}: {low:g} to {high:g}{' %' * (self.unit == '%')}"
        elif self.equivalent is not None:
            text = f"equivalent: ratio within {low:g} to {high:g}, two one-sided tests"
        else:
            word, limit = ("above", low) if np.isfinite(low) else ("below", high)
            number = f"{100 * limit:g} %" if self.unit == "share" else f"{limit:g}"
            text = self.rule or f"{self.quantity or {'points': 'difference'}.get(self.unit, self.unit)} {word} {number}"
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class Exact:
    """What was counted, so that no interval is needed: whether the claim holds, None if readings differ, and the counts."""

    holds: bool | None
    text: str


@dataclass(frozen=True)
class Readings:
    """An exact value under two readings of a sentence, as an interval that holds both; one value where they agree."""

    value: float  # the lower one
    other: float | None = None

    @property
    def low(self) -> float:
        """The value under the first reading."""
        return self.value

    @property
    def high(self) -> float:
        """The value under the other reading."""
        return self.value if self.other is None else self.other


@dataclass(frozen=True)
class NotRun:
    """Why a claim was not tested here, or what was measured in its place."""

    text: str


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
        SpecError: an unknown id, an id given twice, or an estimate of another kind or unit than the claim's threshold.
    """
    known, rows = load(), {}
    for name, estimate, *text in pairs:
        require_known("claim", name, known)
        require(name not in rows, "claim", name, "each claim once")
        shown = text[0] if text else in_words(estimate)
        rows[name] = blank(known[name]) | {"estimate": shown, "verdict": verdict(known[name], estimate)}
    verdicts = pd.DataFrame(list(rows.values()))
    verdicts.attrs["verdicts"] = True
    return verdicts


def in_words(estimate: Any) -> str:
    """An estimate with its unit; what was counted, or why nothing was run."""
    if isinstance(estimate, (Exact, NotRun)):
        return estimate.text
    if not np.isfinite(getattr(estimate, "value", 0)):
        return "not defined: the mAP50 to compare with is 0 on some samples of the images"
    forms = {"points": "{} points of mAP50", "%": "{} % of mAP50", "ratio": "time ratio {}"}
    return forms.get(getattr(estimate, "unit", ""), "{}").format(estimate)


def blank(claim: Claim) -> dict:
    """The row of a claim that nothing has judged yet."""
    row = {"id": claim.id, "claim": claim.text, "where": claim.where, "estimator": claim.estimator}
    return row | {"estimate": "", "threshold": claim.threshold, "verdict": NOT_RUN, "table": claim.table}


def verdict(claim: Claim, estimate: Any) -> str:
    """The verdict on one claim by its limits: all of the interval inside holds, all outside does not, else undecided."""
    if isinstance(estimate, NotRun):
        return NOT_RUN
    _require_kind(claim, estimate)
    if isinstance(estimate, Exact):
        return {True: HOLDS, False: FAILS, None: OPEN}[estimate.holds]
    low, high = claim.limits
    if isinstance(estimate, (list, tuple)):  # "no change" of several: nothing but a gain in speed refutes it
        faster = any(ratio.high90 < low for ratio in estimate)
        return FAILS if faster else HOLDS if all(ratio.equivalent for ratio in estimate) else OPEN
    if not np.isfinite(estimate.value):
        return OPEN
    if claim.exactly is not None:
        return HOLDS if estimate.low == estimate.high == claim.exactly else FAILS
    inside = low < estimate.low and estimate.high < high if claim.equivalent is None else estimate.equivalent
    return HOLDS if inside else FAILS if estimate.high <= low or high <= estimate.low else OPEN


def _require_kind(claim: Claim, estimate: Any) -> None:
    """SpecError unless the estimate is of the kind and in the unit that the threshold of the claim asks for."""
    name = f"estimate of {claim.id}"
    if claim.counted:
        return require(isinstance(estimate, Exact), name, estimate, "Exact(holds, text): counts decide this claim")
    numbers = ["value", "low", "high"] + ["equivalent", "high90"] * (claim.equivalent is not None)
    several = list(estimate) if claim.equivalent and isinstance(estimate, (list, tuple)) else [estimate]
    fits = [all(hasattr(one, number) for number in numbers) for one in several]
    require(bool(fits) and all(fits), name, estimate, "an estimate with an interval: a Score minus a Score, a Ratio")
    for unit in {getattr(one, "unit", claim.unit) for one in several}:
        require(unit == claim.unit, f"unit of the {name}", unit, f'"{claim.unit}", as in "{claim.threshold}"')


def counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How many claims hold, do not, are undecided, and were not run, in this order."""
    return {word: int((verdicts["verdict"] == word).sum()) for word in (HOLDS, FAILS, OPEN, NOT_RUN)}


def ledger(by_study: dict[str, pd.DataFrame | list[dict]], estimates: bool = False) -> pd.DataFrame:
    """One row per claim with its verdict on every study; with `estimates` also how it is estimated, and each estimate."""
    table = pd.DataFrame([blank(claim) for claim in load().values()])
    columns = ["claim", "where", "estimator", "threshold"] if estimates else ["claim", "where"]
    ledger = table.set_index("id")[columns]
    for name, verdicts in by_study.items():
        own = pd.DataFrame(verdicts, columns=table.columns).set_index("id").reindex(ledger.index)
        own = own.fillna({"verdict": NOT_RUN, "estimate": ""})
        ledger[name] = own["verdict"] + ": " + own["estimate"] if estimates else own["verdict"]
    return ledger.reset_index(drop=True)
