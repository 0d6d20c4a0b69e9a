"""Verdicts on the paper's sentences: each claim of claims.toml is judged by an estimate that the reader has just seen.

A verdict is one of: holds, holds by construction, does not hold, undecided (with the reason), not run.
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
BUILT_IN = "holds by construction"
ABOUT = 2**0.5  # "about a" means nearer to a than to its half or its double: from a / ABOUT to a * ABOUT
LEVEL = 0.05  # of Holm's correction


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
    trainings: bool = False  # compares different trainings, so the luck of one training cannot decide it
    construction: str = ""  # why it cannot fail here; such a claim is not counted with those that could have failed
    repeats: str = ""  # the claim that this one reads in another unit; it is not counted again

    @property
    def by_rule(self) -> bool:
        """Whether the claim is decided by counts (Exact) and not by an interval."""
        return bool(self.rule) or self.at_most is not None

    @property
    def limits(self) -> tuple[float, float]:
        """What the whole interval of the estimate must lie between."""
        if self.about is not None:
            return self.about / ABOUT, self.about * ABOUT
        if self.equivalent is not None:
            return 1 - self.equivalent, 1 + self.equivalent
        return self.above, self.below

    @property
    def directional(self) -> bool:
        """Whether the claim says that one accuracy is higher than another; Holm's correction is over these."""
        return self.unit == "points" and self.about is None and not self.repeats

    @property
    def threshold(self) -> str:
        """When the claim holds, in words made of its numbers."""
        low, high = self.limits
        if self.exactly is not None:
            text = f"exactly {self.exactly} {self.quantity}".rstrip()
        elif self.at_most is not None:
            text = f"at most {self.at_most:g}"
        elif self.about is not None:
            text = f"about {self.about:g} {self.unit}: {low:.1f} to {high:.1f}{' %' * (self.unit == '%')}"
        elif self.equivalent is not None:
            text = f"no change: ratio within {low:g} to {high:g}"
        else:
            word, limit = ("above", low) if np.isfinite(low) else ("below", high)
            number = f"{100 * limit:g} %" if self.unit == "share" else f"{limit:g}"
            text = self.rule or f"{self.quantity or {'points': 'difference'}.get(self.unit, self.unit)} {word} {number}"
        return f"{text}; {self.note}" if self.note else text


@dataclass(frozen=True)
class Exact:
    """What was counted, so that no interval is needed: whether the claim holds, and the counts. None, with a `doubt`: undecided."""

    holds: bool | None
    text: str
    doubt: str = ""


