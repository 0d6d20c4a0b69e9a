"""What PyTorch's own sparse tensors do for the convolutions of a network today.

The paper ends with the hope that sparse tensors will one day make pruned weights fast. A convolution with kernel 1 is a
matrix product, one with a larger kernel becomes one after `unfold`; sparse matrices times dense ones exist. So the question
can be asked of PyTorch as it is: which layouts does `conv2d` take, and from which sparsity does the detour pay?
"""

from __future__ import annotations

import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from yolop.measure import latency
from yolop.shapes import convolutions_of
from yolop.speed_specs import SparseTensorSpec
from yolop.store import Record

LAYOUTS = {  # each takes the weight of a 1x1 convolution as conv2d has it, or as a matrix where the layout has no other
    "COO": torch.Tensor.to_sparse_coo,
    "CSR": torch.Tensor.to_sparse_csr,
    "CSC": torch.Tensor.to_sparse_csc,
    "BSR 4x4": lambda weight: weight.flatten(1).to_sparse_bsr((4, 4)),
    "2:4": lambda weight: torch.sparse.to_sparse_semi_structured(weight.flatten(1)),
}
TIMED = ("COO", "CSR")
SHAPE = ("c1", "c2", "kernel", "stride", "side")  # side: of the input, in px


def different_shapes(spec: SparseTensorSpec) -> list[dict]:
    """Each different convolution of the model once, by what SHAPE names, and its `count`: how often it occurs."""
    convs = convolutions_of(spec.model, 1)
    seen = Counter((conv.c1, conv.c2, conv.kernel, conv.stride, spec.imgsz // conv.scale) for conv in convs)
    return [dict(zip(SHAPE, shape, strict=True), count=n) for shape, n in seen.items()]


def compute(spec: SparseTensorSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Rows of two kinds: `conv2d` tried with sparse weights of every layout, and the detour as a matrix product, timed.

    Timed rows carry latency_ms of sparse, `ratio` to the faster of the two dense ways for the same layer, conv2d and the
    dense matrix product (`dense_path`), with its interval (below 1: sparse is faster), and the largest difference of the
    outputs. For maps of a few pixels the matrix product alone beats conv2d: that is not the zeros' doing. Weights are
    random, zeros uniform.
    """
    warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta", UserWarning)
    rows = [_try_conv2d(name, to_layout) for name, to_layout in LAYOUTS.items()]
    generator = torch.Generator().manual_seed(0)
    with latency.threads(spec.threads), torch.inference_mode():
        for shape in different_shapes(spec):
            dense_path = ""
            for sparsity in spec.sparsities:
                rows += _time_layer(spec, shape, sparsity, generator, dense_path)
                dense_path = rows[-1]["dense_path"]  # decided once per layer
    return {"rows": rows}


def _try_conv2d(name: str, to_layout) -> dict:
    weight = torch.eye(64).view(64, 64, 1, 1)
    row = {"path": "conv2d", "layout": name, "runs": True, "error": ""}
    try:
        F.conv2d(torch.zeros(1, 64, 8, 8), to_layout(weight))
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        row |= {"runs": False, "error": str(error).split("\n")[0][:160]}
    return row


def _time_layer(spec: SparseTensorSpec, shape: dict, sparsity: float, generator, dense: str) -> list[dict]:
    """A row for each layout of TIMED; `dense`: the faster dense way if it is known, else it is measured first."""
    c1, c2, k, s, side = (shape[name] for name in SHAPE)
    weight = torch.randn(c2, c1, k, k, generator=generator)
    weight.view(-1)[torch.randperm(weight.numel(), generator=generator)[: round(sparsity * weight.numel())]] = 0
    image, padding = torch.randn(1, c1, side, side, generator=generator), (2 if k == 6 else k // 2)

    def product(matrix: torch.Tensor) -> torch.Tensor:
        columns = image.view(c1, -1) if k == s == 1 else F.unfold(image, k, padding=padding, stride=s)[0]
        return matrix @ columns

    calls = {"conv2d": lambda: F.conv2d(image, weight, stride=s, padding=padding)}
    calls["matrix product"] = partial(product, weight.flatten(1))
    calls |= {name: partial(product, LAYOUTS[name](weight.flatten(1))) for name in TIMED}
    expected = calls["conv2d"]()
    if not dense:
        ways = {name: calls[name] for name in ("conv2d", "matrix product")}
        both = latency.measure(ways, "conv2d", spec.rounds, spec.calls)
        dense = "matrix product" if both[1]["ratio"] < 1 else "conv2d"
    path, rows = "matrix product" if k == s == 1 else "unfold, then matrix product", []
    ways = {name: calls[name] for name in (dense, *TIMED)}
    for row in latency.measure(ways, dense, spec.rounds, spec.calls, warmup=3)[1:]:
        name = row.pop("label")
        difference = (calls[name]().view_as(expected) - expected).abs().max().item()
        about = {"path": path, "layout": name, "runs": True, "sparsity": sparsity, "dense_path": dense}
        rows.append(about | {"max_difference": difference} | shape | row)
    return rows
