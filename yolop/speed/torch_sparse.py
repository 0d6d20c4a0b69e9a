"""Zeros into speed. Here: what PyTorch's own sparse tensors do for the convolutions of a network today.

The paper ends with the hope that sparse tensors will one day make pruned weights fast. A convolution with kernel 1 is a
matrix product, one with a larger kernel becomes one after `unfold`; sparse matrices times dense ones exist. So the question
can be asked of PyTorch as it is: which layouts does `conv2d` take, and from which sparsity does the detour pay?
"""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from yolop.measure import latency
from yolop.network import yolov5
from yolop.specs import ModelSpec, SparseTensorSpec

LAYOUTS = {  # each takes the weight of a 1x1 convolution as conv2d has it, or as a matrix where the layout has no other
    "COO": torch.Tensor.to_sparse_coo,
    "CSR": torch.Tensor.to_sparse_csr,
    "CSC": torch.Tensor.to_sparse_csc,
    "BSR 4x4": lambda weight: weight.flatten(1).to_sparse_bsr((4, 4)),
    "2:4": lambda weight: torch.sparse.to_sparse_semi_structured(weight.flatten(1)),
}
TIMED = ("COO", "CSR")


def convolution_shapes(model: ModelSpec, imgsz: int) -> list[dict]:
    """Each different convolution of a model once: c1, c2, kernel, stride, input side in pixels, how often it occurs."""
    network, seen = yolov5.build(model, 1).eval(), {}

    def note(conv: nn.Conv2d, inputs, _):
        key = (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], inputs[0].shape[-1])
        seen[key] = seen.get(key, 0) + 1

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 3, imgsz, imgsz))
    return [dict(zip(("c1", "c2", "kernel", "stride", "side"), k, strict=True), count=n) for k, n in seen.items()]


def torch_formats(spec: SparseTensorSpec) -> list[dict]:
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
        for shape in convolution_shapes(spec.model, spec.imgsz):
            dense_path = ""
            for sparsity in spec.sparsities:
                found = _time_layer(spec, shape, sparsity, generator, dense_path)
                dense_path = found[0]["dense_path"]  # decided once per layer
                rows += found
    return rows


def _try_conv2d(name: str, to_layout) -> dict:
    weight = torch.eye(64).view(64, 64, 1, 1)
    row = {"path": "conv2d", "layout": name, "runs": True, "error": ""}
    try:
        F.conv2d(torch.zeros(1, 64, 8, 8), to_layout(weight))
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        row |= {"runs": False, "error": str(error).split("\n")[0][:160]}
    return row


def _time_layer(
    spec: SparseTensorSpec, shape: dict, sparsity: float, generator: torch.Generator, dense: str
) -> list[dict]:
    c1, c2, k, s, side = (shape[name] for name in ("c1", "c2", "kernel", "stride", "side"))
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
        both = latency.measure({k: calls[k] for k in ("conv2d", "matrix product")}, "conv2d", spec.rounds, spec.calls)
        dense = "matrix product" if both[1]["ratio"] < 1 else "conv2d"
    rows = []
    for row in latency.measure({k: calls[k] for k in (dense, *TIMED)}, dense, spec.rounds, spec.calls, warmup=3)[1:]:
        name = row.pop("label")
        about = {
            "path": "matrix product" if k == s == 1 else "unfold, then matrix product",
            "layout": name,
            "runs": True,
            "sparsity": sparsity,
            "dense_path": dense,
            "max_difference": (calls[name]().view_as(expected) - expected).abs().max().item(),
        }
        rows.append(about | shape | row)
    return rows
