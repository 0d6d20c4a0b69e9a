"""Tables of notebook 05: what zeros, fewer channels and other runtimes do to accuracy and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from yolop.paper.claims import Count, NotRun
from yolop.report.scores import Estimate, Ratio, Score, control_doubt
from yolop.settings import Study
from yolop.study import beyond
from yolop.study.names import NAMES, RUNTIME_NAMES, ZEROS

if TYPE_CHECKING:
    from yolop.report.opened import OpenStudy


NOTHING = NotRun("no engine was timed in this study")


def widest(ratios: list[Ratio]) -> str:
    """The lowest and the highest end of some intervals, in words."""
    return f"{min(ratio.low for ratio in ratios):.3f} to {max(ratio.high for ratio in ratios):.3f}"


def refusals(tensors: pd.DataFrame) -> pd.DataFrame:
    """`conv2d` asked to work with sparse weights, layout by layout, in the installed PyTorch."""
    table = tensors.loc[tensors["path"] == "conv2d", ["layout", "runs", "error"]].reset_index(drop=True)
    return table.assign(runs=table["runs"].map({True: "yes", False: "no"}))


def layouts_that_run(table: pd.DataFrame) -> tuple[Count, str]:
    """How many sparse layouts conv2d takes, from `refusals`; in words how many it refuses."""
    runs = int((table["runs"] == "yes").sum())
    return Count(runs), f"conv2d refuses {len(table) - runs} of {len(table)} sparse layouts"


def products(tensors: pd.DataFrame) -> pd.DataFrame:
    """The detour as a sparse matrix product, per layer shape of p: time over the faster dense way (below 1: faster)."""
    shape = ["layout", "path", "c1", "c2", "kernel", "stride", "side", "count", "sparsity", "dense_path", "latency_ms"]
    table = tensors[tensors["path"] != "conv2d"].reset_index(drop=True)
    whole = {name: int for name in ("c1", "c2", "kernel", "stride", "side", "count")}
    return table[[*shape, "ratio", "ratio_low", "ratio_high", "max_difference"]].astype(whole)


def products_break_even(table: pd.DataFrame) -> pd.DataFrame:
    """For each sparsity: how many of p's different layers are faster as a sparse matrix product, and the median ratio."""
    grouped = table.assign(faster=table["ratio_high"] < 1).groupby(["layout", "path", "sparsity"], sort=False)
    return grouped.agg(
        layers=("faster", "size"), layers_faster=("faster", "sum"), median_ratio=("ratio", "median"), best_ratio=("ratio", "min")
    ).reset_index()  # fmt: skip


def layers_that_gain(table: pd.DataFrame) -> tuple[Count, str]:
    """Share of layer runs that are faster at the lowest sparsity tried, which is the paper's highest; in words too."""
    lowest = table[table["sparsity"] == table["sparsity"].min()]
    faster, paying = int((lowest["ratio_high"] < 1).sum()), table.loc[table["ratio_high"] < 1, "sparsity"]
    first = f"the first layer gains at {paying.min():g}" if len(paying) else "no layer gains at any sparsity tried"
    text = f"at sparsity {table['sparsity'].min():g}, {faster} of {len(lowest)} layer runs are faster; {first}"
    return Count(faster / len(lowest)), text


def atlas(study: OpenStudy) -> pd.DataFrame:
    """Every different convolution of s, n and p at many sparsities: the engine's time over dense PyTorch's.

    `n_count` and so on: how often a model has that shape. Rows with the role "control" time the dense way once more.
    """
    if not study.settings.trained_zeros:
        return pd.DataFrame()
    table = pd.DataFrame(study.record(beyond.atlas(study.graph)).metrics["rows"])
    for label in study.settings.models:
        table[f"{label}_count"] = [counts.get(label, 0) for counts in table["counts"]]
    table["models"] = [", ".join(f"{n} x {model}" for model, n in counts.items()) for counts in table["counts"]]
    table["role"] = table["sparsity"].isna().map({True: "control", False: "variant"})
    shape = ["kernel", "stride", "c1", "c2", "side", "models", "sparsity", "path", "role", "dense_ms", "sparse_ms"]
    counts = [f"{label}_count" for label in study.settings.models]
    return table[[*shape, "ratio", "ratio_low", "ratio_high", *counts]]


