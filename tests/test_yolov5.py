"""The models are the original's: parameters layer by layer, FLOPs by two counts, and shapes."""

import json
from pathlib import Path

import pytest
import torch

from yolop import shapes
from yolop.network import yolov5
from yolop.shapes import scaled_depth, scaled_width
from yolop.specs import MODELS, ModelSpec, PruneSpec, SpecError

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "parameter_counts.json"
PUBLISHED_GFLOPS = {"n": 4.5, "s": 16.5, "m": 49.0, "l": 109.1, "x": 205.7}  # the original's README, 640 px, 80 classes


@pytest.mark.skipif(not REFERENCE.exists(), reason="reference counts of the original are not beside the project")
def test_counts_equal_the_original_layer_by_layer():
    for key, expected in json.loads(REFERENCE.read_text()).items():
        name, nc = key.split("_nc")
        spec = MODELS[name]
        assert shapes.parameters(spec, int(nc)) == expected["layers"], key
        counted = [row["parameters"] for row in yolov5.census(spec, int(nc), 64)]
        assert counted == expected["layers"] and sum(counted) == expected["parameters"], key


@pytest.mark.parametrize("spec", [MODELS["p"], ModelSpec(0.2, 0.125), ModelSpec(0.5, 0.3)])
def test_closed_form_equals_the_built_model(spec):
    model = yolov5.build(spec, 5)
    built = [sum(p.numel() for p in layer.parameters()) for layer in model.model]
    assert built == shapes.parameters(spec, 5)


@pytest.mark.parametrize("name", PUBLISHED_GFLOPS)
def test_flops_are_the_published_ones(name):
    gflops = sum(row["gflops"] for row in yolov5.census(MODELS[name], 80, 640))
    assert gflops == pytest.approx(PUBLISHED_GFLOPS[name], rel=0.01)


def test_flops_agree_with_a_second_counter():
    import copy

    from thop import profile  # ultralytics-thop: counts multiply-adds, and batch norm as operations too

    model = yolov5.build(MODELS["p"], 5).eval()
    macs = profile(copy.deepcopy(model), inputs=(torch.zeros(1, 3, 64, 64),), verbose=False)[0]
    gflops = sum(row["gflops"] for row in yolov5.census(MODELS["p"], 5, 64))
    assert gflops > 0
    assert 2 * macs / 1e9 == pytest.approx(gflops, rel=0.03)


def test_p_is_smaller_than_n_in_both_ways():
    n, p = MODELS["n"], MODELS["p"]
    assert p.depth < n.depth and p.width < n.width
    assert sum(shapes.parameters(p, 5)) < sum(shapes.parameters(n, 5))
    assert scaled_depth(9, p.depth) < scaled_depth(9, n.depth)
    assert scaled_width(1024, p.width) < scaled_width(1024, n.width)


def test_fusing_changes_no_output():
    torch.manual_seed(0)
    model = yolov5.build(MODELS["p"], 5).train()
    for _ in range(3):
        model(torch.rand(4, 3, 64, 64))  # batch norm gets statistics worth folding
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(yolov5.fused(model)(x), model.eval()(x), rtol=1e-4, atol=1e-3)


def test_batch_norm_is_the_originals():
    norms = [m for m in yolov5.build(MODELS["n"], 3).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_the_anchor_free_head_is_one_switch_away():
    model = yolov5.build(ModelSpec(0.33, 0.25, "anchor-free"), 3).eval()
    assert model(torch.zeros(1, 3, 64, 64))[0].shape == (1, 4 + 3, 84)


@pytest.mark.parametrize("values", [(0, 0.25), (0.33, -1), (33, 0.25), (float("nan"), 0.25)])
def test_impossible_sizes_are_refused(values):
    with pytest.raises(SpecError, match="depth|width"):
        ModelSpec(*values)


def test_masks_that_are_still_on_are_refused_with_the_way_out():
    from torch.nn.utils import prune as torch_prune

    from yolop.measure import pruning
    from yolop.speed import engine

    model = yolov5.build(ModelSpec(0.16, 0.1), 3).eval()
    torch_prune.l1_unstructured(model.model[1].conv, "weight", amount=0.5)
    for use in (yolov5.fused, lambda m: pruning.prune(m, PruneSpec(conv=0.1)), lambda m: engine.sparsify(m, 64)):
        with pytest.raises(SpecError, match=r"mask of pruning = 'model\.1\.conv\.weight_mask'.*prune\.remove"):
            use(model)
    torch_prune.remove(model.model[1].conv, "weight")
    yolov5.fused(model)
