"""The engine in 8 bits gives, bit for bit, what the same arithmetic gives in plain NumPy; and little less than float32."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support import network, prefer, zeroed
from torch import nn

from yolop.network import yolov5
from yolop.specs import MODELS, SpecError
from yolop.speed import engine, kernels, quantised, tiles

pytestmark = pytest.mark.skipif(not tiles.VNNI, reason="this processor has no AVX-512 VNNI")
one = np.float32(1)


def photographs(imgsz: int, count: int = 8) -> np.ndarray:
    """Smooth random pictures, (count, 3, imgsz, imgsz) uint8."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return (nn.functional.interpolate(coarse, (imgsz, imgsz), mode="bilinear") * 255).byte().numpy()


def fma(a, b, c):
    """a * b + c rounded once, float32: the double's last bit is set where double precision had to round (rounding to odd)."""
    product, c = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = product + c
    rest = total - product
    error = (product - (total - rest)) + (c - rest)
    bits = np.atleast_1d(total).view(np.int64)
    even = (np.atleast_1d(error) != 0) & (bits % 2 == 0)
    away = np.where((np.atleast_1d(error) > 0) == (np.atleast_1d(total) > 0), 1, -1)
    return np.where(even, bits + away, bits).view(np.float64).reshape(total.shape).astype(np.float32)


def one_plus_exp(x):
    """1 + exp(-x) as the kernels compute it."""
    t = np.clip(x * np.float32(-1.4426950408889634), np.float32(-126), np.float32(126))
    n = np.floor(t + np.float32(0.5))
    e = np.full_like(x, np.float32(1.5403530e-4))
    for c in tiles.EXP2:
        e = fma(e, t - n, np.float32(c))
    return e * ((n.astype(np.int32) + 127) << 23).view(np.float32) + one


