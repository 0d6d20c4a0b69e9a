"""The sparse engine gives what PyTorch gives, for whatever shape, stride, size and share of zeros."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolop.measure.pruning import prune
from yolop.network import yolov5
from yolop.specs import MODELS, ModelSpec, PruneSpec, SpecError
from yolop.speed import engine


def zeroed(model: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    """Zeros at random in every convolution."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(torch.rand(module.weight.shape, generator=stream) >= sparsity)
    return model


def agree(model: nn.Module, imgsz: int, **options) -> engine.SparseNetwork:
    network = engine.sparsify(model, imgsz, **options)
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(image), network(image)
    for a, b in zip(*((x if isinstance(x, list) else [x]) for x in (expected, found)), strict=True):
        scale = max(float(a.abs().max()), 1.0)
        torch.testing.assert_close(b, a, rtol=0, atol=1e-4 * scale)
    return network


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    c1=st.integers(1, 9),
    c2=st.integers(1, 12),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (6, 6)]),
    stride=st.sampled_from([1, 2]),
    size=st.integers(1, 4),
    odd=st.integers(0, 2),
    sparsity=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    silu=st.booleans(),
    grouped=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_a_convolution_equals_pytorchs(c1, c2, kernel, stride, size, odd, sparsity, silu, grouped, threads):
    """Behind a crop of the image, so that maps have odd sides too."""
    padding = tuple(k // 2 if k % 2 else 2 for k in kernel)
    stride = 2 if kernel == (6, 6) else stride
    torch.manual_seed(c1 * 100 + c2)
    first = nn.Conv2d(3, c1, 1)
    conv = nn.Conv2d(c1, c2, kernel, stride, padding, bias=grouped)
    crop = nn.Conv2d(c1, c1, 1 + odd, bias=False)  # not padded: PyTorch's own, with odd sides behind it
    model = nn.Sequential(first, *([crop] if odd else []), conv, *([nn.SiLU()] if silu else [])).eval()
    zeroed(model[-2 if silu else -1], sparsity)
    zeroed(conv, sparsity)
    before = engine.SparseNetwork._time_ms
    engine.SparseNetwork._time_ms = lambda self, program, *_: float(
        -program["size"][0] if grouped else program["size"][0]
    )
    try:
        agree(model, 32 * size, threads=min(threads, torch.get_num_threads()))
    finally:
        engine.SparseNetwork._time_ms = before


@pytest.mark.parametrize("sparsity", [0.0, 0.9, 1.0])
def test_the_whole_network_equals_pytorchs(sparsity):
    torch.manual_seed(0)
    model = zeroed(yolov5.fused(yolov5.build(MODELS["n"], 3)), sparsity)
    network = agree(model, 96, strict=True)
    assert network.notes == [] and len(network.layers) == 60
    assert all(abs(row["sparsity"] - sparsity) < 0.1 for row in network.layers)


def test_wide_kernels_and_empty_filters_of_a_pruned_model():
    torch.manual_seed(0)
    model = yolov5.build(ModelSpec(0.16, 0.2), 3).eval()
    pruned = yolov5.fused(prune(model, PruneSpec("l1-structured", 0.7, 0.7, 0.7)))
    agree(pruned, 64)


def test_both_ways_to_run_a_layer_agree():
    torch.manual_seed(0)
    model = zeroed(yolov5.fused(yolov5.build(MODELS["n"], 3)), 0.5)
    image = torch.rand(1, 3, 64, 64)
    plain = engine.sparsify(model, 64, choose=False)
    chosen = engine.sparsify(model, 64)
    assert {row["path"] for row in plain.layers} == {"non-zeros"}
    torch.testing.assert_close(plain(image), chosen(image), rtol=1e-4, atol=1e-3)


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
    network = agree(Odd().eval(), 32)
    for word in ("2 groups", "dilation (2, 2)", "ReLU", "MaxPool2d"):
        assert any(word in note for note in network.notes), word
    with pytest.raises(SpecError, match="strict.*groups.*dilation"):
        engine.sparsify(Odd().eval(), 32, strict=True)


def test_shortcuts_and_shared_concatenations():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, 1, 1) for n in (3, 4, 12))
            self.silu = nn.SiLU()

        def forward(self, x):
            a = self.silu(self.a(x))
            b = a + self.silu(self.b(a))
            twice = torch.cat([a, b, a], dim=1)
            return [self.c(twice), torch.cat((b, self.c(twice)), 1), b]

    torch.manual_seed(0)
    network = agree(Net().eval(), 32)
    assert network.notes == []


