"""Verdicts follow from the numbers in claims.toml, and their texts are made of the same numbers."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from support import HERE

from yolop.paper import claims
from yolop.report.scores import Estimate, Ratio
from yolop.specs import SpecError

CLAIMS = claims.load()
PUBLISHED = {
    name: json.loads((HERE / "reports" / name / "claims.json").read_text()) for name in ("bccd", "digits", "coco128")
}


@pytest.mark.parametrize(
    ("name", "low", "high", "verdict"),
    [
        ("p-best-beats-n", 1, 2, "holds"),
        ("p-best-beats-n", -2, -1, "does not hold"),
        ("p-best-beats-n", -1, 1, "undecided"),
        ("p-best-beats-n", 0, 0, "does not hold"),  # no difference is not a difference
        ("p-less-accurate-than-n", -2, -1, "holds"),
        ("p-less-accurate-than-n", 1, 2, "does not hold"),
        ("pretraining-gain-in-points", 4.6, 7.4, "holds"),
        ("pretraining-gain-in-points", 4.4, 7.4, "undecided"),
        ("pretraining-gain-in-points", 7.5, 9, "does not hold"),
        ("p-faster-than-n", 0.8, 0.99, "holds"),
        ("p-faster-than-n", 0.8, 1.01, "undecided"),
    ],
)
def test_verdicts(name, low, high, verdict):
    estimate = Estimate((low + high) / 2, low, high)
    assert claims.judge((name, estimate))["verdict"].tolist() == [verdict]


def test_no_change_must_be_shown():
    same = Ratio(1.0, 0.97, 1.03, equivalent=True)
    wide, off = Ratio(1.0, 0.97, 1.03), Ratio(0.9, 0.88, 0.92, high90=0.91)
    name = "pretraining-keeps-latency"
    assert [claims.verdict(CLAIMS[name], r) for r in (same, wide, off)] == ["holds", "undecided", "does not hold"]
    several = CLAIMS["pruning-gives-no-speed"]
    assert claims.verdict(several, [same, same]) == "holds" and claims.verdict(several, [same, wide]) == "undecided"
    assert claims.verdict(several, [same, off]) == "does not hold"
    slower = Ratio(1.1, 1.08, 1.12, high90=1.11)
    assert claims.verdict(several, [same, slower]) == "undecided"  # a slower one does not make pruning faster


def test_counts_and_what_was_not_run():
    assert claims.verdict(CLAIMS["layers-as-in-figure-1"], claims.Exact(True, "")) == "holds"
    assert claims.verdict(CLAIMS["upsample-concat-hold-none"], claims.Readings(0)) == "holds"
    assert claims.verdict(CLAIMS["upsample-concat-hold-none"], claims.Readings(1)) == "does not hold"
    assert claims.verdict(CLAIMS["conv-holds-most-parameters"], claims.Readings(0.38, 0.99)) == "undecided"
    assert claims.verdict(CLAIMS["conv-faster-than-focus"], claims.NotRun("no GPU")) == "not run"
    assert claims.verdict(CLAIMS["p-loss-in-percent"], Estimate(np.nan, -np.inf, np.inf)) == "undecided"


def test_mistakes_are_named():
    one = Estimate(1, 0, 2)
    with pytest.raises(SpecError, match='use "by-type-gains-3-points", or one of .*global-beats-by-type'):
        claims.judge(("by-type-gains-3-pionts", one))
    with pytest.raises(SpecError, match="each claim once"):
        claims.judge(("p-best-beats-n", one), ("p-best-beats-n", one))
    with pytest.raises(SpecError, match="an estimate with an interval"):
        claims.judge(("p-best-beats-n", 3.0))


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_threshold_says_the_numbers_that_decide(claim):
    said = [
        float(n) / (100 if "%" in claim.threshold and claim.unit == "share" else 1)
        for n in re.findall(r"\d+\.?\d*", claim.threshold)
    ]
    limits = [x for x in claim.limits if np.isfinite(x)] + [x for x in (claim.exactly, claim.at_most) if x is not None]
    assert claim.rule or (limits and all(any(abs(n - x) < 1e-9 for n in said) for x in limits)), claim.threshold
    assert claim.text.endswith(".") and claim.estimator and claim.where


def test_published_verdicts_follow_from_the_published_intervals():
    """Whatever interval a report prints gives the verdict beside it: 60 of them, so a swapped comparison is found."""
    checked = 0
    for row in (row for rows in PUBLISHED.values() for row in rows):
        claim = CLAIMS[row["id"]]
        printed = re.search(r"([+-]?\d+\.\d+) \(([+-]?\d+\.\d+) to ([+-]?\d+\.\d+)\)", row["estimate"])
        if printed and row["verdict"] != claims.NOT_RUN and claim.equivalent is None:
            value, low, high = map(float, printed.groups())
            near = min(abs(end - limit) for end in (low, high) for limit in claim.limits)
            if near > 0.051:  # else the rounding of the print decides
                checked += 1
                assert claims.verdict(claim, Estimate(value, low, high)) == row["verdict"], row
    assert checked > 25


def test_every_claim_is_judged_on_every_published_study_and_named_by_a_table():
    for name, rows in PUBLISHED.items():
        assert [row["id"] for row in rows] == list(CLAIMS)
        assert all(
            (HERE / "reports" / name / "tables" / f"{row['table']}.csv").exists() or row["verdict"] == "not run"
            for row in rows
        )
        assert not any("nan" in row["estimate"] for row in rows)


def test_the_ledger_has_every_claim_and_a_column_for_each_study():
    ledger = claims.ledger({name: pd.DataFrame(rows) for name, rows in PUBLISHED.items()}, estimates=True)
    assert len(ledger) == len(CLAIMS) and set(PUBLISHED) <= set(ledger)
    assert ledger["bccd"].str.match("holds|does not hold|undecided|not run").all()
    assert sum(claims.counts(pd.DataFrame(PUBLISHED["bccd"])).values()) == len(CLAIMS)
