"""Scores, differences and ratios of times, each with its interval: what tables, sentences and claims are made of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

METRICS = ("mAP50", "mAP50_95")
FEWEST_LABELLED = 20  # labelled test images below which no verdict is given
SAME_TIME = 0.02  # "no change" of a time ratio: within this of 1
LEAST_LEARNT = 0.1  # mAP50 below which a network finds so little that differences are luck


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval. As text, "points" and "%" have a sign and one decimal, a "ratio" has three.

    Attributes:
        parts: (standard error, degrees of freedom) of what makes it uncertain: the images, and the luck of training.
        doubt: why no verdict may rest on it; "" if one may.
        seeds: how many trainings it is a mean of; 0 where none is concerned.
    """

    value: float
    low: float
    high: float
    unit: str = "points"
    parts: tuple[tuple[float, int], ...] = ()
    doubt: str = ""
    seeds: int = 0

    @classmethod
    def of(
        cls, by_seed: Sequence[float], resampled: np.ndarray | None = None, independent: int = 0, unit: str = "points", **more
    ) -> Estimate:
        """The mean over training seeds, with the interval that their luck and that of the images give it together.

        Half of its width is the root of two squares: t over seeds, of the part of their variance that the images do not
        explain, and t over images, of the bootstrap of the mean. It is centred on the estimate, because with many classes
        the bootstrap's own centre is shifted (a sample of images drops rare classes). A test holds its coverage.

        Args:
            by_seed: (k,), the value of each training on all images.
            resampled: (k, draws), the same on resampled images, alike for all seeds; None: the interval is of the seeds alone.
            independent: how many images (or groups of images, where whole groups are drawn) a sample draws.
        """
        k, parts, shared = len(by_seed), [], 0.0
        if resampled is not None:
            growth = independent / max(independent - 1, 1)
            images = growth * np.var(np.mean(resampled, axis=0), ddof=1)
            shared = max(growth * np.var(resampled, axis=1, ddof=1).mean() - images, 0) / max(k - 1, 1)
            parts.append((float(np.sqrt(images)), max(independent - 1, 1)))
        if k > 1:
            parts.append((float(np.sqrt(max(np.var(by_seed, ddof=1) / k - shared, 0))), k - 1))
        value, half = float(np.mean(by_seed)), float(half_width(parts))
        return cls(value, value - half, value + half, unit, tuple(parts), seeds=k, **more)

    def __str__(self) -> str:
        form = ".3f" if self.unit == "ratio" else "+z.1f"  # never -0.0
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    def __neg__(self) -> Estimate:
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def columns(self, name: str, limits: str) -> dict[str, float]:
        """Columns of a table: `<name>`, and the interval as `<limits>_low` and `<limits>_high`."""
        return {name: self.value, f"{limits}_low": self.low, f"{limits}_high": self.high}

    def p_value(self, limit: float) -> float:
        """Two-sided p value of "it is `limit`": 1 minus the level of the interval that just reaches it. NaN without parts."""
        if not self.parts or not np.isfinite(self.value):
            return np.nan
        levels = 1 - np.logspace(-6, 0, 2000)
        return float(1 - levels[half_width(self.parts, levels) <= abs(self.value - limit)].max(initial=0))


def not_learnt(mAP50: float) -> str:
    """Why no verdict may rest on networks of which the best, or the baseline, has this mAP50; "" if one may."""
    return "" if mAP50 >= LEAST_LEARNT else f"not learnt, mAP50 below {LEAST_LEARNT:g}"


def half_width(parts: Sequence[tuple[float, int]], level: float | np.ndarray = 0.95) -> float | np.ndarray:
    """Half of an interval's width from its (standard error, degrees of freedom) parts."""
    return np.sqrt(sum((t_quantile(0.5 + np.asarray(level) / 2, freedom) * error) ** 2 for error, freedom in parts))


def t_quantile(probability: np.ndarray, freedom: int) -> np.ndarray:
    """Quantiles of Student's t. With x = sqrt(freedom) tan(angle), its density is a power of a cosine, summed here on a grid.

    Our own, because SciPy is a third of what reading the evidence would have to install.
    """
    return np.sqrt(freedom) * np.tan(np.interp(probability, *_t_grid(freedom)))