def sums(x, conv):
    """Integer sums of a convolution over bytes (channels, h, w) around which their zero points lie, without these."""
    (py, px), (rows, columns), s = conv.padding, conv.weight.shape[2:], conv.stride[0]
    wide = np.pad(x.astype(np.int64) - conv.zero[:, None, None], ((0, 0), (py, py), (px, px)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (rows, columns), axis=(1, 2))[:, ::s, ::s]
    return np.einsum("cyxij,fcij->fyx", windows, conv.weight.astype(np.int64), optimize=True)


def column(values):
    return np.asarray(values)[:, None, None]


def reference(net, image):
    """Outputs of a network in 8 bits for (3, h, w) float32, operation by operation in NumPy."""
    memory = {}

    def read(m):
        return memory[id(m.buffer)][m.channel : m.channel + m.channels]

    for op in net.ops:
        b = op.dst.buffer
        if op.kind == kernels.MOVE and op.size == -2:
            memory[id(b)] = np.clip(fma(image, 255, 0.5), 0, 255).astype(np.uint8) if op.src is None else read(op.src)
            continue  # the convolution that follows reads it with a stride of 2
        if op.kind == kernels.MOVE:
            y = read(op.src).repeat(op.size, 1).repeat(op.size, 2)
        elif op.kind == kernels.MAXPOOL:
            y = nn.functional.max_pool2d(torch.from_numpy(read(op.src).astype(np.float32)), op.size, 1, op.size // 2)
            y = y.numpy().astype(np.uint8)
        else:
            x = memory[id(op.src.buffer)] if op.conv.stride[0] == 2 else read(op.src)
            y = fma(sums(x, op.conv).astype(np.float32), column(op.conv.scale), column(op.conv.bias))
            if not len(op.conv.table):
                memory[id(b)] = one / one_plus_exp(y) if net.numbers else y / one_plus_exp(y) if op.act == tiles.SILU else y
                continue
            terms, factor = op.conv.table[:-1].reshape(3, -1), op.conv.table[-1]
            segment = np.rint(np.clip(y, np.float32(-8), np.float32(7.5)) * 2).astype(int) % terms.shape[1]
            y = fma(fma(terms[2][segment], y, terms[1][segment]), y, terms[0][segment])
            if op.add:
                y = fma(read(op.add).astype(np.float32), factor, y)
            y = np.clip(y.astype(np.int32), 0, 255).astype(np.uint8)
        memory.setdefault(id(b), np.zeros((b.channels, b.height, b.width), np.uint8))
        memory[id(b)][op.dst.channel : op.dst.channel + op.dst.channels] = y
    return [memory[id(m.buffer)] for m in net.outputs]


def equal_to_the_reference(fast, image):
    """The engine's outputs, before boxes are made of them, against the reference; bit for bit."""
    fast(image)
    for m, expected in zip(fast.network.outputs, reference(fast.network, image[0].numpy()), strict=True):
        np.testing.assert_array_equal(fast._view(m)[0].numpy().copy().view(np.int32), expected.view(np.int32))


def picture(imgsz: int) -> torch.Tensor:
    return torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(1))


def stem(filters: int) -> nn.Conv2d:
    """What a YOLOv5 begins with."""
    return nn.Conv2d(3, filters, 6, 2, 2)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    c1=st.integers(1, 9),
    c2=st.integers(1, 12),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (6, 6)]),
    stride=st.sampled_from([1, 2]),
    side=st.integers(1, 4),
    sparsity=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    silu=st.booleans(),
    size=st.sampled_from([1, 4]),
    threads=st.sampled_from([1, 2]),
)
def test_a_convolution_equals_the_reference_bit_for_bit(c1, c2, kernel, stride, side, sparsity, silu, size, threads):
    padding = tuple(k // 2 if k % 2 else 2 for k in kernel)
    stride = 2 if kernel == (6, 6) else stride
    torch.manual_seed(c1 * 100 + c2)
    middle = zeroed(nn.Conv2d(c1, c2, kernel, stride, padding), sparsity)
    after = [nn.SiLU()] if silu else []
    model = nn.Sequential(stem(c1), nn.SiLU(), middle, *after, nn.Conv2d(c2, 5, 1), *after).eval()
    with pytest.MonkeyPatch.context() as patch:
        prefer(patch, size)
        threads = min(threads, len(engine.CORES))
        fast = engine.sparsify(model, 32 * side, threads, True, precision="int8", calibration=photographs(32 * side))
    equal_to_the_reference(fast, picture(32 * side))
    seen = torch.from_numpy(photographs(32 * side)[:1]).float() / 255
    with torch.no_grad():
        expected = model(seen)
    assert (fast(seen) - expected).abs().max() < 0.05 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize(("name", "sparsity", "size"), [("n", 0.0, 4), ("n", 0.9, 1), ("p", 0.5, 1)])
def test_a_whole_network_equals_the_reference_bit_for_bit(name, sparsity, size, monkeypatch):
    prefer(monkeypatch, size)
    fast = engine.sparsify(network(name, sparsity), 96, None, True, precision="int8", calibration=photographs(96))
    equal_to_the_reference(fast, picture(96))


class Joined(nn.Module):
    """Shortcuts, pooling, upsampling, a map that is concatenated twice, several outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = stem(4), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(12, 4, 3, 1, 1)
        self.down, self.up, self.pool = nn.Conv2d(4, 4, 3, 2, 1), nn.Upsample(scale_factor=2), nn.MaxPool2d(5, 1, 2)
        self.silu, self.last = nn.SiLU(), nn.Conv2d(4, 6, 1)

    def forward(self, x):
        a = self.silu(self.a(x))
        b = self.silu(self.b(a)) + a
        c = self.up(self.pool(self.silu(self.down(b))))
        return [self.c(torch.cat([a, c, a], 1)), self.last(b)]


class Shortcut(nn.Module):
    """What ends with a shortcut."""

    def __init__(self):
        super().__init__()
        self.a, self.b = stem(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x) + x


def test_shortcuts_pooling_and_shared_concatenations():
    torch.manual_seed(0)
    fast = engine.sparsify(Joined().eval(), 64, strict=True, precision="int8", calibration=photographs(64))
    equal_to_the_reference(fast, picture(64))


def test_a_saved_network_gives_the_same_bits(tmp_path):
    fast = engine.sparsify(network("p", 0.5), 64, precision="int8", calibration=photographs(64))
    fast.save(tmp_path / "p.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.safetensors"]
    again = engine.load(tmp_path / "p.safetensors", threads=1)
    assert torch.equal(again(picture(64)), fast(picture(64)))


def wrong_place(about, arrays):
    about["ops"][4]["src"][1] += 4


def wrong_scale(about, arrays):
    arrays["1.scale"][0] = np.nan


def without_weights(about, arrays):
    del arrays["1.weight"]


def a_larger_kernel(about, arrays):
    arrays["1.weight"] = np.zeros((*arrays["1.weight"].shape[:2], 99, 99), np.int8)


@pytest.mark.parametrize("change", [wrong_place, wrong_scale, without_weights, a_larger_kernel])
def test_a_damaged_file_is_refused(change, tmp_path):
    path = tmp_path / "p.safetensors"
    engine.sparsify(network("p"), 32, choose=False, precision="int8", calibration=photographs(32)).save(path)
    about, arrays = json.loads(path.with_suffix(".json").read_text()), load_file(path)
    change(about, arrays)
    save_file(arrays, path)
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(SpecError):
        engine.load(path)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "calibration.*images of the train split"),
        ([], "calibration.*images of the train split"),
        (photographs(64, 3), "3 images.*at least 8"),
        (photographs(96), r"images of shape \(3, 64, 64\)"),
        (photographs(64).astype(np.float32), "uint8"),
    ],
)
def test_calibration_that_shows_too_little_is_refused(calibration, message):
    with pytest.raises(SpecError, match=message):
        engine.sparsify(network("p"), 64, precision="int8", calibration=calibration)


def test_numbers_that_8_bits_cannot_hold_are_refused():
    model = nn.Sequential(stem(4), nn.Conv2d(4, 4, 1)).eval()
    fast = engine.sparsify(model, 32, precision="int8", calibration=photographs(32))
    op = fast.network.ops[1]
    changes = {"bias": (op.conv.bias + 1e12, "values up to"), "scale": (0 * op.conv.scale, "a scale of 0")}
    changes["table"] = (np.full_like(op.conv.table, np.inf), "NaN or infinity")
    for name, (values, message) in changes.items():
        with pytest.raises(SpecError, match=message):
            quantised.check(dataclasses.replace(op, conv=dataclasses.replace(op.conv, **{name: values})))
    model[0].weight.data.fill_(3e38)
    with pytest.raises(SpecError, match="NaN or infinity"):
        engine.sparsify(model, 32, precision="int8", calibration=photographs(32))


def test_values_beyond_the_range_are_reported():
    """Photographs of which half are far brighter than the others."""
    torch.manual_seed(0)
    model = nn.Sequential(stem(4), nn.SiLU(), nn.Conv2d(4, 4, 1)).eval()
    alike = np.repeat(photographs(64), 2, axis=0)
    assert engine.sparsify(model, 64, precision="int8", calibration=alike).notes == []
    mixed = alike.copy()
    mixed[::2] //= 4
    (note,) = engine.sparsify(model, 64, precision="int8", calibration=mixed).notes
    share = float(note.split("0: ")[1].split("%")[0])
    assert "beyond those of the others" in note and 1 < share < 100


def test_what_8_bits_cannot_run_runs_in_float32_and_says_why(monkeypatch):
    model = nn.Sequential(stem(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    options = {"precision": "int8", "calibration": photographs(32)}
    fast = engine.sparsify(model, 32, **options)
    torch.testing.assert_close(fast(picture(32)), model(picture(32)).detach())
    assert any("float32 instead of 8 bits: PyTorch has to run" in note for note in fast.notes)
    with pytest.raises(SpecError, match="cannot run.*ReLU.*strict=False"):
        engine.sparsify(model, 32, strict=True, **options)
    for other, why in ((nn.Sequential(nn.Conv2d(3, 4, 1)), "the image is read"), (Shortcut(), "an output is")):
        fast = engine.sparsify(other.eval(), 32, **options)
        assert why in fast.notes[-1]
        torch.testing.assert_close(fast(picture(32)), other(picture(32)).detach())
        with pytest.raises(SpecError, match=f"in 8 bits: {why}"):
            engine.sparsify(other, 32, strict=True, **options)
    monkeypatch.setattr(tiles, "VNNI", False)
    assert "no AVX-512 VNNI" in engine.sparsify(yolov5.fused(yolov5.build(MODELS["p"], 3)), 32, **options).notes[-1]
