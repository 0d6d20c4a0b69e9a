"""Zeroing weights by L1 norm or at random, by kind of module, globally or one convolution at a time; achieved sparsity.

`ratio` is what is asked of a convolution, `sparsity` is what share of all parameters is zero afterwards. Pruning sets
weights to zero and keeps every shape: whether that makes anything faster is for `latency` to say.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolop.data.load import dataset_of
from yolop.measure.evaluation import RESAMPLES, Validation, evaluate
from yolop.network import yolov5
from yolop.network.weights import load_weights, model_of
from yolop.progress import progress
from yolop.specs import PruneSpec, SensitivitySpec, SweepSpec, Variant, even_point, require
from yolop.store import Record

KINDS = ("Conv", "C3", "SPPF", "Detect")  # the layers that have convolutions; the others have no parameters
# Of Figure 3: unpruned, one ratio for all modules, and ratios by type of module
CONTROLLED = (PruneSpec(), PruneSpec(conv=0.3, c3=0.3, sppf=0.3), PruneSpec(conv=0.3, c3=0.1, sppf=0.1))


def layers(model: nn.Module) -> list[tuple[str, nn.Conv2d, str]]:
    """(name, convolution, kind of its top-level layer) of each convolution with learned weights, from input to output.

    `name` is the one `model.get_submodule` takes, e.g. "model.2.m.0.cv1.conv".
    """
    return [
        (f"model.{index}.{name}", module, type(layer).__name__)
        for index, layer in enumerate(model.model)
        if type(layer).__name__ in KINDS
        for name, module in layer.named_modules()
        # the anchor-free head computes a fixed expectation as a convolution: zeros there would be a bug, not pruning
        if isinstance(module, nn.Conv2d) and not name.startswith("dfl.")
    ]


def prunable(model: nn.Module, spec: PruneSpec) -> list[tuple[str, nn.Conv2d, str, float]]:
    """(name, convolution, kind, ratio) of each convolution: which one `spec` asks for which ratio, 0..1.

    Reading "own": the ratio of the top-level layer that the convolution belongs to. Reading "any-conv": `spec.conv`
    for every `Conv`, also inside C3 and SPPF; as those hold nothing else, the C3 and SPPF ratios reach nothing.
    "l1-global" has one ratio, `spec.conv`, for all. Detect takes `spec.detect`; in "l1-global" it joins the others,
    at their ratio, if `spec.detect` > 0.

    Source: paper, Figures 3-5, which give ratios as (Conv, C3, SPPF) and leave the reading open.
    """
    everywhere = spec.method == "l1-global" or spec.reading == "any-conv"

    def ratio(kind: str) -> float:
        if kind == "Detect":
            return spec.conv if spec.method == "l1-global" and spec.detect > 0 else spec.detect
        return spec.conv if everywhere else getattr(spec, kind.lower())

    return [(name, conv, kind, ratio(kind)) for name, conv, kind in layers(model)]


def prune(model: nn.Module, spec: PruneSpec) -> nn.Module:
    """A copy of `model` with the weights zeroed that `spec` asks for; `model` itself is left untouched.

    Unstructured methods zero round(ratio * weights) entries of each convolution, structured ones round(ratio * filters)
    whole filters: a small ratio of few filters can round to none, so report `sparsity` beside the ratio. "l1-global"
    zeroes the round(ratio * weights) smallest of all weights together. Biases and batch norm are never pruned, and the
    result has plain parameters, without masks or hooks. Prune before fusing: folded batch norm changes the ranking.

    Source: paper, "L1 norm pruning" with PyTorch's own functions. Random methods are the control it lacks.
    """
    return _pruned_copy(model, {name: r for name, _, _, r in prunable(model, spec)}, spec.method, spec.seed)


def prune_layer(model: nn.Module, name: str, method: str, ratio: float, seed: int = 0) -> nn.Module:
    """A copy of `model` with one convolution pruned, all others dense: a point of the sensitivity analysis.

    That convolution gets the same zeros as in `prune` with the same method, ratio and seed ("l1-global" over a single
    convolution is "l1-unstructured"). SpecError for a name that `layers` does not list and for what PruneSpec refuses.
    """
    spec = PruneSpec(method, conv=ratio, seed=seed)
    names = [known for known, _, _ in layers(model)]
    require(name in names, "layer", name, f"a name out of pruning.layers(model), {names[0]} to {names[-1]}")
    return _pruned_copy(model, {name: spec.conv}, spec.method, spec.seed)


def _pruned_copy(model: nn.Module, ratios: dict[str, float], method: str, seed: int) -> nn.Module:
    yolov5.require_unmasked(model)
    device = next(model.parameters()).device
    # On the CPU, so that the device decides neither ties nor random numbers; contiguous, as torch's pruning needs.
    pruned = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    # As float: torch takes the integer 1 for one weight, not for all.
    chosen = [(name, pruned.get_submodule(name), float(ratio)) for name, ratio in ratios.items() if ratio > 0]
    with torch.no_grad():
        if method == "l1-global" and chosen:
            every = [(conv, "weight") for _, conv, _ in chosen]
            torch_prune.global_unstructured(every, torch_prune.L1Unstructured, amount=chosen[0][2])
        else:
            for name, conv, ratio in chosen:
                scores = random_scores(conv, name, seed) if method.startswith("random") else None
                if method.endswith("-structured"):
                    torch_prune.ln_structured(conv, "weight", ratio, n=1, dim=0, importance_scores=scores)
                else:
                    torch_prune.l1_unstructured(conv, "weight", ratio, importance_scores=scores)
        for _, conv, _ in chosen:
            torch_prune.remove(conv, "weight")
    return pruned.to(device)


def random_scores(conv: nn.Conv2d, name: str, seed: int) -> torch.Tensor:
    """Uniform scores in the weight's shape. Removing the lowest of them is torch's random pruning, from a stream of the
    convolution's own: the global state stays as it is, and masks of growing ratios are nested as those of L1 are."""
    stream = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.rand(conv.weight.shape, generator=stream)


