"""Focus and the convolution that replaced it compute the same."""

from pathlib import Path

from yolop.measure import stem
from yolop.specs import StemSpec


def test_focus_and_the_6x6_convolution_are_one_linear_map():
    found = stem.compute(StemSpec(16, 64, rounds=5, calls=1), {}, Path())
    assert found["max_output"] > 0.1
    assert found["max_difference"] < 1e-5
    assert [row["label"] for row in found["rows"]] == ["Focus", "Conv 6x6", "Focus (again)"]
