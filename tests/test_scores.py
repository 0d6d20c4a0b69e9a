"""Scores average over seeds, differences are paired, intervals cover what they should, ratios turn round."""

from dataclasses import replace

import numpy as np
import pytest

from yolop.report.scores import Estimate, Ratio, Score, Timing, t_quantile


def seeds(means, draws=200, spread=0.01) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"mAP50": m, "mAP50_95": m / 2, "sparsity": 0.1, "mAP50_resampled": m + rng.normal(0, spread, draws),
         "mAP50_95_resampled": m / 2 + rng.normal(0, spread, draws)}
        for m in means
    ]  # fmt: skip


def score(*means, **more) -> Score:
    return Score(tuple(seeds(means, **more)), 200)


def test_means_and_intervals_over_seeds():
    several, one = score(0.8, 0.82, 0.9), score(0.8)
    assert several.mAP50 == pytest.approx(0.84) and several.mAP50_95 == pytest.approx(0.42)
    low, high = several.interval()
    assert low < 0.82 and high > 0.86
    assert one.interval()[1] - one.interval()[0] < high - low  # the luck of training is in it
    assert score(0.99, 0.9).interval()[1] == 1  # no mAP lies above 1


def test_differences_are_paired_in_seeds_and_images():
    found = seeds((0.8, 0.82, 0.9))
    shifted = [f | {"mAP50": f["mAP50"] + 0.05, "mAP50_resampled": f["mAP50_resampled"] + 0.05} for f in found]
    gain = Score(tuple(shifted), 200) - Score(tuple(found), 200)
    assert (gain.value, gain.low, gain.high) == pytest.approx((5, 5, 5)) and gain.unit == "points"
    loss = Score(tuple(found), 200) - Score(tuple(shifted), 200)
    assert (loss.value, loss.low, loss.high) == pytest.approx((-gain.value, -gain.high, -gain.low))
    assert gain.seeds == 3 and gain.doubt == ""


# Standard deviations of what makes a difference of mAP50 uncertain: training seed, images, images of one seed. From bccd's
# records, pooled and of three pairs; n from scratch; seeds dominate; one photograph in common matters.
SITUATIONS = [
    (0.43, 0.64, 0.79), (0.70, 0.05, 1.05), (0.58, 0.50, 0.74), (0, 0.96, 0.84), (1.5, 0.8, 0.8), (1.5, 0.3, 0.3),
]  # fmt: skip


@pytest.mark.parametrize("independent", [72, 6])
@pytest.mark.parametrize("deviations", SITUATIONS)
def test_intervals_over_three_seeds_cover_in_every_situation(deviations, independent):
    """Of 1,500 simulated studies, 93 to 97.5 % of the intervals hold the truth; down to 6 groups of images that are drawn."""
    seed, image, both = deviations
    rng, hits, studies, draws = np.random.default_rng(1), 0, 1500, 200
    samples = rng.multinomial(independent, [1 / independent] * independent, draws).T / independent  # (images, draws)
    for _ in range(studies):
        effects = rng.normal(0, image, independent) + rng.normal(0, both, (3, independent))
        effects = effects * independent**0.5 + rng.normal(0, seed, (3, 1))
        found = Estimate.of(effects.mean(1), effects @ samples, independent)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / studies <= 0.975


def test_quantiles_of_t_are_scipys():
    from scipy.special import stdtrit

    probabilities = np.array([0.5, 0.6, 0.9, 0.975, 0.995, 0.9999])
    for freedom in (1, 2, 4, 5, 39, 71, 239, 2000):
        expected = stdtrit(freedom, probabilities)
        np.testing.assert_allclose(t_quantile(probabilities, freedom), expected, rtol=2e-5, atol=1e-6)


def test_a_p_value_is_where_the_interval_reaches_the_limit():
    found = Estimate.of([1.0, 2.0, 3.0], np.random.default_rng(0).normal(2, 0.3, (3, 200)), 72)
    assert found.p_value(found.low) == pytest.approx(0.05, rel=0.02) == found.p_value(found.high)
    assert found.p_value(found.value) == 1 and found.p_value(-1000) < 1e-5
    assert np.isnan(Ratio(0.9, 0.8, 1.0).p_value(1))


