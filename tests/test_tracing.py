"""What the engine fuses, shares or leaves to PyTorch, and where its maps lie."""

import itertools

import pytest
import torch
from support import agree, network
from torch import nn

from yolop.specs import SpecError
from yolop.speed import engine


class Odd(nn.Module):
    """What the engine does not run: groups, dilation, another activation, a pooling of stride 2."""

    def __init__(self):
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.dilated, self.relu = nn.Conv2d(8, 8, 3, 1, 2, dilation=2), nn.ReLU()
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.relu(self.first(x))
        y = self.dilated(self.grouped(x))
        y += x
        return self.last(torch.cat([self.pool(y), self.pool(x)], 1))


def test_what_the_engine_cannot_run_pytorch_runs_and_it_says_so():
    torch.manual_seed(0)
    fast = agree(Odd().eval(), 32)
    for word in ("2 groups", "dilation (2, 2)", "ReLU", "MaxPool2d"):
        assert any(word in note for note in fast.notes), word
    with pytest.raises(SpecError, match="^the engine cannot run .*2 groups.*dilation.*strict=False PyTorch runs them$"):
        engine.sparsify(Odd().eval(), 32, strict=True)


class Joined(nn.Module):
    """A shortcut, a map that is concatenated twice, and several outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, 1, 1) for n in (3, 4, 12))
        self.silu = nn.SiLU()

    def forward(self, x):
        a = self.silu(self.a(x))
        b = a + self.silu(self.b(a))
        twice = torch.cat([a, b, a], dim=1)
        return [self.c(twice), torch.cat((b, self.c(twice)), 1), b]


def test_shortcuts_and_shared_concatenations():
    torch.manual_seed(0)
    assert agree(Joined().eval(), 32).notes == []


def test_maps_share_memory_but_never_at_the_same_time():
    fast = engine.sparsify(network(), 64, choose=False)
    buffers = list({id(m.buffer): m.buffer for op in fast.ops for m in op.maps}.values())
    floats = {id(b): b.channels * b.plane for b in buffers}
    assert fast.maps.size < sum(floats.values()) / 3
    for one, other in itertools.combinations(buffers, 2):
        if one.born <= other.dies and other.born <= one.dies:
            low, high = sorted((one, other), key=lambda b: b.start)
            assert low.start + floats[id(low)] <= high.start
