"""Which p did the paper train, and what did it prune? Arithmetic over shapes, no training.

The paper prints neither p's depth and width nor what its pruning reached, but six sparsities of three digits each. A
candidate is a network (depth, width, classes) with a way to prune it and to count; it fits a sparsity that prints alike.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from yolop.paper import audit
from yolop.shapes import Convolution, convolutions, scaled
from yolop.specs import RecipeSpec

ROWS = [(n, *(row[name] for name in ("conv", "c3", "sppf", "sparsity"))) for n in (4, 5) for row in audit.figure(n)]
MISPRINT, HALF_OF_MISPRINT = 0.0994, 0.00005  # at a ratio of 0.01: 0.00994 must be meant (`audit.audit`)
PRINTED = np.array([0.00994 if row[4] == MISPRINT else row[4] for row in ROWS])
HALF = np.array([0.5 * 10.0 ** -len(f"{value}".split(".")[1]) for value in PRINTED])  # half a unit of the last digit
DIGITS = [f"{row[1]:g}" for row in ROWS[3:]]  # names of Figure 5's rows: the ratio of Conv

KINDS = ("Conv", "C3", "SPPF")  # in the order of the paper's ratios
# Whose ratio the convolutions of C3, SPPF and Detect get, "spared": none. Those of a layer Conv always get Conv's.
READINGS = tuple(product(("C3", "Conv", "spared"), ("SPPF", "Conv", "spared"), ("spared", "Conv", "C3", "SPPF")))
OWN, ANY_CONV, EVERY_CONV = ("C3", "SPPF", "spared"), ("Conv", "Conv", "spared"), ("Conv", "Conv", "Conv")
# EVERY_CONV is what YOLOv5's own prune() does; its sparsity() is a share of all parameters, printed to three digits.
COUNTED = ("all parameters", "fused parameters", "convolution weights")  # what the sparsity is a share of
REMOVED = ("filters", "input channels")  # by structured pruning: dim 0 or 1 of the weights

N = ((1, 2, 3), (16, 32, 64, 128, 256))  # YOLOv5n as of `scaled`
CLASSES = (  # the first in the paper's words
    *("fewer layers and fewer filters", "fewer layers, n's filters", "n's layers, fewer filters"),
    *("n's own shape", "larger than n"),
)
LARGER = CLASSES.index("larger than n")


# --- shapes and zeros -------------------------------------------------------------------------------------------------


def parameters(convs: list[Convolution]) -> np.ndarray:
    """(networks, N, 3) counts in the order of COUNTED: batch norm has two per filter, its fusion leaves one."""
    weights = sum(conv.weights for conv in convs)
    filters = sum(conv.c2 for conv in convs if conv.kind != "Detect")
    biases = sum(conv.c2 for conv in convs if conv.kind == "Detect")
    return np.stack((weights + 2 * filters + biases, weights + filters + biases, weights), -1)


def zeros(convs: list[Convolution], kind: str, whose: str, dim: int) -> np.ndarray:
    """(6, networks, N or 1) weights zeroed in layers of one kind at `whose` ratio in the rows of Figures 4 and 5.

    PyTorch's pruning rounds ratio x size, halves to even, where size counts the weights (Figure 4, unstructured) or
    the slices along `dim` (Figure 5, structured: a small ratio of few channels removes none).
    """
    ratios = np.array([0.0 if whose == "spared" else row[1 + KINDS.index(whose)] for row in ROWS])[:, None, None]
    unstructured = structured = 0
    for conv in [conv for conv in convs if conv.kind == kind]:
        weights, slices = conv.weights, (conv.c2, conv.c1)[dim]
        unstructured = unstructured + np.rint(ratios[:3] * weights)
        structured = structured + np.rint(ratios[3:] * slices) * (weights // slices)
    return np.concatenate(np.broadcast_arrays(unstructured, structured))


def sparsities(repeats: tuple, channels, nc, dim: int, readings=READINGS) -> np.ndarray:
    """The six sparsities of networks with `channels` (networks, 5): (6, networks, N, counted, readings), each 0..1."""

    def cuts(reading: tuple) -> tuple:
        return (("Conv", "Conv"), *zip(("C3", "SPPF", "Detect"), reading, strict=True))

    convs = convolutions(repeats, np.asarray(channels).T[..., None], np.asarray(nc))
    found = {pair: zeros(convs, *pair, dim) for reading in readings for pair in cuts(reading)}
    total = parameters(convs)
    cut = np.stack([sum(found[p] for p in cuts(r)) + np.zeros(total.shape[:2]) for r in readings], -1)
    return cut[..., None, :] / total[..., None]


def deviations(values: np.ndarray) -> np.ndarray:
    """Of sparsities (6, ...) from the printed ones, in half-units of the last digit: within -1..1 it prints alike."""
    return ((values.T - PRINTED) / HALF).T


# --- the search -------------------------------------------------------------------------------------------------------


def compute(spec: RecipeSpec, parents: dict, folder: Path) -> dict:
    """The search as a piece of work that needs nothing but its settings; see `search`."""
    return search(spec)


def search(spec: RecipeSpec) -> dict:
    """How many candidates fit how many of the six sparsities, which are nearest, and what chance gives (JSON-able)."""
    nc = np.arange(1, spec.nc_max + 1)
    depths = dict.fromkeys(scaled(k / 1000, 1)[0] for k in range(1, round(spec.depth_max * 1000) + 1))
    # Between multiples of 1/128 no channel count changes: 1024 x width / 8 is whole there, the smaller ones follow it.
    channels = np.array([scaled(1, k / 128)[1] for k in range(1, int(spec.width_max * 128) + 1)])
    fits = np.zeros((2, len(CLASSES), len(ROWS) + 1), int)
    nearest, close, most, highest = [], [], [], []
    for repeats, dim in product(depths, (0, 1)):
        classes = described(repeats, channels)
        values = sparsities(repeats, channels, nc, dim)
        good = np.abs(deviations(values)) <= 1
        count = good.sum(0)
        literal = count - good[5] + (np.abs(values[5] - MISPRINT) <= HALF_OF_MISPRINT)
        for table, found in zip(fits, (count, literal), strict=True):
            cells = classes[:, None, None, None] * (len(ROWS) + 1) + found
            table += np.bincount(cells.ravel(), minlength=table.size).reshape(table.shape)
        most.append([part.max((0, 1, 2)) for part in (count, count * (classes < LARGER)[:, None, None, None])])
        highest.append(values[3].max((0, 1, 2)))
        for label in np.unique(classes):
            nearest += _best(repeats, channels[classes == label], nc, dim, values[:, classes == label], 3)
        index = np.nonzero(good[:3].sum(0) >= 2)  # with fewer fits in Figure 4 there are no five
        where = classes[index[0]], channels[index[0], -1], index[2], index[3], good[:3].sum(0)[index]
        close.append(np.column_stack((*where, _digits(values[3:, *index]))))
    columns = ["class", "channels", "counted", "reading", "figure_4", *DIGITS]
    close = pd.DataFrame(np.concatenate(close), columns=columns)
    whole = close[close["figure_4"] == 3]
    edited, decoys = _hand_edited(nc)
    named = [row for depth, width in spec.named for row in _named(depth, width, nc)]
    return {
        "candidates": int(fits[0].sum()),
        "networks": len(depths) * len(channels),
        "fits": dict(zip(CLASSES, fits[0].tolist(), strict=True)),
        "fits_as_printed": dict(zip(CLASSES, fits[1].tolist(), strict=True)),
        "nearest": [row for name in CLASSES for row in _ranked(r for r in nearest if r["class"] == name)[:3]],
        "named": named,
        "readings": _readings(whole, np.max(most, 0)),
        "effect": _effect(whole, np.max(highest, 0)),
        "hand_edited": edited,
        "chance": _chance(close, decoys, spec),
    }


def described(repeats: tuple, channels) -> np.ndarray:
    """Index into CLASSES of networks with `channels` (networks, 5): layers and filters against those of n."""
    layers, filters = np.sign(sum(repeats) - sum(N[0])), np.sign(np.sum(channels, -1) - sum(N[1]))
    return np.where((layers > 0) | (filters > 0), LARGER, 2 * (layers == 0) + (filters == 0))


def _digits(values: np.ndarray) -> np.ndarray:
    """(candidates, 3) digits, as whole numbers, that Figure 5 would print for sparsities (3, candidates)."""
    return np.rint(values.T / (2 * HALF[3:])).astype(np.int32)


def _ranked(rows) -> list[dict]:
    return sorted(rows, key=lambda row: (-row["fits"], row["distance"]))


def _best(repeats, channels, nc, dim: int, values: np.ndarray, keep: int, readings=READINGS) -> list[dict]:
    """Of the candidates with these sparsities the nearest, one number of classes each.

    `distance` is the worst deviation of the six, in half-units; `nc_alike` says how many numbers of classes fit as many.
    """
    off = np.abs(deviations(values))
    fits, distance = (off <= 1).sum(0), off.max(0)
    score = fits - distance / 1e5  # no distance comes near 1e5
    rows = []
    for flat in np.argsort(-score.max(1), axis=None, kind="stable")[:keep]:
        v, counted, r = np.unravel_index(flat, score.max(1).shape)
        best = score[v, :, counted, r].argmax()
        at = v, best, counted, r
        rows.append(
            {
                "class": CLASSES[int(described(repeats, channels[v]))],
                "repeats": list(repeats),
                "channels": [int(c) for c in channels[v]],
                "nc": int(nc[best]),
                "nc_alike": int((fits[v, :, counted, r] == fits[at]).sum()),
                "reading": list(readings[r]),
                "counted": COUNTED[counted],
                "removed": REMOVED[dim],
                "fits": int(fits[at]),
                "distance": round(float(distance[at]), 4),
                "values": [round(float(value), 8) for value in values[:, *at]],
            }
        )
    return rows


def _named(depth: float, width: float, nc: np.ndarray) -> list[dict]:
    """A network at whatever fits it best, and with each kind of module cut at its own ratio, Detect spared."""
    repeats, channels = scaled(depth, width)
    rows = []
    for readings in (READINGS, (OWN,)):
        found = [sparsities(repeats, [channels], nc, dim, readings) for dim in (0, 1)]
        best = [_best(repeats, [channels], nc, dim, found[dim], 1, readings)[0] for dim in (0, 1)]
        rows.append({"depth": depth, "width": width} | _ranked(best)[0])
    return rows


def _readings(whole: pd.DataFrame, most: np.ndarray) -> list[dict]:
    """For each reading: candidates that print all of Figure 4, and the most fits of six; also if not larger than n."""
    small = whole["class"] < LARGER
    counts = [np.bincount(rows["reading"], minlength=len(READINGS)) for rows in (whole, whole[small])]
    table = pd.DataFrame([*counts, *most], ["figure_4", "figure_4_not_larger", "fits", "fits_not_larger"]).T
    return [{"reading": list(reading)} | row for reading, row in zip(READINGS, table.to_dict("records"), strict=True)]


def _effect(whole: pd.DataFrame, highest: np.ndarray) -> dict:
    """Did the ratio by module have any effect? From the printed digits, and from the candidates that print Figure 4.

    `factor`: lowest and highest sparsity / ratio of Conv that all of Figure 4 allows. `sppf_own_channels`: the largest
    channel count of a network that prints it with SPPF at its own ratio (0: none does). `c3_own_highest`: what Figure
    5's first row reaches at most with C3 at its own ratio. `widths`: lowest and highest width that prints Figure 4 with
    every convolution at the ratio of Conv, in networks no larger than n, by what is counted.
    """
    ratios = [row[1] for row in ROWS[:3]]
    factor = ((PRINTED - HALF)[:3] / ratios).max(), ((PRINTED + HALF)[:3] / ratios).min()
    c3_own, sppf_own = ([r for r, reading in enumerate(READINGS) if reading[i] == KINDS[i + 1]] for i in (0, 1))
    every = whole[(whole["reading"] == READINGS.index(EVERY_CONV)) & (whole["class"] < LARGER)]
    widths = {COUNTED[i]: [int(c.min()) / 1024, int(c.max()) / 1024] for i, c in every.groupby("counted")["channels"]}
    return {
        "factor": [round(float(value), 6) for value in factor],
        "sppf_own_channels": int(max(whole.loc[whole["reading"].isin(sppf_own), "channels"], default=0)),
        "c3_own_highest": round(float(highest[c3_own].max()), 6),
        "widths": widths,
    }


# --- what chance gives ------------------------------------------------------------------------------------------------


def _hand_edited(nc: np.ndarray) -> tuple[dict, pd.DataFrame]:
    """A second search: channels edited by hand, multiples of 8 that never decrease and never exceed those of n.

    Every convolution at the ratio of Conv, Detect too. Returns numbers, and all that print Figure 4 but are no network of
    two multiples. `six_expected`: six-fits if Figure 5's values were independent. `alike_median`: how many candidates,
    itself included, print the same six values as a random one of those that print Figure 4.
    """
    channels = np.array([v for v in product(*(range(8, c + 1, 8) for c in N[1])) if list(v) == sorted(v)])
    depths = [(1, some, many) for some in (1, 2) for many in (1, 2, 3)]  # none deeper than n
    standard = {scaled(k / 1000, w / 128) for k in range(1, 400) for w in range(1, 33)}
    found = []
    for (d, depth), dim, first in product(enumerate(depths), (0, 1), range(0, len(channels), 1000)):
        values = sparsities(depth, channels[first : first + 1000], nc, dim, (EVERY_CONV,))[..., :2, 0]
        index = np.nonzero((np.abs(deviations(values)[:3]) <= 1).all(0))
        constant = np.full((len(index[0]), 2), (d, dim))
        found.append(np.column_stack((constant, index[0] + first, index[2], _digits(values[3:, *index]))))
    table = pd.DataFrame(np.concatenate(found), columns=["depth", "dim", "network", "counted", *DIGITS])
    good = table[DIGITS] == _digits(PRINTED[3:, None])[0]
    groups = good.groupby([table["counted"], table["dim"]])
    six = table[good.all(axis=1)]
    alike = table.groupby(DIGITS)["depth"].transform("size")
    usual = {(d, v) for d, r in enumerate(depths) for v, c in enumerate(channels.tolist()) if (r, tuple(c)) in standard}
    unusual = [pair not in usual for pair in zip(table["depth"], table["network"], strict=True)]
    return {
        "candidates": len(channels) * len(depths) * len(nc) * 4,  # ways to count and to remove
        "networks": len(channels) * len(depths),
        "figure_4": len(table),
        "six": len(six),
        "six_networks": len(six[["depth", "network"]].drop_duplicates()),
        "six_expected": round(float((groups.mean().prod(axis=1) * groups.size()).sum()), 2),
        "alike_median": float(alike.median()),
        "alike_share": round(float((alike >= len(six)).mean()), 4),
    }, table.loc[unusual, ["counted", *DIGITS]]


def _chance(close: pd.DataFrame, decoys: pd.DataFrame, spec: RecipeSpec) -> list[dict]:
    """Five- and six-fits of pseudo-papers whose p is none of the candidates, beside those of the paper.

    A pseudo-paper prints the paper's own Figure 4, which only fixes one common factor, and as Figure 5 the values of a
    network edited by hand that prints this Figure 4 too: what the search finds although the network is not in it. In
    the second null each of the three values comes from another such network, so that nothing ties them together.
    """
    columns = ["class", "figure_4", *DIGITS]
    label, figure_4, *digits, times = close.value_counts(columns).reset_index().to_numpy(np.int32).T.copy()
    scopes = {"not larger than n": label < LARGER, "all": label <= LARGER}

    def fives_and_sixes(figure_5) -> list[list[int]]:
        fits = figure_4 + sum(column == value for column, value in zip(digits, figure_5, strict=True))
        return [[int(times[scope & (fits == n)].sum()) for n in (5, 6)] for scope in scopes.values()]

    real = fives_and_sixes(_digits(PRINTED[3:, None])[0])
    rng, rows = np.random.default_rng(spec.seed), []
    for (counted, pool), networks in product(decoys.groupby("counted"), (1, 3)):
        drawn = np.broadcast_to(rng.integers(len(pool), size=(spec.papers, networks)), (spec.papers, 3))
        luck = np.array([fives_and_sixes(t) for t in np.take_along_axis(pool[DIGITS].to_numpy(), drawn, 0)])
        for scope, (five, six), (fives, sixes) in zip(scopes, real, luck.transpose(1, 2, 0), strict=True):
            rows.append(
                {
                    "figure_5_from": "one other network" if networks == 1 else "three other networks",
                    "counted": COUNTED[counted],
                    "candidates": scope,
                    "five": five,
                    "five_expected": round(float(fives.mean()), 3),
                    "six": six,
                    "six_expected": round(float(sixes.mean()), 3),
                    "share_with_five": round(float((fives + sixes > 0).mean()), 4),
                    "share_with_six": round(float((sixes > 0).mean()), 4),
                    "share_with_as_many": round(float((fives >= five).mean()), 4),
                }
            )
    return rows


# --- tables and a sentence -------------------------------------------------------------------------------------------


def fits_table(metrics: dict) -> pd.DataFrame:
    """How many candidates print how many of the six sparsities, by the paper's words; `best_as_printed`: with 0.0994."""
    rows = []
    for name, counts in metrics["fits"].items():
        literal = max(n for n, count in enumerate(metrics["fits_as_printed"][name]) if count or not n)
        rows.append({"network": name} | {f"{n} of 6": c for n, c in enumerate(counts)} | {"best_as_printed": literal})
    return pd.DataFrame(rows)