def break_even(table: pd.DataFrame) -> pd.DataFrame:
    """The atlas in short: for each kind of convolution and sparsity, how many shapes gain over dense PyTorch, and how much.

    `median_speed_up`: over dense PyTorch. `median_by_zeros`: over the same engine without zeros, so what the zeros bring.
    """
    if table.empty:
        return table
    table = table[table["role"] == "variant"]
    shape = ["kernel", "stride", "c1", "c2", "side"]
    without = table[table["sparsity"] == 0].set_index(shape)["ratio"].rename("ratio_without")
    table = table.join(without, on=shape)
    kind = table["kernel"].map("{0}x{0}".format) + table["stride"].map({1: "", 2: ", stride 2"})
    table = table.assign(kind=kind, faster=table["ratio_high"] < 1, speed_up=1 / table["ratio"])
    table["by_zeros"] = table["ratio_without"] / table["ratio"]
    return table.groupby(["kind", "sparsity"]).agg(
        shapes=("faster", "size"), shapes_faster=("faster", "sum"), median_speed_up=("speed_up", "median"),
        best_speed_up=("speed_up", "max"), median_by_zeros=("by_zeros", "median"),
    ).reset_index()  # fmt: skip


def weighted_ratio(table: pd.DataFrame, label: str, sparsity: float) -> Ratio | NotRun:
    """Time of all convolutions of a model in the engine at a sparsity, over the same engine without zeros, from the atlas."""
    if sparsity not in set(table.get("sparsity", ())):
        return NOTHING if table.empty else NotRun(f"no layer was timed with {sparsity:.0%} zeros in this study")
    return _weighted(table, label, table["sparsity"] == sparsity) / _weighted(table, label, table["sparsity"] == 0)


def _weighted(table: pd.DataFrame, label: str, chosen: pd.Series) -> Ratio:
    """Chosen rows over dense PyTorch, weighted by the dense times of all convolutions that the model has."""
    rows = table[chosen & (table[f"{label}_count"] > 0)]
    dense_ms = rows[f"{label}_count"] * rows["dense_ms"]
    return Ratio(*((dense_ms * rows[name]).sum() / dense_ms.sum() for name in ("ratio", "ratio_low", "ratio_high")))


def uniform(study: OpenStudy, layers: pd.DataFrame) -> pd.DataFrame:
    """Whole networks with evenly spread zeros, random weights: the engine against PyTorch's dense n, at each image size.

    `speed_up`: over the same network dense in PyTorch. `by_zeros`: over the same engine without zeros, so what the zeros
    bring. `layers_predicted_ms`: what the atlas predicts from the layers alone (the rest: pooling, copies, decoding,
    waiting). The row of dense n in PyTorch is the A/A control.
    """
    rows = []
    if layers.empty:
        return pd.DataFrame()
    for imgsz in beyond.uniform_sizes(study.settings):
        keys = beyond.uniform(study.settings)
        times = dict(zip(keys, study.record(beyond.uniform_times(study.graph, imgsz)).metrics["rows"], strict=True))
        for (label, runtime, sparsity), time in times.items():
            own = layers[layers["sparsity"] == sparsity]
            predicted = (own["sparse_ms"] * own[f"{label}_count"]).sum()
            known = runtime == "sparse" and imgsz == study.settings.imgsz
            row = {"label": label, "model": NAMES[label], "imgsz_px": imgsz, "runtime": RUNTIME_NAMES[runtime]}
            row |= {"engine": runtime == "sparse", "sparsity": sparsity, "latency_ms": time["latency_ms"]}
            row |= {"layers_predicted_ms": predicted if known else None}
            row |= {name: time[name] for name in ("ratio", "ratio_low", "ratio_high")}
            row |= {"speed_up": times[label, "pytorch", 0.0]["ratio"] / time["ratio"]}
            without = times[label, runtime, 0.0]["ratio"]
            rows.append(row | {"by_zeros": without / time["ratio"] if runtime == "sparse" else None})
    return pd.DataFrame(rows)


def engine_ratio(table: pd.DataFrame, label: str, sparsity: float) -> Ratio | NotRun:
    """Time of a whole network in the engine over dense n in PyTorch at the smallest image size, from `uniform`."""
    if table.empty:
        return NOTHING
    smallest = table[table["imgsz_px"] == table["imgsz_px"].min()]
    own = smallest[smallest["engine"] & (smallest["label"] == label) & (smallest["sparsity"] == sparsity)]
    again = smallest[~smallest["engine"] & (smallest["label"] == "n")]
    return Ratio.of(own.iloc[0].to_dict(), control_doubt(again.iloc[0].to_dict()))


