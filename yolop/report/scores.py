"""Scores, differences and ratios of times, each with its interval: what tables, sentences and claims are made of."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

SEED_DRAWS = 2000  # of training seeds, each on one bootstrap sample of the images
METRICS = ("mAP50", "mAP50_95")


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval. As text, "points" and "%" have a sign and one decimal, a "ratio" has three."""

    value: float
    low: float
    high: float
    unit: str = "points"

    def __str__(self) -> str:
        form = ".3f" if self.unit == "ratio" else "+.1f"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low, self.unit)


@dataclass(frozen=True)
class Score:
    """mAP of a network on one split: means over training seeds, on all images and on resampled seeds and images.

    Two scores of one split are resampled alike, so that their difference is paired in seeds and images.
    """

    by_seed: tuple[dict, ...]  # of each training: mAP50, mAP50_95, mAP50_resampled (draws,) ...

    @property
    def mAP50(self) -> float:
        """Mean average precision at an IoU of 0.5, 0..1."""
        return self._mean("mAP50")

    @property
    def mAP50_95(self) -> float:
        """Mean average precision over IoU 0.5 to 0.95, 0..1."""
        return self._mean("mAP50_95")

    @property
    def sparsity(self) -> float:
        """Share of all parameters that is zero, 0..1."""
        return self._mean("sparsity")

    def _mean(self, name: str) -> float:
        return float(np.mean([seed[name] for seed in self.by_seed]))

    def resampled(self, metric: str = "mAP50") -> np.ndarray:
        """Means over drawn training seeds on drawn images, one a draw; with one seed, images are drawn alone."""
        draws = np.array([seed[f"{metric}_resampled"] for seed in self.by_seed])
        if len(draws) == 1:
            return draws[0]
        seeds = np.random.default_rng(0).integers(0, len(draws), (SEED_DRAWS, len(draws)))
        return draws[seeds, (np.arange(SEED_DRAWS) % draws.shape[1])[:, None]].mean(axis=1)

    def interval(self, metric: str = "mAP50") -> tuple[float, float]:
        """The 95 % interval of the mean."""
        return interval(self.resampled(metric))

    def row(self, *metrics: str, limits: bool = True) -> dict[str, float]:
        """Columns of a table: each metric, and `<metric>_low` and `<metric>_high` where limits are asked for."""
        columns = {}
        for metric in metrics or METRICS:
            columns[metric] = self._mean(metric)
            if limits:
                columns[f"{metric}_low"], columns[f"{metric}_high"] = self.interval(metric)
        return columns

    def __sub__(self, other: Score) -> Estimate:
        """Percentage points of mAP50 above another score."""
        drawn = 100 * (self.resampled() - other.resampled())
        return Estimate(100 * (self.mAP50 - other.mAP50), *interval(drawn))

    def percent_over(self, other: Score) -> Estimate:
        """Per cent of another's mAP50 by which this one is higher; nothing is a percentage of 0, so then NaN, without limits."""
        base = other.resampled()
        if not base.all():
            return Estimate(np.nan, -np.inf, np.inf, "%")
        drawn = 100 * (self.resampled() / base - 1)
        return Estimate(100 * (self.mAP50 / other.mAP50 - 1), *interval(drawn), "%")

    def kept(self, other: Score) -> Estimate:
        """Per cent of another's mAP50-95 that this one has; NaN where that is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = 100 * self.resampled("mAP50_95") / other.resampled("mAP50_95")
            return Estimate(float(100 * np.float64(self.mAP50_95) / other.mAP50_95), *interval(drawn), "%")


@dataclass(frozen=True)
class Ratio(Estimate):
    """A time over the baseline's, below 1 is faster; `equivalent`: shown to lie within 2 % of 1 by two one-sided tests."""

    unit: str = "ratio"
    equivalent: bool = False
    high90: float = np.inf

    @classmethod
    def of(cls, row: dict) -> Ratio:
        """The ratio of a timing row."""
        return cls(
            row["ratio"], row["ratio_low"], row["ratio_high"], "ratio", bool(row.get("equivalent")),
            row.get("ratio90_high", np.inf),
        )  # fmt: skip

    def less_time(self) -> Estimate:
        """By how many per cent the time lies below the baseline's."""
        return Estimate(100 * (1 - self.value), 100 * (1 - self.high), 100 * (1 - self.low), "%")

    def inverse(self) -> Ratio:
        """The baseline's time over this one's."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low)

    def __truediv__(self, other: Ratio) -> Ratio:
        """One time over another where both were timed against the same baseline; spreads add as if independent."""
        spread = np.hypot(np.log(self.high / self.low), np.log(other.high / other.low)) / 2
        value, narrow = self.value / other.value, 1.645 / 1.96  # from a 95 % to a 90 % interval
        within = 0.98 <= value * np.exp(-spread * narrow) and value * np.exp(spread * narrow) <= 1.02
        low, high = float(value * np.exp(-spread)), float(value * np.exp(spread))
        return Ratio(value, low, high, "ratio", bool(within))


@dataclass(frozen=True)
class Timing:
    """What was timed side by side: rows by key, the baseline first, and the baseline timed once more as the A/A control."""

    rows: dict[Hashable, dict]
    control: dict

    def __getitem__(self, key: Hashable) -> Ratio:
        return Ratio.of(self.rows[key])

    @property
    def baseline(self) -> Hashable:
        """Key of what all others are compared to."""
        return next(iter(self.rows))

    @property
    def variants(self) -> dict[Hashable, Ratio]:
        """All that is compared to the baseline."""
        return {key: Ratio.of(row) for key, row in self.rows.items() if key != self.baseline}
