"""PyTorch's sparse tensors: refusals are recorded as they are, the detour computes the same convolution."""

from pathlib import Path

import pytest

from yolop.specs import ModelSpec
from yolop.speed import torch_sparse
from yolop.speed_specs import SparseTensorSpec

SPEC = SparseTensorSpec(ModelSpec(0.16, 0.125), 64, (0.5, 0.9), rounds=5, calls=1, threads=1)


@pytest.fixture(scope="module")
def rows():
    """A tiny network, two sparsities."""
    return torch_sparse.compute(SPEC, {}, Path())["rows"]


def test_conv2d_is_tried_with_every_layout(rows):
    tried = [row for row in rows if row["path"] == "conv2d"]
    assert [row["layout"] for row in tried] == list(torch_sparse.LAYOUTS)
    dense = next(row for row in tried if row["layout"] == "COO")
    assert not dense["runs"] and "memory format" in dense["error"]  # in the pinned PyTorch


def test_a_layout_that_runs_is_told_from_one_that_does_not():
    dense = torch_sparse._try_conv2d("dense", lambda weight: weight)
    assert dense == {"path": "conv2d", "layout": "dense", "runs": True, "error": ""}


def test_the_detour_equals_the_dense_convolution(rows):
    timed = [row for row in rows if row["path"] != "conv2d"]
    assert {row["kernel"] for row in timed} == {1, 3, 6} and {row["stride"] for row in timed} == {1, 2}
    assert max(row["max_difference"] for row in timed) < 1e-3
    shapes = {tuple(row[name] for name in torch_sparse.SHAPE) for row in timed}
    assert len(timed) == len(shapes) * len(torch_sparse.TIMED) * len(SPEC.sparsities)


@pytest.mark.parametrize(("product", "faster"), [(0.5, "matrix product"), (2.0, "conv2d")])
def test_sparse_is_compared_to_the_faster_dense_way(product, faster, monkeypatch):
    baselines = []

    def measure(calls, baseline, *_, **options):
        baselines.append(baseline)
        return [{"label": name, "ratio": product} for name in calls]

    monkeypatch.setattr(torch_sparse.latency, "measure", measure)
    rows = [row for row in torch_sparse.compute(SPEC, {}, Path())["rows"] if row["path"] != "conv2d"]
    assert {row["dense_path"] for row in rows} == {faster}
    assert baselines == ["conv2d", faster, faster] * len(torch_sparse.different_shapes(SPEC))  # decided once a layer


def test_every_convolution_is_counted():
    shapes = torch_sparse.different_shapes(SparseTensorSpec(ModelSpec(0.33, 0.25), 64))
    assert sum(shape["count"] for shape in shapes) == 60
    assert len({tuple(shape.values()) for shape in shapes}) == len(shapes)