def nearest_table(metrics: dict) -> pd.DataFrame:
    """The nearest of each class and the named networks, as they would print, under what the paper prints."""
    rows = []
    for row in metrics["nearest"] + metrics["named"]:
        shape = {name: "-".join(map(str, row[name])) for name in ("repeats", "channels")}
        network = {"network": f"({row['depth']:g}, {row['width']:g})" if "depth" in row else row["class"], **shape}
        same = {name: row[name] for name in ("counted", "removed", "fits", "distance")}
        cells = network | {"nc": str(row["nc"]), "cut": in_words(row["reading"])} | same
        rows.append(cells | _as_printed(row["values"]))
    paper_row = dict.fromkeys(rows[0], "") | {"network": "the paper", "fits": 6, "distance": 0.0} | _as_printed(PRINTED)
    return pd.DataFrame([paper_row, *rows])


def readings_table(metrics: dict) -> pd.DataFrame:
    """The readings that print Figure 4 with some candidate, and the paper's own words; none of the others prints it."""
    rows = [row for row in metrics["readings"] if row["figure_4"] or tuple(row["reading"]) == OWN]
    table = pd.DataFrame([{"cut": in_words(row["reading"])} | row for row in rows]).drop(columns="reading")
    return table.sort_values(["fits_not_larger", "fits", "figure_4"], ascending=False, kind="stable", ignore_index=True)


