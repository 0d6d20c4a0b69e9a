"""The engine in 8 bits: runs a `quantised.Network8` by its blocks of four weights that are not all zero.

As in float32, each convolution runs either filter by filter, leaving out every block that is zero, or in groups of four
filters that share their inputs, whichever measures faster on the machine at hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from yolop.speed import kernels8, quantised
from yolop.speed.kernels8 import BY_TABLE, PACK, RAW, SIGMOID, TILES
from yolop.speed.program import Engine, Op, slots


class QuantisedNetwork(Engine):
    """What `engine.sparsify` returns for 8 bits, and `engine.load`. One call at a time: the maps are shared between calls.

    Attributes, beside those of `Engine`:
        network: operations with weights, scales and tables, as `save` keeps them.
        notes: maps with more than 0.1 % of their values beyond what their 8 bits hold.
    """

    pack, kernel, most = PACK, staticmethod(kernels8.execute), TILES

    def __init__(self, network: quantised.Network8, threads: int, choose: bool = True):
        self.network, self.threads, self.shape, self.notes = network, threads, network.shape, network.notes
        self._plan(network.ops, network.outputs, network.anchors, network.numbers, choose)

    def save(self, path: Path) -> None:
        """Write the network as `path`, safetensors, with a json file beside it; `engine.load` reads them."""
        quantised.save(self.network, path)

    def _words(self, op: Op) -> tuple[np.ndarray, int, int]:
        weight, first_row, first_column = slots(op, op.conv.weight, PACK)
        count, channels, rows, columns = weight.shape
        blocks = weight.reshape(count, channels // PACK, PACK, rows, columns).transpose(0, 1, 3, 4, 2)
        return np.ascontiguousarray(blocks).view(np.int32)[..., 0], first_row, first_column

    def _numbers(self, op: Op, filters: int) -> tuple[np.ndarray, np.ndarray]:
        numbers, count = np.zeros((filters, 4), np.float32), len(op.conv.weight)
        sums = -(op.conv.weight.astype(np.int64) * op.conv.zero[:, None, None]).sum(axis=(1, 2, 3))
        numbers.view(np.int32)[:count, 0] = sums
        numbers[:count, 1], numbers[:count, 2] = op.conv.scale, op.conv.bias
        return numbers, op.conv.table

    def _act(self, op: Op, final: bool) -> int:
        return BY_TABLE if not final else SIGMOID if self.numbers else RAW

    def _pads(self, op: Op, planes: int) -> np.ndarray:
        zeros = np.zeros(PACK * planes, np.uint8)
        zeros[: op.dst.channels] = op.dst.buffer.zeros[op.dst.channel : op.dst.channel + op.dst.channels]
        return zeros.view(np.int32)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor):
        self.execute(self.program, self.tables, self.require_image(image))
        return self.results(self.network.many)
