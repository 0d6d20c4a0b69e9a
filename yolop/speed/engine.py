"""Zeros into speed: run a pruned network by its non-zero weights, on an ordinary CPU.

`sparsify(model, imgsz)` traces a fused YOLOv5-style model, lays all its feature maps out in one array that is planned once,
and makes it a program of few operations (`kernels`). Concatenations cost nothing, as their parts are written side by side;
bias, SiLU and shortcuts are part of the convolution. Each convolution runs by its non-zero weights or, where that measures
faster on the machine at hand, in groups of four filters that share their inputs, which is how the engine runs dense ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from yolop.network.yolov5 import require_unmasked
from yolop.specs import SpecError, require
from yolop.speed import kernels, quantised
from yolop.speed.engine8 import QuantisedNetwork
from yolop.speed.program import CORES, Engine, Op, slots
from yolop.speed.tracing import traced

PRECISIONS = ("float32", "int8")


def sparsify(
    model: nn.Module,
    imgsz: int,
    threads: int | None = None,
    strict: bool = False,
    choose: bool = True,
    precision: str = "float32",
    calibration: Sequence | None = None,
):
    """A callable that computes what `model` does for one image of imgsz x imgsz, faster if its weights are mostly zero.

    Args:
        model: fused (no batch norm), float32, on the CPU, in evaluation mode, as of `yolov5.fused`. A YOLOv5-style model
            (its `model` a sequence of layers with `f`, what they read; a Detect of other code is run by PyTorch), or any module
            from map to map that torch.fx traces.
        imgsz: pixels, a multiple of 32.
        threads: of the engine itself, at most one per core; default: torch's current number. None of Numba's threading
            layers is needed.
        strict: refuse what the engine cannot run itself instead of handing it to PyTorch.
        choose: measure each convolution in both ways and keep the faster; False: all by their non-zero weights.
        precision: "float32" or "int8". In 8 bits (`engine8`) every network is faster, also one without zeros; where the processor
            or the engine cannot do that, the network runs in float32 and its notes say why.
        calibration: for int8, photographs of the train split that show which values occur: (3, imgsz, imgsz) uint8, about 128.

    Returns:
        SparseNetwork, or `engine8.QuantisedNetwork`. Called with (1, 3, imgsz, imgsz) float32 it gives the model's outputs; in
        float32 equal to float32 noise (within 1e-4 of the largest value on YOLOv5n); its `layers` say how each convolution runs.

    Raises:
        SpecError: a model, size or number that it cannot work with, before anything is compiled.
    """
    threads = min(torch.get_num_threads(), len(CORES)) if threads is None else threads
    require(1 <= threads <= len(CORES), "threads", threads, f"1 to {len(CORES)}, the cores of this machine")
    require(imgsz > 0 and imgsz % 32 == 0, "imgsz", imgsz, "a multiple of 32 pixels")
    require_unmasked(model)
    way_out = "yolov5.fused(model), float32, on the CPU"
    require(not any(m.training for m in model.modules()), "training mode", True, "model.eval()")
    require(not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "batch norm", "unfused", way_out)
    for name, p in model.named_parameters():
        require(p.dtype == torch.float32 and p.device.type == "cpu", name, f"{p.dtype} on {p.device}", way_out)
        require(bool(p.isfinite().all()), name, "NaN or infinity", "a model with finite weights")
    require(precision in PRECISIONS, "precision", precision, "one of " + ", ".join(PRECISIONS))
    shape = (1, 3, imgsz, imgsz)
    if precision == "float32":
        return SparseNetwork(model, shape, threads, strict, choose)
    network, why = quantised.quantised(model, shape, quantised.require_calibration(calibration, shape))
    if network is not None:
        return QuantisedNetwork(network, threads, choose)
    if strict:
        raise SpecError(f"the engine cannot run this in 8 bits: {why}; with strict=False it runs in float32")
    slower = SparseNetwork(model, shape, threads, strict, choose)
    slower.notes.append(f"float32 instead of 8 bits: {why}")
    return slower


def load(path: Path, threads: int | None = None, choose: bool = True) -> QuantisedNetwork:
    """A network in 8 bits that `QuantisedNetwork.save` wrote, without its model; SpecError for damaged files."""
    threads = min(torch.get_num_threads(), len(CORES)) if threads is None else threads
    require(1 <= threads <= len(CORES), "threads", threads, f"1 to {len(CORES)}, the cores of this machine")
    return QuantisedNetwork(quantised.load(path), threads, choose)


class SparseNetwork(Engine):
    """What `sparsify` returns for float32. One call at a time: the maps are shared between calls.

    Attributes, beside those of `Engine`:
        notes: what PyTorch runs instead, and why; empty if the engine runs all.
    """

    kernel, most = staticmethod(kernels.execute), {1: kernels.TILE, kernels.GROUP: kernels.GROUP_TILE}

    def __init__(self, model: nn.Module, shape: tuple, threads: int, strict: bool, choose: bool):
        self.shape, self.threads, self.notes = shape, threads, []
        self.traced, reader, detect, self.head = traced(model, shape, self.notes)
        ops, outputs, self.many = reader.read()
        if strict and self.notes:
            raise SpecError(f"the engine cannot run {'; '.join(self.notes)}: with strict=False PyTorch runs them")
        whole = detect is not None and all(any(op.conv and op.dst is m for op in ops) for m in outputs)
        anchors = detect.anchors.numpy().reshape(-1, 2) if whole else np.zeros((1, 2))
        self._plan(ops, outputs, anchors, detect.no if whole else 0, choose)
        stops = [i for i, op in enumerate(self.ops) if op.node]
        edges = zip([0, *(i + 1 for i in stops)], [*stops, len(self.ops)], strict=True)
        self.segments = [(self.program[a:b], self.ops[b] if b < len(self.ops) else None) for a, b in edges]

    def _words(self, op: Op) -> tuple[np.ndarray, int, int]:
        return slots(op, op.conv.weight.detach().numpy(), 1)

    def _numbers(self, op: Op, filters: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.zeros((filters, 4), np.float32)
        numbers[:, 2] = 0.0 if op.conv.bias is None else op.conv.bias.detach().numpy()
        return numbers, np.zeros(0, np.float32)

    def _act(self, op: Op, final: bool) -> int:
        return kernels.RAW_SIGMOID if final and self.numbers else op.act

    def _pads(self, op: Op, planes: int) -> np.ndarray:
        return np.zeros(0, np.int32)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor):
        pixels = self.require_image(image)
        for program, op in self.segments:
            self.execute(program, self.tables, pixels)
            if op:
                self._in_torch(op, image)
        results = self.results(self.many)
        return results if self.head is None else self.head(results)

    def _in_torch(self, op: Op, image: torch.Tensor) -> None:
        """Run one node of the graph by PyTorch, and put its result where the engine reads it."""
        interpreter = fx.Interpreter(self.traced)
        inputs = (image if m is None else self._view(m).clone() for m in op.inputs)
        interpreter.env = dict(zip(op.node.all_input_nodes, inputs, strict=True))
        result = interpreter.run_node(op.node)
        at, length, pitch = self.layout.where(op.dst)
        first = at - self.layout.reach * pitch - self.layout.reach
        self.maps[first : first + op.dst.channels * length] = 0
        self._view(op.dst).copy_(result)