def by_zeros(table: pd.DataFrame, label: str, sparsity: float) -> Ratio | NotRun:
    """Time of a whole network in the engine at a sparsity over the same engine without zeros, from `uniform`."""
    return NOTHING if table.empty else engine_ratio(table, label, sparsity) / engine_ratio(table, label, 0.0)


def trained_zeros(study: OpenStudy) -> pd.DataFrame:
    """n made smaller while it trains, all from the same dense n and for as many steps: with zeros, or with channels removed.

    `kept_pct`: of the mAP50-95 of the dense control with the same seeds, with its interval; NaN if that is 0.
    """
    if not study.settings.trained_zeros:
        return pd.DataFrame()
    settings, control, rows = study.settings, study.fine_tuned().score(), []
    variants = [(share, "global" if share else "", 0.0, 1) for share in settings.sparsities]
    variants += [(settings.control_sparsity, allocation, 0.0, 1) for allocation in settings.allocations]
    for share, block, removed in beyond.smaller_ways(settings):
        variants += [(share, "blocks" if share else "", removed, block)] * (removed > 0 or block > 1)
    for sparsity, allocation, removed, block in variants:
        way = "global" if allocation in ("", "blocks") else allocation
        score = study.fine_tuned(sparsity, way, removed, block).score()
        names = f"{100 * removed:g} % of channels removed" * bool(removed), ZEROS.get(allocation)
        row = {"n": ", ".join(filter(None, names)) or "dense", "sparsity_of_weights": sparsity, "allocation": allocation}
        row |= {"channels_removed": removed, "seeds": len(settings.seeds)} | score.row("mAP50") | {"mAP50_95": score.mAP50_95}
        rows.append(row | _percents("kept", score.kept(control)))
    return pd.DataFrame(rows)


def channels_removed(study: OpenStudy) -> pd.DataFrame:
    """n without shares of its channels, untrained: parameters and time in PyTorch, over those of the whole n.

    `trained`: this study also trains what is left of n.
    """
    if not study.settings.channels_removed:
        return pd.DataFrame()
    table = pd.DataFrame(study.record(beyond.channel_times(study.graph)).metrics["rows"])
    table = table.rename(columns={"removed": "channels_removed"})
    table["role"] = ["baseline", *["variant"] * (len(table) - 2), "control"]
    table["network"] = [f"n, {100 * share:g} % of channels removed" if share else "n" for share in table["channels_removed"]]
    table.loc[table["role"] == "control", "network"] = "n (again)"
    table["trained"] = table["channels_removed"].isin(study.settings.channels_removed)
    columns = ["network", "role", "channels_removed", "parameters", "latency_ms", "ratio", "ratio_low", "ratio_high", "trained"]
    return table.sort_values("channels_removed", kind="stable", ignore_index=True)[columns]


def configurations(study: OpenStudy) -> pd.DataFrame:
    """Every way to make n faster: mAP on test in its own runtime and square frames, time over dense n in PyTorch, file sizes.

    Means over training seeds. `kept_pct`: of the mAP50-95 of dense n after as long a training, on test, with its interval.
    `val_kept_pct`: the same on val; in float32 and 16 bits at the study's size the network's own in float32. `front`: no other
    is both faster and more accurate; `front_pct`: how often so, if every time and mAP is drawn from its interval by itself.
    Fine-tuned n is the same network as n and has its times. The row of dense n in PyTorch is the A/A control.
    """
    graph, seeds = study.graph, study.settings.seeds
    if not study.settings.trained_zeros:
        return pd.DataFrame()
    options = beyond.options(graph, seeds[0])
    timed = dict(zip(beyond.timed(graph), study.record(beyond.times(graph)).metrics["rows"], strict=True))
    of_n = {_runtime_and_size(option): time for option, time in timed.items() if option.network == "n"}
    scores = dict(zip(options, _scores(study, beyond.options), strict=True))
    on_val = dict(zip(beyond.on_val(graph, seeds[0]), _scores(study, beyond.on_val, "val"), strict=True))
    first = {option.training.id: option for option in reversed(on_val)}  # in float32
    compared = {option.network: option for option in reversed(options)}  # the first of each network, in PyTorch
    rows = []
    for option, score in scores.items():
        setup, time = option.configuration, timed.get(option) or of_n[_runtime_and_size(option)]
        against = compared["n" if option.network == "n" else "fine-tuned"]
        row = {"what": _in_words(option, study.settings, graph.best_n), "network": option.network, "runtime": setup.runtime}
        row |= {"sparsity": option.sparsity, "channels_removed": option.channels_removed, "imgsz_px": setup.imgsz}
        row |= {"seeds": len(seeds), "mAP50": score.mAP50} | score.row("mAP50_95")
        row |= {name: time[name] for name in ("latency_ms", "ratio", "ratio_low", "ratio_high")}
        row |= _percents("kept", score.kept(scores[against]))
        val = on_val.get(option, on_val[first[option.training.id]])
        row |= {"val_kept_pct": val.kept(on_val[against]).value}
        rows.append(row | {name: score.by_seed[0][name] for name in ("file_mb", "compressed_mb")})
    table = pd.DataFrame(rows)
    return table.assign(front=_on_front(table["ratio"], table["mAP50_95"]), front_pct=100 * share_on_front(table))