def sparsity(model: nn.Module) -> float:
    """Share 0..1 of all parameters that are zero, biases and batch norm included.

    Source: as the original YOLOv5's function of that name, whose figure the paper prints. It is not the ratio asked
    for, and not quite 0 for a fresh model, whose batch-norm biases start at zero.
    """
    yolov5.require_unmasked(model)
    return _share_of_zeros(model.parameters())


def weight_sparsity(model: nn.Module, kind: str | None = None) -> float:
    """Share 0..1 of convolution weights that are zero; of one kind of layer only, if given ("Conv", "C3" ...)."""
    return _share_of_zeros(conv.weight for _, conv, of_layer in layers(model) if kind in (None, of_layer))


def achieved(model: nn.Module) -> dict[str, float]:
    """What pruning achieved, for a record: sparsity of all parameters, of convolution weights, and of those by kind."""
    present = sorted({kind for _, _, kind in layers(model)}, key=KINDS.index)
    by_kind = {f"{kind.lower()}_sparsity": weight_sparsity(model, kind) for kind in present}
    return {"sparsity": sparsity(model), "weight_sparsity": weight_sparsity(model)} | by_kind


def _share_of_zeros(tensors) -> float:
    counts = [(int((tensor == 0).sum()), tensor.numel()) for tensor in tensors]
    total = sum(size for _, size in counts)
    require(total > 0, "parameters", total, "a model that has some, with layers out of " + ", ".join(KINDS))
    return sum(zeros for zeros, _ in counts) / total


def before_retraining(model: nn.Module, way: str, ratio: float) -> PruneSpec:
    """What a way of RETRAINED prunes: one method for all modules; "by-type": a third of Conv's ratio for C3 and SPPF, as in
    the paper's Figure 3; "even": the one ratio that gives as many zeros as "by-type".
    """
    by_type = PruneSpec(conv=ratio, c3=ratio / 3, sppf=ratio / 3)
    if way == "by-type":
        return by_type
    if way == "even":
        chosen = [(conv.weight.numel(), share) for _, conv, kind, share in prunable(model, by_type) if kind != "Detect"]
        ratio = sum(size * share for size, share in chosen) / sum(size for size, _ in chosen)
    return PruneSpec("l1-unstructured" if way == "even" else way, ratio, ratio, ratio)


def subject(variant: Variant, nc: int, weights: Path | None) -> nn.Module:
    """The fused network that a variant speaks of; random weights if it has none."""
    torch.manual_seed(0)
    network = yolov5.build(variant.model, nc)
    if weights:
        load_weights(network, weights)
    return yolov5.fused(prune(network, variant.prune) if variant.prune else network)


def compute(spec: SweepSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Rows of a sweep, one per point and each on its own: ratios asked, sparsity achieved, mAP without retraining.

    "figures" is scored on resampled images too. Where the points of Figure 3 are among its own, it also has their `control`:
    one ratio for all modules that gives as many zeros as the ratios by type.
    """
    network, images = model_of(parents["weights"]), _images(spec, parents)

    def row(point: PruneSpec) -> dict:
        pruned = prune(network, point)
        scores = evaluate(yolov5.fused(pruned), images, RESAMPLES if spec.label == "figures" else 0)
        kept = {k: scores[k] for k in ("mAP50", "mAP50_95", "mAP50_resampled", "groups") if k in scores}
        return asdict(point) | achieved(pruned) | kept

    rows = [row(point) for point in progress(spec.points, f"pruning, {spec.label}")]
    known = dict(zip(spec.points, rows, strict=True))
    if spec.label != "figures" or not set(CONTROLLED) <= set(known):
        return {"rows": rows}
    even = even_point(CONTROLLED[1].conv, *(known[point]["sparsity"] for point in CONTROLLED))
    return {"rows": rows, "control": row(even)}


def compute_sensitivity(spec: SensitivitySpec, parents: dict[str, Record], folder: Path) -> dict:
    """A row per convolution: mAP with that one alone pruned, and what is lost against the dense network."""
    network, images = model_of(parents["weights"]), _images(spec, parents)
    scores, rows = evaluate(yolov5.fused(network), images), []
    dense = {name: scores[name] for name in ("mAP50", "mAP50_95")}
    for layer, conv, kind in progress(layers(network), "one layer at a time"):
        pruned = prune_layer(network, layer, spec.method, spec.ratio)
        scores = evaluate(yolov5.fused(pruned), images)
        row = {"layer": layer, "module": kind, "weights": conv.weight.numel(), "ratio": spec.ratio}
        row |= {"sparsity": sparsity(pruned)} | {name: scores[name] for name in dense}
        rows.append(row | {"mAP50_lost": dense["mAP50"] - scores["mAP50"]})
    return {"rows": rows, "dense": dense}


def _images(spec: SweepSpec | SensitivitySpec, parents: dict[str, Record]) -> Validation:
    """The split that a spec names, at the size of image that the network was trained with."""
    return Validation(dataset_of(parents["data"]), spec.split, parents["weights"].spec["imgsz"])
