"""The atlas has every convolution of its models, each once, and measures what it says it measures."""

from pathlib import Path

from yolop.shapes import convolutions_of
from yolop.specs import MODELS
from yolop.speed import atlas
from yolop.speed_specs import AtlasSpec


def test_rows_cover_shapes_and_sparsities_and_a_control():
    spec = AtlasSpec((("p", MODELS["p"]),), 3, 32, (0.0, 0.9), rounds=5, calls=1, threads=1)
    rows = atlas.compute(spec, {}, Path())["rows"]
    convs = convolutions_of(MODELS["p"], 3)
    shapes = {(c.c1, c.c2, c.kernel, c.stride, 32 // c.scale) for c in convs}
    assert len(rows) == 3 * len(shapes)
    assert sum(row["counts"]["p"] for row in rows if row["sparsity"] == 0.9) == len(convs)
    assert {row["path"] for row in rows if row["sparsity"] is None} == {"dense again"}
    assert all(row["dense_ms"] > 0 and row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows)