@dataclass(frozen=True)
class Count:
    """An exact number."""

    value: float

    @property
    def low(self) -> float:
        """The number itself, as is `high`."""
        return self.value

    high = low


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
    """A row per claim: id, claim, where, estimator, estimate, threshold, verdict, p_value, table.

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
        claim, shown = known[name], text[0] if text else in_words(estimate)
        row = blank(claim) | {"estimate": shown, "verdict": verdict(claim, estimate)}
        if claim.directional and hasattr(estimate, "p_value") and not row["verdict"].startswith(f"{OPEN}:"):
            limit = claim.above if np.isfinite(claim.above) else claim.below
            row["p_value"] = round(estimate.p_value(limit), 6)
        rows[name] = row
    verdicts = pd.DataFrame(list(rows.values()))
    verdicts.attrs["verdicts"] = True
    return verdicts


def in_words(estimate: Any) -> str:
    """An estimate with its unit; what was counted, or why nothing was run."""
    if isinstance(estimate, (Exact, NotRun)):
        return estimate.text
    if not np.isfinite(getattr(estimate, "value", 0)):
        return "not defined: the mAP50 to compare with is 0"
    forms = {"points": "{} points of mAP50", "%": "{} % of mAP50", "ratio": "time ratio {}"}
    return forms.get(getattr(estimate, "unit", ""), "{}").format(estimate)


def blank(claim: Claim) -> dict:
    """The row of a claim that nothing has judged yet."""
    row = {"id": claim.id, "claim": claim.text, "where": claim.where, "estimator": claim.estimator}
    return row | {"estimate": "", "threshold": claim.threshold, "verdict": NOT_RUN, "p_value": np.nan, "table": claim.table}


def verdict(claim: Claim, estimate: Any) -> str:
    """The verdict on one claim by its limits: all of the interval inside holds, all outside does not, else undecided."""
    if isinstance(estimate, NotRun):
        return NOT_RUN
    _require_kind(claim, estimate)
    several = list(estimate) if isinstance(estimate, (list, tuple)) else [estimate]
    alone = claim.trainings and any(getattr(one, "seeds", 0) == 1 for one in several)
    if doubt := next((one.doubt for one in several if getattr(one, "doubt", "")), "one training seed" * alone):
        return f"{OPEN}: {doubt}"
    found = _decided(claim, several)
    return BUILT_IN if found == HOLDS and claim.construction else found


def _decided(claim: Claim, several: list) -> str:
    low, high = claim.limits
    if isinstance(several[0], Exact):
        return HOLDS if several[0].holds else FAILS
    if len(several) > 1:  # "no change" of several: nothing but a gain in speed refutes it
        faster = any(ratio.high < low for ratio in several)
        return FAILS if faster else HOLDS if all(ratio.equivalent for ratio in several) else OPEN
    (estimate,) = several
    if claim.exactly is not None:
        return HOLDS if estimate.low == estimate.high == claim.exactly else FAILS
    inside = low < estimate.low and estimate.high < high if claim.equivalent is None else estimate.equivalent
    return HOLDS if inside else FAILS if estimate.high <= low or high <= estimate.low else OPEN


def _require_kind(claim: Claim, estimate: Any) -> None:
    """SpecError unless the estimate is of the kind and in the unit that the threshold of the claim asks for."""
    name = f"estimate of {claim.id}"
    if claim.by_rule:
        return require(isinstance(estimate, Exact), name, estimate, "Exact(holds, text): counts decide this claim")
    numbers = ["value", "low", "high"] + ["equivalent"] * (claim.equivalent is not None)
    several = list(estimate) if claim.equivalent and isinstance(estimate, (list, tuple)) else [estimate]
    fits = [all(hasattr(one, number) for number in numbers) for one in several]
    require(bool(fits) and all(fits), name, estimate, "an estimate with an interval: a Score minus a Score, a Ratio")
    for unit in {getattr(one, "unit", claim.unit) for one in several}:
        require(unit == claim.unit, f"unit of the {name}", unit, f'"{claim.unit}", as in "{claim.threshold}"')


def counts(verdicts: pd.DataFrame) -> dict[str, int]:
    """How many claims that could have failed hold, do not, are undecided, and were not run, in this order, each counted once."""
    counted = [name for name, claim in load().items() if not claim.construction and not claim.repeats]
    own = verdicts.loc[verdicts["id"].isin(counted), "verdict"]
    return {word: int(own.str.match(rf"{word}(:|$)").sum()) for word in (HOLDS, FAILS, OPEN, NOT_RUN)}


def holm(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The verdicts with a column `after_holm`: whether a difference of accuracy is still told from its limit.

    Many comparisons find some differences by luck. Holm's correction over all directional claims of a study bounds the
    chance of even one such mistake by 5 %. Empty for claims that are decided otherwise.
    """
    ordered, stands, answers = verdicts["p_value"].dropna().sort_values(), True, {}
    for rank, (row, p_value) in enumerate(ordered.items()):
        stands = stands and p_value <= LEVEL / (len(ordered) - rank)
        answers[row] = "different" if stands else "not told apart"
    return verdicts.assign(after_holm=pd.Series(answers, dtype=object).reindex(verdicts.index).fillna(""))


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
