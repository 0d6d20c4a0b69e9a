"""Scores average over seeds, differences are paired, intervals cover what they should, ratios turn round."""

import numpy as np
import pytest

from yolop.report.scores import Estimate, Ratio, Score, Timing


def seeds(means, draws=200, spread=0.01) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"mAP50": m, "mAP50_95": m / 2, "sparsity": 0.1, "mAP50_resampled": m + rng.normal(0, spread, draws),
         "mAP50_95_resampled": m / 2 + rng.normal(0, spread, draws)}
        for m in means
    ]  # fmt: skip


def test_means_and_intervals_over_seeds():
    several, one = Score(tuple(seeds((0.8, 0.82, 0.9)))), Score(tuple(seeds((0.8,))))
    assert several.mAP50 == pytest.approx(0.84) and several.mAP50_95 == pytest.approx(0.42)
    low, high = several.interval()
    assert low < 0.82 and high > 0.86
    assert one.interval()[1] - one.interval()[0] < high - low  # the luck of training is in it


def test_differences_are_paired_in_seeds_and_images():
    found = seeds((0.8, 0.82, 0.9))
    shifted = [f | {"mAP50": f["mAP50"] + 0.05, "mAP50_resampled": f["mAP50_resampled"] + 0.05} for f in found]
    gain = Score(tuple(shifted)) - Score(tuple(found))
    assert (gain.value, gain.low, gain.high) == pytest.approx((5, 5, 5)) and gain.unit == "points"
    loss = Score(tuple(found)) - Score(tuple(shifted))
    assert (loss.value, loss.low, loss.high) == pytest.approx((-gain.value, -gain.high, -gain.low))


def test_an_interval_of_the_mean_over_images_covers_it():
    """One network on 200 images: in 95 of 100 draws of images the interval should hold the truth; 90 are asked."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        images = rng.normal(0.7, 0.3, 200)
        draws = rng.choice(images, (200, 200)).mean(1)
        low, high = Score(({"mAP50": images.mean(), "mAP50_resampled": draws},)).interval()
        hits += low <= 0.7 <= high
    assert 270 <= hits <= 297


def test_a_percentage_of_nothing_is_no_number():
    p, n = (Score(({"mAP50": m, "mAP50_resampled": np.array(d)},)) for m, d in ((0.1, [0.1, 0.2]), (0.0, [0.0, 0.0])))
    assert np.isnan(p.percent_over(n).value) and p.percent_over(n).low == -np.inf
    nothing = Score(({"mAP50_95": 0.0, "mAP50_95_resampled": np.zeros(2)},))
    assert np.isnan(nothing.kept(nothing).value)


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
    assert (Ratio(1, 0.999, 1.001) / Ratio(1, 0.999, 1.001)).equivalent and not (
        Ratio(0.86, 0.83, 0.89) / Ratio(0.86, 0.83, 0.89)
    ).equivalent


def test_a_timing_knows_its_baseline_by_its_place():
    row = {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "equivalent": True}
    timing = Timing({"n": row, "p": row | {"ratio": 0.8}}, row)
    assert timing.baseline == "n" and list(timing.variants) == ["p"] and timing["p"].value == 0.8