@cache
def _t_grid(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities below some angles, and these."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 40_001)
    below = np.concatenate(([0], np.cumsum(np.cos((angles[1:] + angles[:-1]) / 2) ** (freedom - 1))))
    return below / below[-1], angles


@dataclass(frozen=True)
class Score:
    """mAP of a network on one split: means over training seeds, each also on resampled images.

    Two scores of one split are resampled alike, so that their difference is paired in images, and in the numbers of seeds.
    """

    by_seed: tuple[dict, ...]  # of each training: mAP50, mAP50_95, mAP50_resampled (draws,) ...
    labelled: int  # images of the split that have a labelled box

    @property
    def mAP50(self) -> float:
        """Mean average precision at an IoU of 0.5, 0..1."""
        return self._values("mAP50").mean()

    @property
    def mAP50_95(self) -> float:
        """Mean average precision over IoU 0.5 to 0.95, 0..1."""
        return self._values("mAP50_95").mean()

    @property
    def sparsity(self) -> float:
        """Share of all parameters that is zero, 0..1."""
        return self._values("sparsity").mean()

    @property
    def doubt(self) -> str:
        """Why differences from it and shares of it say little, in a sentence; "" where something was learnt."""
        return f"A mAP50 of {self.mAP50:.3f} is next to nothing learnt: shares of it say little." if not_learnt(self.mAP50) else ""

    def _values(self, name: str) -> np.ndarray:
        return np.array([seed[name] for seed in self.by_seed], float)

    def _estimate(self, values: np.ndarray, resampled: np.ndarray, unit: str, doubt: str = "") -> Estimate:
        few = f"only {self.labelled} labelled test images" if self.labelled < FEWEST_LABELLED else ""
        independent = self.by_seed[0].get("groups", self.labelled)
        return Estimate.of(values, resampled, independent, unit, doubt=few or doubt)

    def interval(self, metric: str = "mAP50") -> tuple[float, float]:
        """The 95 % interval of the mean, within 0..1."""
        found = self._estimate(self._values(metric), self._values(f"{metric}_resampled"), "share")
        return max(found.low, 0.0), min(found.high, 1.0)

    def row(self, *metrics: str, limits: bool = True) -> dict[str, float]:
        """Columns of a table: each metric, and `<metric>_low` and `<metric>_high` where limits are asked for."""
        columns = {}
        for metric in metrics or METRICS:
            columns[metric] = self._values(metric).mean()
            if limits:
                columns[f"{metric}_low"], columns[f"{metric}_high"] = self.interval(metric)
        return columns

    def __sub__(self, other: Score) -> Estimate:
        """Percentage points of mAP50 above another score."""
        values, resampled = (100 * (self._values(name) - other._values(name)) for name in ("mAP50", "mAP50_resampled"))
        return self._estimate(values, resampled, "points", not_learnt(max(self.mAP50, other.mAP50)))

    def percent_over(self, other: Score) -> Estimate:
        """Per cent of another's mAP50 by which this one is higher."""
        return self._percent(other, "mAP50", above=100)

    def kept(self, other: Score) -> Estimate:
        """Per cent of another's mAP50-95 that this one has."""
        return self._percent(other, "mAP50_95", above=0)

    def _percent(self, other: Score, metric: str, above: float) -> Estimate:
        """The ratio of two means in per cent less `above`, linear in its spread; NaN, without limits, of nothing."""
        own, base = self._values(metric), other._values(metric)
        if not base.mean():
            return Estimate(np.nan, -np.inf, np.inf, "%", doubt="not learnt, mAP50 is 0")
        ratio, drawn = own.mean() / base.mean(), f"{metric}_resampled"
        values = 100 * ratio - above + 100 * (own - ratio * base) / base.mean()
        resampled = 100 * (self._values(drawn) - ratio * other._values(drawn)) / base.mean()
        return self._estimate(values, resampled, "%", not_learnt(other.mAP50))


@dataclass(frozen=True)
class Ratio(Estimate):
    """A time over the baseline's; below 1 is faster."""

    unit: str = "ratio"

    def __str__(self) -> str:
        ends, limits = (self.low, self.high), (1 - SAME_TIME, 1, 1 + SAME_TIME)
        moved = any((round(end, 3) < limit) != (end < limit) for end in ends for limit in limits)  # 0.9796 is not 0.98
        return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(self.value, *ends, d=4 if moved else 3)

    @classmethod
    def of(cls, row: dict, doubt: str = "") -> Ratio:
        """The ratio of a timing row."""
        return cls(row["ratio"], row["ratio_low"], row["ratio_high"], doubt=doubt)

    @property
    def equivalent(self) -> bool:
        """Shown to be no change: the whole interval lies within 2 % of 1 (two one-sided tests at 2.5 % each)."""
        return 1 - SAME_TIME <= self.low and self.high <= 1 + SAME_TIME

    def less_time(self) -> Estimate:
        """By how many per cent the time lies below the baseline's."""
        value, high, low = (100 * (1 - end) for end in (self.value, self.low, self.high))
        return Estimate(value, low, high, "%", doubt=self.doubt)

    def inverse(self) -> Ratio:
        """The baseline's time over this one's."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low, doubt=self.doubt)

    def __truediv__(self, other: Ratio) -> Ratio:
        """One time over another where both were timed against the same baseline; spreads add as if independent."""
        spread = np.hypot(np.log(self.high / self.low), np.log(other.high / other.low)) / 2
        value = self.value / other.value
        low, high = float(value * np.exp(-spread)), float(value * np.exp(spread))
        return Ratio(value, low, high, doubt=self.doubt or other.doubt)


def control_doubt(control: dict) -> str:
    """Why no verdict may rest on times whose A/A control has this row: its interval excludes 1. "" if one may."""
    again = Ratio.of(control)
    return "" if again.low <= 1 <= again.high else f"A/A control failed, the same network timed twice gives {again}"


@dataclass(frozen=True)
class Timing:
    """What was timed side by side: rows by key, the baseline first, and the baseline timed once more as the A/A control.

    Where the control's interval excludes 1, the same network differs from itself by more than noise, so no verdict may
    rest on the other ratios.
    """

    rows: dict[Hashable, dict]
    control: dict

    def __getitem__(self, key: Hashable) -> Ratio:
        return Ratio.of(self.rows[key], self.doubt)

    @property
    def doubt(self) -> str:
        """Why no verdict may rest on these times; "" if one may."""
        return control_doubt(self.control)

    @property
    def baseline(self) -> Hashable:
        """Key of what all others are compared to."""
        return next(iter(self.rows))

    @property
    def variants(self) -> dict[Hashable, Ratio]:
        """All that is compared to the baseline."""
        return {key: self[key] for key in self.rows if key != self.baseline}