def test_the_interval_of_one_network_is_of_the_images_alone():
    draws = np.random.default_rng(1).normal(0.7, 0.02, 200)
    found = Estimate.of([0.7], draws[None], 200)
    assert found.high - found.low == pytest.approx(2 * 1.97 * 0.02, rel=0.15) and found.seeds == 1
    alone = Estimate.of([0.7])
    assert alone.low == alone.high == 0.7  # without a resampling there is nothing to take one from


def test_few_labelled_images_and_networks_that_learnt_nothing_are_doubted():
    few = Score(tuple(seeds((0.8,))), 12) - Score(tuple(seeds((0.7,))), 12)
    assert few.doubt == "only 12 labelled test images"
    assert (score(0.04) - score(0.007)).doubt.startswith("not learnt") and not (score(0.5) - score(0.007)).doubt
    assert score(0.5).percent_over(score(0.007)).doubt.startswith("not learnt")


def test_a_percentage_of_nothing_is_no_number():
    nothing = Score(({"mAP50": 0.0, "mAP50_resampled": np.zeros(2), "mAP50_95": 0.0, "mAP50_95_resampled": np.zeros(2)},), 200)
    assert np.isnan(score(0.1).percent_over(nothing).value) and score(0.1).percent_over(nothing).low == -np.inf
    assert np.isnan(nothing.kept(nothing).value) and nothing.kept(nothing).doubt


def test_a_percentage_follows_its_difference():
    more, less = score(0.88, 0.9, 0.92), score(0.8, 0.8, 0.8)
    found, points = more.percent_over(less), more - less
    assert found.value == pytest.approx(points.value / 0.8) and found.unit == "%"
    assert found.high - found.low == pytest.approx((points.high - points.low) / 0.8, rel=0.15)
    assert less.kept(less).value == pytest.approx(100) and less.kept(less).low == pytest.approx(100)


def test_estimates_read_as_people_write_them():
    assert str(Estimate(1.04, -0.06, 2)) == "+1.0 (-0.1 to +2.0)"
    assert str(-Estimate(1, -2, 3)) == "-1.0 (-3.0 to +2.0)"
    assert str(Ratio(0.86, 0.85, 0.868)) == "0.860 (0.850 to 0.868)"


def test_ratios_turn_round_and_divide():
    s = Ratio(2.0, 1.9, 2.1)
    assert (s.inverse().value, s.inverse().low, s.inverse().high) == pytest.approx((0.5, 1 / 2.1, 1 / 1.9))
    assert s.less_time().value == -100 and Ratio(0.86, 0.85, 0.87).less_time().high == pytest.approx(15)
    quotient = Ratio(0.86, 0.85, 0.87) / Ratio(0.86, 0.85, 0.87)
    assert quotient.value == 1 and quotient.low < 1 - 0.0116 and quotient.high > 1 + 0.0116  # wider than either
    same, wide = Ratio(1, 0.999, 1.001), Ratio(0.86, 0.83, 0.89)
    assert (same / same).equivalent and not (wide / wide).equivalent
    assert (replace(same, doubt="control") / same).doubt == replace(same, doubt="control").inverse().doubt == "control"


def test_a_timing_knows_its_baseline_by_its_place():
    row = {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    timing = Timing({"n": row, "p": row | {"ratio": 0.8}}, row)
    assert timing.baseline == "n" and list(timing.variants) == ["p"] and timing["p"].value == 0.8


def test_no_verdict_rests_on_times_whose_control_fails():
    row = {"ratio": 0.8, "ratio_low": 0.79, "ratio_high": 0.81}
    again = row | {"ratio": 0.98, "ratio_low": 0.97}
    sure, failed = (Timing({"n": row, "p": row}, again | {"ratio_high": high}) for high in (1.01, 0.99))
    assert sure["p"].doubt == "" and failed["p"].doubt.startswith("A/A control failed") and "0.980 (0.970 to 0.990)" in failed.doubt
    assert failed["p"].less_time().doubt and failed.variants["p"].inverse().doubt