def chance_table(metrics: dict) -> pd.DataFrame:
    """Five- and six-fits of the paper beside those of pseudo-papers whose p is none of the candidates."""
    return pd.DataFrame(metrics["chance"])


def in_words(reading: list) -> str:
    """Which convolutions are cut at whose ratio."""
    named = {
        OWN: "each kind at its own ratio",
        ANY_CONV: "all but Detect at Conv's ratio",
        EVERY_CONV: "all at Conv's ratio",
    }
    pairs = zip(("C3", "SPPF", "Detect"), reading, strict=True)
    return named.get(tuple(reading), ", ".join(f"{kind}: {whose}" for kind, whose in pairs))


def _as_printed(values) -> dict[str, str]:
    """Sparsities to the paper's digits, by figure and ratio of Conv."""
    decimals = [len(f"{value}".split(".")[1]) for value in PRINTED]
    return {f"{r[0]}: {r[1]:g}": f"{v:.{d}f}" for r, v, d in zip(ROWS, values, decimals, strict=True)}


def five_of_six(metrics: dict) -> str:
    """How many networks no larger than n print five of the six, and how often pseudo-papers reach that by chance, in words."""
    five = sum(metrics["fits"][name][5] for name in CLASSES[:LARGER])
    luck = [100 * row["share_with_as_many"] for row in metrics["chance"] if row["candidates"] != "all"]
    share = f"{min(luck):.0f} to {max(luck):.0f} % of pseudo-papers reach by chance"
    return f"{five} fits of five among {metrics['candidates']:,} candidates are what {share}"
