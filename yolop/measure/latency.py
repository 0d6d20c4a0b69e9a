"""Paired timing with intervals.

Variants alternate in small blocks within one process, so that whatever slows the machine meets all of them; what is
reported is the interval of each variant's *ratio* to a baseline. "No change" is a finding only if two one-sided tests
say so, and an A/A control (the baseline timed a second time) shows what noise alone gives.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.data.augment import LetterBox

from yolop.data.images import read_image
from yolop.data.load import dataset_of
from yolop.measure.evaluation import detect
from yolop.measure.pruning import subject
from yolop.progress import progress
from yolop.specs import LatencySpec, require
from yolop.store import Record

RESAMPLES = 2000  # of the bootstrap: puts the ends of a 95 % interval within 1 % of probability
MIN_ROUNDS = 5  # with four, all on one side of a limit by luck alone has 6 %: nothing can be shown at 5 %
Calls = dict[Any, Callable[[], Any]]


def measure(
    calls: Calls, baseline: str, rounds: int, calls_per_block: int, warmup: int = 10, seed: int = 0, aa: bool = False,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[dict]:  # fmt: skip
    """One row per variant: label, latency_ms (median of all calls), p90_ms, fps = 1000 / latency_ms, n_calls, and what
    `ratio_of` says of its ratio to the baseline (below 1 is faster; the baseline's own row has 1 exactly).

    A round runs one block of each variant, in an order drawn anew. Its ratio is that of two block medians taken
    moments apart, so a slow spell cancels out of it; the ratio of the two overall medians would keep that spell,
    whenever it covered different shares of the two variants' calls.

    Args:
        calls: label -> function without arguments; batch 1 is one image a call. All of one runtime: the thread pools of
            several disturb each other inside one process.
        baseline: the label that the others are compared to.
        rounds: blocks per variant, at least 5.
        calls_per_block: at least 1. From 3 on, the block median drops the first call, which finds the caches cold.
        warmup: untimed calls of each variant before the first round.
        seed: of order and bootstrap.
        aa: also time the baseline under the label "<baseline> (again)", the A/A control. It shares the baseline's
            memory; to control for where weights happen to lie as well, pass a copy of the model as a variant instead.
        clock: nanoseconds.

    Source: latency section of the design; interleaving after duet benchmarking (arXiv 2001.05811).
    """
    require(baseline in calls, "baseline", baseline, "one of " + ", ".join(calls))
    require(rounds >= MIN_ROUNDS, "rounds", rounds, f"{MIN_ROUNDS} or more")
    require(calls_per_block >= 1, "calls_per_block", calls_per_block, "1 or more")
    require(warmup >= 0, "warmup", warmup, "0 or more")
    if aa:
        again = f"{baseline} (again)"
        require(again not in calls, "label", again, "another label: this one is the A/A control's")
        calls = calls | {again: calls[baseline]}
    return pooled([rounds_of(calls, rounds, calls_per_block, warmup, seed, clock)], baseline, seed)


def rounds_of(
    calls: Calls, rounds: int, calls_per_block: int, warmup: int = 10, seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[Any, np.ndarray]:  # fmt: skip
    """Milliseconds of every call of every variant, (rounds, calls_per_block) each; arguments as of `measure`."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    times_ms = {label: np.empty((rounds, calls_per_block)) for label in calls}
    for round_, label in turns(calls, rounds, seed):
        times_ms[label][round_] = block(calls[label], calls_per_block, clock)
    return times_ms


def turns(labels: Iterable, rounds: int, seed: int = 0) -> Iterator[tuple[int, Any]]:
    """(round, label): every label once a round, in an order drawn anew."""
    labels, rng = list(labels), np.random.default_rng(seed)
    for round_ in range(rounds):
        for i in rng.permutation(len(labels)):
            yield round_, labels[i]


def block(call: Callable[[], Any], n: int, clock: Callable[[], int] = time.perf_counter_ns) -> list[float]:
    """Milliseconds of `n` calls, each on its own, without garbage collection."""
    # A collection takes as long as a small model and would fall on whichever variant happens to reach the threshold.
    # Between blocks the collector is as it was, so that what has gathered is freed there, off the clock.
    times_ms, collecting = [], gc.isenabled()
    gc.disable()
    try:
        for _ in range(n):
            start = clock()
            call()
            times_ms.append((clock() - start) / 1e6)
    finally:
        if collecting:
            gc.enable()
    return times_ms


def pooled(parts: list[dict[Any, np.ndarray]], baseline: Any, seed: int = 0) -> list[dict]:
    """Rows of `measure` from the times of one or more processes, (rounds, calls_per_block) per variant in each.

    Where memory happens to lie, and what else the machine does, changes from process to process more than within one: so
    intervals over several processes are wider, and true to a reader who starts one of his own.
    """
    rows = []
    for label in parts[0]:
        times = np.concatenate([part[label] for part in parts])
        latency_ms, p90_ms = np.median(times).item(), np.percentile(times, 90).item()
        row = {"label": label, "latency_ms": latency_ms, "p90_ms": p90_ms, "fps": 1000 / latency_ms}
        ratios = [np.median(part[label], axis=1) / np.median(part[baseline], axis=1) for part in parts]
        ratios = np.array(ratios if len(parts) > 1 else ratios[0])
        rows.append(row | {"n_calls": times.size} | ratio_of(ratios, seed=seed))
    return rows


def ratio_of(ratios: np.ndarray, seed: int = 0) -> dict:
    """Median ratio with its 95 % bootstrap interval.

    Taken on logarithms, so that comparing B with A gives exactly the inverse of comparing A with B. The median, because
    a round that something interrupted should count as one vote, not by its length.

    Args:
        ratios: one paired ratio > 0 a round, at least 5: (rounds,), or (processes, rounds), whose bootstrap draws
            processes and then rounds within them.
        seed: of the bootstrap.

    Returns:
        ratio, ratio_low, ratio_high. Whether that is "no change" `scores.Ratio` says.
    """
    ratios = np.asarray(ratios, dtype=float)
    good = (ratios.ndim == 1 or (ratios.ndim == 2 and len(ratios) > 1)) and ratios.shape[-1] >= MIN_ROUNDS
    allowed = f"({MIN_ROUNDS} or more,) or (2 or more processes, {MIN_ROUNDS} or more)"
    require(good, "shape of ratios", ratios.shape, allowed)
    require(bool(np.all(np.isfinite(ratios) & (ratios > 0))), "ratios", ratios, "finite numbers above 0")
    logs = np.log(ratios)
    rng = np.random.default_rng(seed)
    if logs.ndim == 1:
        resampled = rng.choice(logs, (RESAMPLES, len(logs)))
    else:
        processes = rng.integers(0, len(logs), (RESAMPLES, len(logs), 1))
        rounds = rng.integers(0, logs.shape[1], (RESAMPLES, *logs.shape))
        resampled = logs[processes, rounds].reshape(RESAMPLES, -1)
    low, high = np.exp(np.quantile(np.median(resampled, axis=1), [0.025, 0.975])).tolist()
    return {"ratio": float(np.exp(np.median(logs))), "ratio_low": low, "ratio_high": high}


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute with `n` threads inside one operation (torch), and with as many as before afterwards."""
    require(n >= 1, "threads", n, "1 or more, best the number of cores")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forward(model: nn.Module, imgsz: int, channels_last: bool = False) -> Callable[[], Any]:
    """A call that runs a copy of `model` once on one fixed random image (1, 3, imgsz, imgsz).

    This is what YOLOv5 calls inference: the network and the decoding of its boxes, without NMS.

    Args:
        model: as `yolov5.fused` gives it: on the CPU, float32, evaluation mode, batch norm folded. SpecError otherwise.
        imgsz: pixels, a multiple of 32.
        channels_last: memory layout of weights and image, NHWC instead of NCHW.
    """
    require(imgsz > 0 and imgsz % 32 == 0, "imgsz", imgsz, "a multiple of 32")
    model, layout = _prepared(model, channels_last)
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)

    @torch.inference_mode()
    def call():
        return model(image)

    return call


def whole_path(model: nn.Module, image: np.ndarray, imgsz: int, channels_last: bool = False) -> Callable[[], Any]:
    """A call that runs a copy of `model` on one picture from decoded pixels to boxes: letterbox, forward, NMS.

    Args:
        model: as for `forward`.
        image: (H, W, 3) uint8, colours in the order that the model was trained with.
        imgsz: pixels, a multiple of 32; side of the letterboxed square.
        channels_last: memory layout of the weights; convolutions follow it whatever the image's is.
    """
    require(imgsz > 0 and imgsz % 32 == 0, "imgsz", imgsz, "a multiple of 32")
    shaped = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    require(shaped, "image", getattr(image, "shape", image), "an array of shape (H, W, 3) and type uint8")
    model, _ = _prepared(model, channels_last)
    letterbox = LetterBox(imgsz)

    @torch.inference_mode()
    def call():
        square = letterbox(image=image)
        batch = torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))[None]
        return detect(model, batch)

    return call


def _prepared(model: nn.Module, channels_last: bool):
    """A copy of the model in one memory layout, and that layout. A copy, because layout is a property of the weights:
    two calls that shared them would both run in whichever layout was asked for last."""
    parameters, modules = list(model.parameters()), list(model.modules())
    devices, dtypes = {p.device.type for p in parameters}, {p.dtype for p in parameters}
    allowed = "yolov5.fused(model), on the CPU"
    require(devices == {"cpu"}, "device", sorted(devices), allowed)
    require(dtypes == {torch.float32}, "precision", sorted(map(str, dtypes)), allowed)
    require(not any(m.training for m in modules), "training mode", True, allowed)
    require(not any(isinstance(m, nn.BatchNorm2d) for m in modules), "batch norm", "unfused", allowed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return copy.deepcopy(model).to(memory_format=layout), layout


def baseline_layout(model: nn.Module, imgsz: int, rounds: int = 15, calls_per_block: int = 3, seed: int = 0) -> str:
    """The memory layout in which a model runs faster on this machine, "contiguous" or "channels_last", by measuring.

    A variant that is faster than the slower of the two has beaten a straw man.
    """
    calls = {name: forward(model, imgsz, name == "channels_last") for name in ("contiguous", "channels_last")}
    rows = measure(calls, "contiguous", rounds, calls_per_block, seed=seed)
    return "channels_last" if rows[1]["ratio"] < 1 else "contiguous"


def compute(spec: LatencySpec, parents: dict[str, Record], folder: Path) -> dict:
    """Time the variants of a spec, in processes that start one after the other.

    Returns:
        layout: "contiguous" or "channels_last", in which the baseline is faster and all are timed; forward and, where the
        spec asks for it, whole_path: a row of `measure` for each variant in their order, then one of the A/A control.
    """
    weights = {v.weights: parents[v.weights].path("weights.safetensors") for v in spec.variants if v.weights}
    picture = dataset_of(parents["data"]).splits["test"].images[0] if spec.whole_path else None
    with threads(spec.threads):
        baseline = subject(spec.variants[0], spec.nc, weights.get(spec.variants[0].weights))
        layout = baseline_layout(baseline, spec.imgsz)
    print(f"timing {len(spec.variants)} variants, {spec.rounds} rounds in {spec.processes} processes", flush=True)
    parts = []
    for process in progress(range(spec.processes), "timing, process"):
        arguments = (spec, weights, picture, layout == "channels_last", process)
        if spec.processes == 1:
            parts.append(timed(*arguments))
        else:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a fresh process each time
                parts.append(pool.submit(timed, *arguments).result())
    texts = [*(variant.text for variant in spec.variants), "baseline (again)"]
    rows = {what: pooled([part[what] for part in parts], baseline=0) for what in parts[0]}
    return {"layout": layout} | {what: [row | {"label": texts[row["label"]]} for row in rows[what]] for what in rows}


def timed(
    spec: LatencySpec, weights: dict[str, Path], picture: Path | None, channels_last: bool, process: int
) -> dict[str, dict[int, np.ndarray]]:
    """Milliseconds of one process's share of a timing: "forward", and "whole_path", each index -> (rounds, calls).

    The index is that of the variant; the one after the last is the baseline again, the A/A control.
    """
    subjects = {i: subject(v, spec.nc, weights.get(v.weights)) for i, v in enumerate(spec.variants)}
    subjects[len(spec.variants)] = subjects[0]  # `forward` copies it, as any variant
    rounds = max(spec.rounds // spec.processes, MIN_ROUNDS)
    # The copy that a process makes first is slower than all later ones, by 1 to 2 % at 128 px: so one is made that is not
    # timed, and the others in an order drawn anew in each process.
    drawn = np.random.default_rng(process).permutation(len(subjects)).tolist()
    image, kinds = read_image(picture) if picture else None, {"forward": forward}
    if picture:
        kinds["whole_path"] = lambda network, *how: whole_path(network, image, *how)
    times_ms = {}
    with threads(spec.threads):
        for kind, make in kinds.items():
            first = make(subjects[0], spec.imgsz, channels_last)
            first()
            calls = {i: make(subjects[i], spec.imgsz, channels_last) for i in drawn}
            times_ms[kind] = rounds_of(dict(sorted(calls.items())), rounds, spec.calls, seed=process)
    return times_ms
