"""The atlas has every convolution of its models, each once, and measures what it says it measures."""

from torch import nn

from yolop.network import yolov5
from yolop.specs import MODELS, AtlasSpec
from yolop.speed import atlas


def test_every_convolution_is_found_with_the_side_that_it_reads():
    found = atlas.shapes(MODELS["n"], 3, 64)
    network = yolov5.fused(yolov5.build(MODELS["n"], 3))
    assert len(found) == sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 60
    assert found[0] == (3, 16, 6, 2, 64) and found[1] == (16, 32, 3, 2, 32) and found[-1] == (256, 24, 1, 1, 2)


def test_rows_cover_shapes_and_sparsities_and_a_control():
    spec = AtlasSpec((("p", MODELS["p"]),), 3, 32, (0.0, 0.9), rounds=5, calls=1, threads=1)
    rows = atlas.measure(spec)
    shapes = set(atlas.shapes(MODELS["p"], 3, 32))
    assert len(rows) == 3 * len(shapes)
    assert sum(row["counts"]["p"] for row in rows if row["sparsity"] == 0.9) == len(atlas.shapes(MODELS["p"], 3, 32))
    assert {row["path"] for row in rows if row["sparsity"] is None} == {"dense again"}
    assert all(row["dense_ms"] > 0 and row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows)
