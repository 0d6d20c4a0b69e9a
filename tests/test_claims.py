"""Verdicts follow from the numbers in claims.toml, and their texts are made of the same numbers."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support import HERE

from yolop.paper import audit, claims
from yolop.report.scores import Estimate, Ratio
from yolop.specs import SpecError

CLAIMS = claims.load()
REPORTS = {name: HERE / "reports" / name for name in ("bccd", "digits", "coco128")}
PUBLISHED = {name: json.loads((folder / "claims.json").read_text()) for name, folder in REPORTS.items()}


@pytest.mark.parametrize(
    ("name", "low", "high", "verdict"),
    [
        ("p-best-beats-n", 1, 2, "holds"),
        ("p-best-beats-n", -2, -1, "does not hold"),
        ("p-best-beats-n", -1, 1, "undecided"),
        ("p-best-beats-n", 0, 0, "does not hold"),  # no difference is not a difference
        ("p-less-accurate-than-n", -2, -1, "holds"),
        ("p-less-accurate-than-n", 1, 2, "does not hold"),
        ("pretraining-gain-in-points", 4.3, 8.4, "holds"),  # nearer to 6 than to 3 or 12
        ("pretraining-gain-in-points", 4.2, 8.4, "undecided"),
        ("pretraining-gain-in-points", 8.5, 9, "does not hold"),
        ("p-faster-than-n", 0.8, 0.99, "holds by construction"),
        ("n-faster-than-s", 0.8, 0.99, "holds"),
        ("p-faster-than-n", 0.8, 1.01, "undecided"),
        ("focus-detect-hold-few", 0.049, 0.049, "holds"),
        ("focus-detect-hold-few", 0.05, 0.05, "does not hold"),
    ],
)
def test_verdicts(name, low, high, verdict):
    estimate = Estimate((low + high) / 2, low, high, CLAIMS[name].unit)
    assert claims.judge((name, estimate))["verdict"].tolist() == [verdict]


def test_no_change_must_be_shown():
    same, wide, off = Ratio(1.0, 0.981, 1.019), Ratio(1.0, 0.97, 1.03), Ratio(0.9, 0.88, 0.92)
    name = "pretraining-keeps-latency"
    assert [claims.verdict(CLAIMS[name], r) for r in (same, wide, off)] == ["holds", "undecided", "does not hold"]
    several = CLAIMS["pruning-gives-no-speed"]
    assert claims.verdict(several, [same, same]) == "holds" and claims.verdict(several, [same, wide]) == "undecided"
    assert claims.verdict(several, [same, off]) == "does not hold"
    slower = Ratio(1.1, 1.08, 1.12)
    assert claims.verdict(several, [same, slower]) == "undecided"  # a slower one does not make pruning faster


def test_counts_and_what_was_not_run():
    assert claims.verdict(CLAIMS["layers-as-in-figure-1"], claims.Exact(True, "")) == "holds by construction"
    assert claims.verdict(CLAIMS["upsample-concat-hold-none"], claims.Count(0)) == "holds by construction"
    assert claims.verdict(CLAIMS["upsample-concat-hold-none"], claims.Count(1)) == "does not hold"
    assert claims.verdict(CLAIMS["conv-holds-most-parameters"], claims.Exact(False, "")) == "does not hold"
    assert claims.verdict(CLAIMS["conv-faster-than-focus"], claims.NotRun("no GPU")) == "not run"
    nothing = claims.judge(("p-loss-in-percent", Estimate(np.nan, -np.inf, np.inf, "%"))).iloc[0]
    assert nothing["verdict"] == "undecided" and nothing["estimate"].startswith("not defined")


def test_a_doubt_leaves_a_claim_undecided_and_says_why():
    sure = Estimate(5, 4, 6, seeds=3)
    assert claims.verdict(CLAIMS["p-best-beats-n"], sure) == "holds"
    one = replace(sure, seeds=1)
    assert claims.verdict(CLAIMS["p-best-beats-n"], one) == "undecided: one training seed"
    assert claims.verdict(CLAIMS["by-type-beats-uniform"], one) == "holds"  # of one network: no luck of training in it
    for doubted in (replace(sure, doubt="too few"), replace(one, doubt="too few")):
        assert claims.verdict(CLAIMS["p-best-beats-n"], doubted) == "undecided: too few"
    sure = Estimate.of([4.0, 5.0, 6.0])
    judged = [claims.judge(("p-best-beats-n", one)).iloc[0]["p_value"] for one in (sure, replace(sure, doubt="too few"))]
    assert 0 < judged[0] < 0.05 and np.isnan(judged[1])  # a doubted one takes no part in Holm's correction
    off = Ratio(0.9, 0.88, 0.92, doubt="A/A control failed")
    assert claims.verdict(CLAIMS["pruning-gives-no-speed"], [off, off]) == "undecided: A/A control failed"
    assert claims.verdict(CLAIMS["structured-only-tiny-ratios"], claims.Exact(True, "", "not learnt")).startswith("undecided: not")


def test_claims_that_cannot_fail_or_repeat_another_are_not_counted():
    rows = pd.DataFrame([claims.blank(claim) | {"verdict": "holds"} for claim in CLAIMS.values()])
    assert sum(claims.counts(rows).values()) == len(CLAIMS) - 5 - 2
    rows.loc[rows["id"] == "p-best-beats-n", "verdict"] = "undecided: one training seed"
    assert claims.counts(rows)["undecided"] == 1 and claims.counts(rows)["holds"] == len(CLAIMS) - 8


def test_holm_is_stricter_the_more_claims_there_are():
    p_values = [0.04, 0.001, 0.02, np.nan, 0.012]
    found = claims.holm(pd.DataFrame({"p_value": p_values}))["after_holm"].tolist()
    # 0.001 < 0.05 / 4, 0.012 < 0.05 / 3, 0.02 < 0.05 / 2, 0.04 < 0.05
    assert found == ["different", "different", "different", "", "different"]
    found = claims.holm(pd.DataFrame({"p_value": [0.001, 0.03, 0.012, 0.04]}))["after_holm"].tolist()
    assert found == ["different", "not told apart", "different", "not told apart"]  # 0.03 > 0.05 / 2 stops all that follow


def test_mistakes_are_named():
    one = Estimate(1, 0, 2)
    with pytest.raises(SpecError, match='use "by-type-gains-3-points", or one of .*global-beats-by-type'):
        claims.judge(("by-type-gains-3-pionts", one))
    with pytest.raises(SpecError, match="each claim once"):
        claims.judge(("p-best-beats-n", one), ("p-best-beats-n", one))
    for wrong in (3.0, [one], claims.Exact(True, "")):  # a number alone, several, a count: no interval
        with pytest.raises(SpecError, match="an estimate with an interval"):
            claims.judge(("p-best-beats-n", wrong))
    for wrong in (one, claims.Count(0)):  # no limits to lie between: anything would hold
        with pytest.raises(SpecError, match="counts decide"):
            claims.judge(("layers-as-in-figure-1", wrong))
    for name, wrong in (("p-13-percent-faster", Ratio(0.86, 0.85, 0.87)), ("p-loss-in-percent", one)):
        with pytest.raises(SpecError, match='unit of the estimate .* use "%"'):
            claims.judge((name, wrong))
    for wrong in ([], Estimate(1, 0.99, 1.01, "ratio")):  # not tested for equivalence
        with pytest.raises(SpecError, match="a Ratio"):
            claims.judge(("pruning-gives-no-speed", wrong))


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_threshold_says_the_numbers_that_decide(claim):
    said = {round(float(n), 9) for n in re.findall(r"\d+\.?\d*", claim.threshold)}
    limits = {limit * (100 if claim.unit == "share" else 1) for limit in claim.limits if np.isfinite(limit)}
    limits = {round(limit, 1) for limit in limits} if claim.about else limits
    limits |= {float(n) for n in re.findall(r"\d+", claim.note)}
    expected = limits | {n for n in (claim.about, claim.exactly, claim.at_most) if n is not None}
    assert claim.rule or (expected and said == {round(n, 9) for n in expected})
    kinds = [getattr(claim, name) is not None for name in ("about", "equivalent", "exactly", "at_most")]
    assert sum([bool(claim.rule), claim.above > -np.inf, claim.below < np.inf, *kinds]) == 1, "one kind of threshold"
    assert claim.about is None or f"about {claim.about:g} " in claim.text.replace(",", " "), "the paper's own number"
    assert claim.at_most in (None, max(row["conv"] for row in audit.figure(5))), "the largest ratio that the paper tried"
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id) and claim.where and claim.estimator
    assert claim.text.endswith(".") and claim.table
    assert claim.unit in ({""} if claim.rule else {"points", "%", "ratio", "share", "count"})


def test_published_verdicts_follow_from_the_published_intervals():
    """Whatever interval a report prints gives the verdict beside it, so a swapped comparison is found."""
    checked = set()
    for row in (row for rows in PUBLISHED.values() for row in rows):
        claim, number = CLAIMS[row["id"]], r"[+-]?\d+\.(\d+)"
        printed = re.search(rf"({number}) \(({number}) to ({number})\)", row["estimate"])
        if printed and row["verdict"] != claims.NOT_RUN and claim.equivalent is None:
            value, decimals, low, _, high, _ = printed.groups()
            estimate = Estimate(float(value), float(low), float(high), claim.unit)
            gaps = [abs(end - limit) for end in (estimate.low, estimate.high) for limit in claim.limits]
            if min(gaps) > 0.5 * 10 ** -len(decimals) and not row["verdict"].startswith("undecided:"):  # else rounding, a doubt
                checked.add((row["id"], row["verdict"]))
                assert claims.verdict(claim, estimate) == row["verdict"], row
    assert len(checked) >= 20 and {verdict for _, verdict in checked} == {"holds", claims.BUILT_IN, "does not hold", "undecided"}


def test_every_claim_is_judged_on_every_published_study_and_named_by_a_table():
    for name, rows in PUBLISHED.items():
        assert [row["id"] for row in rows] == list(CLAIMS)
        judged = (row for row in rows if row["verdict"] != "not run")
        assert all((REPORTS[name] / "tables" / f"{row['table']}.csv").exists() for row in judged)
        assert not any("nan" in row["estimate"] for row in rows)


def test_the_ledger_has_every_claim_and_a_column_for_each_study():
    ledger = claims.ledger({name: pd.DataFrame(rows) for name, rows in PUBLISHED.items()}, estimates=True)
    assert len(ledger) == len(CLAIMS) and set(PUBLISHED) <= set(ledger)
    assert ledger["bccd"].str.match("holds|does not hold|undecided|not run").all()
    assert sum(claims.counts(pd.DataFrame(PUBLISHED["bccd"])).values()) == len(CLAIMS) - 7
