"""The sparse engine gives what PyTorch gives, for whatever shape, stride, size and share of zeros."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import agree, network, prefer, zeroed
from torch import nn

from yolop.measure.pruning import prune
from yolop.network import yolov5
from yolop.specs import MODELS, ModelSpec, PruneSpec, SpecError
from yolop.speed import engine


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
    first, conv = nn.Conv2d(3, c1, 1), zeroed(nn.Conv2d(c1, c2, kernel, stride, padding, bias=grouped), sparsity)
    crop = nn.Conv2d(c1, c1, 1 + odd, bias=False)  # not padded: PyTorch's own, with odd sides behind it
    model = nn.Sequential(first, *([crop] if odd else []), conv, *([nn.SiLU()] if silu else [])).eval()
    with pytest.MonkeyPatch.context() as patch:
        prefer(patch, 4 if grouped else 1)
        fast = agree(model, 32 * size, threads=min(threads, torch.get_num_threads()))
    assert fast.layers[-1]["path"] == ("groups of four" if grouped and c2 % 4 == 0 else "non-zeros")


@pytest.mark.parametrize(("sparsity", "grouped"), [(0.0, True), (0.5, False), (0.9, False), (0.9, True), (1.0, False)])
def test_the_whole_network_equals_pytorchs_in_both_ways(sparsity, grouped, monkeypatch):
    prefer(monkeypatch, 4 if grouped else 1)
    fast = agree(network(sparsity=sparsity), 96, strict=True)
    assert fast.notes == [] and len(fast.layers) == 60
    assert all(abs(row["sparsity"] - sparsity) < 0.1 for row in fast.layers)


def test_wide_kernels_and_empty_filters_of_a_pruned_model():
    torch.manual_seed(0)
    model = yolov5.build(ModelSpec(0.16, 0.2), 3).eval()
    agree(yolov5.fused(prune(model, PruneSpec("l1-structured", 0.7, 0.7, 0.7))), 64)


def test_calls_do_not_disturb_each_other():
    fast = engine.sparsify(network(), 64)
    images = [torch.rand(1, 3, 64, 64) for _ in range(3)]
    first = [fast(image) for image in images]
    for image, expected in zip(images, first, strict=True):
        assert torch.equal(fast(image), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_a_weight_costs_its_value_and_an_offset_and_a_zero_nothing(sparsity):
    model = network(sparsity=sparsity)
    fast = engine.sparsify(model, 64, choose=False)
    nonzeros = sum(int(m.weight.count_nonzero()) for m in model.modules() if isinstance(m, nn.Conv2d))
    filters = sum(len(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d))
    others_mb = fast.memory_mb - (4 * fast.maps.size + (4 + 4) * nonzeros) / 1e6
    assert 0 < others_mb < (8 * 5 * filters + 1e5) / 1e6  # five numbers a filter, and the program


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda m: m.train(), {}, "training mode"),
        (lambda m: m.double(), {}, "float64"),
        (lambda m: m.model[0].conv.weight.data.fill_(np.nan), {}, "NaN"),
        (lambda m: m, {"imgsz": 100}, "multiple of 32"),
        (lambda m: m, {"threads": 0}, "threads.*cores"),
    ],
)
def test_what_it_cannot_work_with_is_refused_before_anything_is_compiled(change, options, message):
    model = network()
    change(model)
    with pytest.raises(SpecError, match=message):
        engine.sparsify(model, **{"imgsz": 64} | options)


def test_a_head_of_other_code_runs_in_pytorch_and_gives_its_own_output():
    torch.manual_seed(0)
    model, image = yolov5.fused(yolov5.build(ModelSpec(0.16, 0.2, "anchor-free"), 3)), torch.rand(1, 3, 64, 64)
    fast = engine.sparsify(model, 64)
    with torch.no_grad():
        torch.testing.assert_close(fast(image)[0], model(image)[0], rtol=0, atol=1e-3)
    assert fast.notes == ["the head, ultralytics.nn.modules.head.Detect, by PyTorch"]
    with pytest.raises(SpecError, match="the engine cannot run the head.*strict=False"):
        engine.sparsify(model, 64, strict=True)


def test_unfused_models_and_other_images_are_refused():
    with pytest.raises(SpecError, match="batch norm.*yolov5.fused"):
        engine.sparsify(yolov5.build(MODELS["n"], 3).eval(), 64)
    fast = engine.sparsify(network(), 64)
    for image in (torch.rand(2, 3, 64, 64), torch.rand(1, 3, 96, 64), torch.rand(1, 3, 64, 64).double(), "picture"):
        with pytest.raises(SpecError, match=r"float32 tensor of shape \(1, 3, 64, 64\)"):
            fast(image)


OFFICIAL = Path(__file__).resolve().parents[1].parent / "shared/weights"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official weights are not beside the project")
def test_the_lines_of_the_readme_run():
    """A user's lines, word for word: official weights, zeros, the engine; same predictions as the pruned model."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "engine.md").read_text(encoding="utf-8")
    code = text.split("```python")[1].split("```")[0]
    names = {"image": torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))}
    exec(code.replace('"yolov5n.pt"', repr(str(OFFICIAL / "yolov5n-v6.0.pt"))), names)  # our own page
    with torch.no_grad():
        expected = names["model"](names["image"])
    torch.testing.assert_close(names["predictions"][..., 4:], expected[..., 4:], rtol=0, atol=1e-4)
    assert names["fast"].notes == []