def _on_front(ratio: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which ways no other beats, being faster and at least as accurate."""
    ratio, score = np.asarray(ratio), np.asarray(score)
    return ~((ratio[:, None] > ratio) & (score[:, None] <= score)).any(axis=1)


def share_on_front(table: pd.DataFrame, draws: int = 1000) -> np.ndarray:
    """In which share of draws a way is on the front, each estimate normal about itself, as wide as its 95 % interval."""
    random, found = np.random.default_rng(0), np.zeros(len(table))
    for _ in range(draws):
        drawn = [
            random.normal(table[name], (table[f"{name}_high"] - table[f"{name}_low"]) / 3.92) for name in ("ratio", "mAP50_95")
        ]
        found += _on_front(*drawn)
    return found / draws


def _runtime_and_size(option: beyond.Option) -> tuple[str, int]:
    return option.configuration.runtime, option.configuration.imgsz


def _scores(study: OpenStudy, chosen: Callable, split: str = "test") -> list[Score]:
    """The score of each option that `chosen(graph, seed)` names, in its own runtime, over the training seeds."""
    nodes = (beyond.scores(study.graph, chosen(study.graph, seed), split) for seed in study.settings.seeds)
    per_seed = (study.record(node).metrics["rows"] for node in nodes)
    return [Score(rows, study.labelled(split)) for rows in zip(*per_seed, strict=True)]


def worth_showing(table: pd.DataFrame) -> pd.DataFrame:
    """Of `configurations` those in PyTorch at the study's size, n in any runtime, and what is on the front in 5 % of draws.

    They stand below the baseline that all times are over; its second timing is called what it is, the A/A control.
    """
    if table.empty:
        return table
    whole = table["imgsz_px"] == table["imgsz_px"].max()
    chosen = (table["front_pct"] >= 5) | whole & ((table["runtime"] == "pytorch") | (table["network"] == "n"))
    first = table.head(1).assign(ratio=1.0, ratio_low=1.0, ratio_high=1.0)
    again = table.assign(what=table["what"].where(table.index > 0, table["what"] + " (again)"))[chosen]
    return pd.concat([first, again], ignore_index=True)


def _percents(name: str, estimate: Estimate) -> dict[str, float]:
    """Columns `<name>_pct`, `<name>_low_pct` and `<name>_high_pct` of an estimate in per cent."""
    return {f"{name}_pct": estimate.value, f"{name}_low_pct": estimate.low, f"{name}_high_pct": estimate.high}


def _in_words(option: beyond.Option, settings: Study, best_n: str) -> str:
    """How tables and figures call an option."""
    names = {"n": "n from COCO weights" if best_n == "n-coco" else "n from scratch", "p-best": "p (best.pt)"}
    network = names.get(option.network, "fine-tuned p" if option.network == "p-zeros" else "fine-tuned n")
    network += f", {100 * option.channels_removed:.0f} % of channels removed" * bool(option.channels_removed)
    network += f", {100 * option.sparsity:.0f} % zeros{' in blocks' * (option.block > 1)}" * bool(option.sparsity)
    setup = option.configuration
    return f"{network}, {RUNTIME_NAMES[setup.runtime]}" + (f", {setup.imgsz} px" if setup.imgsz != settings.imgsz else "")


def at_control(trained: pd.DataFrame, settings: Study) -> pd.Series:
    """The row of `trained_zeros` with the smallest of all weights zeroed, at the sparsity of the controls."""
    at = (trained["allocation"] == "global") & (trained["sparsity_of_weights"] == settings.control_sparsity)
    return trained[at].iloc[0]


def answer(uniform: pd.DataFrame, trained: pd.DataFrame, settings: Study) -> tuple[str, str]:
    """What zeros bring when something skips them, in words, beside PyTorch and the same engine without zeros; what they cost."""
    if uniform.empty:
        return "This study trains no zeros and times no engine that skips them; bccd does.", ""
    share = settings.control_sparsity
    over_pytorch, alone = (engine_ratio(uniform, "n", zeros).inverse() for zeros in (share, 0.0))
    row = at_control(trained, settings)
    kept, low, high = (row[f"kept_{end}pct"] for end in ("", "low_", "high_"))
    keeps = f"n keeps {kept:.0f} % ({low:.0f} to {high:.0f} %) of the mAP50-95 that the same training gives without zeros"
    if kept != kept:
        keeps = "there is nothing to keep: the same training without zeros has a mAP50-95 of 0"
    return (
        f"In float32 our engine, which skips zeros, runs n at {100 * share:.0f} % zeros {_times(over_pytorch)} as fast as "
        f"PyTorch, without zeros {_times(alone)}: the zeros bring {_times(by_zeros(uniform, 'n', share).inverse())}.",
        f"With {100 * row['sparsity_of_weights']:.0f} % zeros trained in, {keeps}.",
    )


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.1f} times ({ratio.low:.1f} to {ratio.high:.1f})"


def in_8_bits(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows of `configurations` in 8 bits: n in OpenVINO ("theirs"), in our engine ("ours"), and there with about 90 % zeros.

    Empty where a study times none of it.
    """
    if table.empty or "sparse-int8" not in set(table["runtime"]):
        return {}
    table = table[table["imgsz_px"] == table["imgsz_px"].max()]
    n, zeros = (table[table["network"] == network] for network in ("n", "zeros"))
    zeros = zeros[zeros["runtime"] == "sparse-int8"]
    found = {name: n[n["runtime"] == f"{runtime}-int8"].iloc[0] for name, runtime in (("theirs", "openvino"), ("ours", "sparse"))}
    return found | {"zeros": zeros.loc[(zeros["sparsity"] - 0.9).abs().idxmin()]}


def zeros_in_8_bits(table: pd.DataFrame, against: str) -> Ratio | NotRun:
    """Time of n with about 90 % trained zeros in our engine in 8 bits, over that of another row of `in_8_bits`."""
    rows = in_8_bits(table)
    if not rows:
        return NotRun("nothing was timed in 8 bits in this study")
    doubt = control_doubt(table.iloc[0].to_dict())
    zeros, other = (Ratio.of(rows[name].to_dict(), doubt) for name in ("zeros", against))
    return zeros / other


def answer_in_8_bits(table: pd.DataFrame) -> str:
    """What 8 bits bring without zeros and with, in words."""
    if not (rows := in_8_bits(table)):
        return ""
    theirs, ours, zeros = (_times(Ratio.of(rows[name].to_dict()).inverse()) for name in ("theirs", "ours", "zeros"))
    row = rows["zeros"]
    blocks = " in blocks" * ("blocks" in row["what"])
    return (
        f"OpenVINO runs n in 8 bits {theirs} as fast as PyTorch, our engine {ours}, and with {100 * row['sparsity']:.0f} % trained "
        f"zeros{blocks} {zeros}, which keep {row['kept_pct']:.1f} % ({row['kept_low_pct']:.1f} to {row['kept_high_pct']:.1f} %) "
        "of mAP50-95."
    )


def fastest(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `configurations` that keep 98 % of mAP50-95 on val: the fastest, and the next if their times cannot be told apart.

    What is kept is of dense n after as long a training. Of networks that share their times the one that keeps most.
    """
    fit = table[table["val_kept_pct"] >= 98].sort_values(["ratio", "val_kept_pct"], ascending=[True, False])
    fit = fit.drop_duplicates("ratio", ignore_index=True)
    return fit[fit["ratio_low"] <= fit["ratio_high"].head(1).max()].head(2)


def advice(table: pd.DataFrame) -> str:
    """Which configuration to take, in words: `fastest`, chosen on val and reported on test."""
    if table.empty:
        return "No configurations were measured in this study."
    first, *others = [*fastest(table).itertuples(), None]
    if first is None:
        return "No configuration keeps 98 % of mAP50-95 on val: nothing was learnt."
    words = (
        f"The fastest that keeps 98 % of mAP50-95 on val is {first.what}: "
        f"{_times(Ratio.of(first._asdict()).inverse())} as fast as n in PyTorch, with {first.kept_pct:.1f} % "
        f"({first.kept_low_pct:.1f} to {first.kept_high_pct:.1f} %) kept on test."
    )
    if others[0]:
        words += f" Not told apart from it in time: {others[0].what}."
    doubt = control_doubt(table.iloc[0].to_dict())
    return f"{words} The {doubt}." if doubt else words
