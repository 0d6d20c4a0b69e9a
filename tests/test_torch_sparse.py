"""PyTorch's sparse tensors: refusals are recorded as they are, the detour computes the same convolution."""

import pytest

from yolop.specs import ModelSpec, SparseTensorSpec
from yolop.speed import torch_sparse


@pytest.fixture(scope="module")
def rows():
    """A tiny network, two sparsities."""
    return torch_sparse.torch_formats(
        SparseTensorSpec(ModelSpec(0.16, 0.125), 64, (0.5, 0.9), rounds=5, calls=1, threads=1)
    )


def test_conv2d_is_tried_with_every_layout(rows):
    tried = [row for row in rows if row["path"] == "conv2d"]
    assert [row["layout"] for row in tried] == list(torch_sparse.LAYOUTS)
    assert all(row["runs"] or row["error"] for row in tried)


def test_the_detour_equals_the_dense_convolution(rows):
    timed = [row for row in rows if row["path"] != "conv2d"]
    assert {row["kernel"] for row in timed} == {1, 3, 6} and {row["stride"] for row in timed} == {1, 2}
    assert max(row["max_difference"] for row in timed) < 1e-3
    assert min(row["ratio"] for row in timed) > 0


def test_every_convolution_is_counted():
    shapes = torch_sparse.convolution_shapes(ModelSpec(0.33, 0.25), 64)
    assert sum(shape["count"] for shape in shapes) == 60
    assert len({tuple(shape.values()) for shape in shapes}) == len(shapes)