def test_calls_do_not_disturb_each_other():
    torch.manual_seed(0)
    network = engine.sparsify(yolov5.fused(yolov5.build(MODELS["n"], 3)), 64)
    images = [torch.rand(1, 3, 64, 64) for _ in range(3)]
    first = [network(image) for image in images]
    for image, expected in zip(images, first, strict=True):
        assert torch.equal(network(image), expected)


def test_memory_is_at_most_twice_the_dense_models():
    torch.manual_seed(0)
    model = yolov5.fused(yolov5.build(MODELS["n"], 3))
    weights_mb = sum(p.numel() for p in model.parameters()) * 4 / 1e6
    for sparsity in (0.0, 0.5, 0.9):
        network = engine.sparsify(zeroed(model, sparsity), 320)
        # maps of the dense model: every layer's output lives while PyTorch needs it; at least input and largest output
        assert network.memory_mb < 2 * weights_mb + 2 * 4 * 320 * 320 * (3 + 16 / 4 + 32 / 16) / 1e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.train(), "training mode"),
        (lambda m: m.double(), "float64"),
        (lambda m: m.model[0].conv.weight.data.fill_(np.nan) is None or m, "NaN"),
    ],
)
def test_models_it_cannot_work_with_are_refused_before_anything_is_compiled(change, message):
    model = yolov5.fused(yolov5.build(MODELS["n"], 3))
    with pytest.raises(SpecError, match=message):
        engine.sparsify(change(model) or model, 64)


def test_wrong_requests_are_refused():
    model = yolov5.build(MODELS["n"], 3).eval()
    with pytest.raises(SpecError, match="batch norm.*yolov5.fused"):
        engine.sparsify(model, 64)
    model = yolov5.fused(model)
    for options, message in (({"imgsz": 100}, "multiple of 32"), ({"imgsz": 64, "threads": 0}, "threads.*cores")):
        with pytest.raises(SpecError, match=message):
            engine.sparsify(model, **options)
    network = engine.sparsify(model, 64)
    for image in (torch.rand(2, 3, 64, 64), torch.rand(1, 3, 96, 64), torch.rand(1, 3, 64, 64).double(), "picture"):
        with pytest.raises(SpecError, match=r"float32 tensor of shape \(1, 3, 64, 64\)"):
            network(image)


NARROW = """
import sys, numba
numba.njit(lambda x: x + 1)(1)  # the compiler itself knows the real machine
import llvmlite.binding as llvm
llvm.get_host_cpu_features = lambda: dict.fromkeys(sys.argv[1:], True)
import torch
from yolop.network import yolov5
from yolop.speed import engine, kernels
from yolop.specs import ModelSpec
torch.manual_seed(0)
model = yolov5.fused(yolov5.build(ModelSpec(0.16, 0.125), 3))
for conv in (m for m in model.modules() if isinstance(m, torch.nn.Conv2d)):
    torch.nn.init.normal_(conv.weight, std=0.1)
    conv.weight.data.mul_(torch.rand(conv.weight.shape) > 0.7)
image = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    torch.testing.assert_close(engine.sparsify(model, 64)(image), model(image), rtol=1e-3, atol=1e-3)
print(kernels.LANES)
"""


@pytest.mark.parametrize(("features", "lanes"), [(["avx2"], 8), ([], 4)])
def test_narrower_processors_compute_the_same(features, lanes, tmp_path):
    """With the registers of AVX2 and of ARM; what a machine has compiled for itself is left alone."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NARROW, *features], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.split()[-1] == str(lanes), done.stderr


OFFICIAL = Path(__file__).resolve().parents[1].parent / "shared/weights"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official weights are not beside the project")
def test_the_lines_of_the_readme_run():
    """A user's road, word for word: official weights, zeros, the engine; same predictions as the pruned model."""
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python")[1].split("```")[0]
    image = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    names = {"image": image}
    exec(code.replace('"yolov5n.pt"', repr(str(OFFICIAL / "yolov5n-v6.0.pt"))), names)  # our own README
    with torch.no_grad():
        expected = names["model"](image)
    torch.testing.assert_close(names["predictions"][..., 4:], expected[..., 4:], rtol=0, atol=1e-4)
    assert names["fast"].notes == []
