"""Weights in and out without executing anything: safetensors for ours, a restricted reader for the original's pickles.

Also the ways in which one model's weights start another: whole, matching layers, or the channels of largest L1 norm.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from ultralytics.nn.modules import C3, SPPF, Conv

from yolop.head import STRIDES, Detect
from yolop.store import write_atomically

DTYPES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
INERT = (
    "models.",
    "utils.",
    "torch.nn.modules.",
)  # classes of the original code: kept as empty shells with their state


class CheckpointError(ValueError):
    """A weights file that is damaged, foreign or would execute code; the message names what was found."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's parameters and buffers as safetensors, float32, whole or not at all.

    A network whose channels were removed (`narrowing`) says so in the file: its widths are the shapes of the tensors.
    """
    state = {k: v.contiguous().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    write_atomically(path, save(state, {"widths": "own"} if getattr(model, "narrowed", False) else None))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Put weights written by `save_weights` into a model of the same shapes; CheckpointError otherwise.

    Where the file says that its network has widths of its own, the model's convolutions are first made as narrow.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors, own = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
        if own.get("widths") == "own":
            _narrow_to(model, tensors)
        model.load_state_dict(tensors)
    except Exception as error:  # safetensors and torch raise many kinds
        raise CheckpointError(f"{path.name} does not hold the weights of this model: {error}") from None
    return model


def _narrow_to(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give every convolution and batch norm of a model the shapes of the tensors that it will hold."""
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = weight.shape[:2]
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(weight)
        else:
            continue
        for key, old in [*module.named_parameters(), *module.named_buffers()]:
            new = torch.empty_like(tensors[f"{name}.{key}"])
            setattr(module, key, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    model.narrowed = True


class _Shell:
    """Stands for any class of the original code: accepts a state, does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


class _Reader(pickle.Unpickler):
    """Rebuilds tensors and plain containers; classes of the original become shells; every other name is refused."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self.archive, self.prefix = archive, prefix

    def find_class(self, module: str, name: str):
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
            ("torch", "Size"): torch.Size,
            ("torch", "device"): lambda *args: "cpu",
            ("numpy.core.multiarray", "_reconstruct"): _Shell,  # class weights, which nothing here needs
            ("numpy", "ndarray"): _Shell,
            ("numpy", "dtype"): _Shell,
            ("_codecs", "encode"): lambda text, encoding: b"",
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module.startswith(INERT) and name.isidentifier():
            return type(name, (_Shell,), {})
        raise CheckpointError(f"the file asks for {module}.{name}: only tensors and plain containers are read")

    def persistent_load(self, pid):
        _, dtype, key, _, count = pid
        array = np.frombuffer(self.archive.read(f"{self.prefix}data/{key}"), dtype)
        if len(array) < count:
            raise CheckpointError(f"tensor storage {key} is cut short: {len(array)} of {count} values")
        return torch.from_numpy(array.copy())


def _tensor(storage: torch.Tensor, offset, size, stride, *_):
    end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if math.prod(size) else 0
    if min((offset, *size, *stride)) < 0 or end > len(storage):
        raise CheckpointError(f"a tensor of size {tuple(size)} reaches outside its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def read_official(path: Path | str, limit_mb: int = 1000) -> dict[str, torch.Tensor]:
    """Tensors of an original YOLOv5 release file (.pt, v6.0 to v7.0) by name, float32, without executing its pickle.

    The EMA weights are preferred, as the original does. Raises CheckpointError for anything but tensors, plain
    containers and the original's own classes, and for archives that unpack to more than `limit_mb`.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > limit_mb * 1e6:
                raise CheckpointError(f"{path.name} unpacks to more than {limit_mb} MB")
            prefix = next(name for name in archive.namelist() if name.endswith("data.pkl"))[: -len("data.pkl")]
            content = _Reader(archive, prefix).load()
        root = content.get("ema") or content["model"]
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in _walk(root, "")}
        for name in [name for name in tensors if name.endswith(".anchors")]:  # the original keeps them in grid cells
            tensors[name] = tensors[name] * torch.tensor(STRIDES, dtype=torch.float32).view(3, 1, 1)
        return tensors
    except CheckpointError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way
        raise CheckpointError(f"{path.name} is not a YOLOv5 checkpoint: {type(error).__name__}: {error}") from None


def load_official(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors of `read_official` into a model of the same size and classes; CheckpointError otherwise.

    v6.0's files hold the anchors twice (`anchor_grid`); ours need them once.
    """
    try:
        model.load_state_dict({name: t for name, t in tensors.items() if not name.endswith(".anchor_grid")})
    except RuntimeError as error:
        raise CheckpointError(f"official weights of another size or number of classes: {error}") from None


def _walk(shell, prefix: str):
    for group in ("_parameters", "_buffers"):
        for name, value in getattr(shell, group, {}).items():
            if isinstance(value, torch.Tensor):
                yield prefix + name, value
    for name, child in getattr(shell, "_modules", {}).items():
        yield from _walk(child, f"{prefix}{name}.")


def transfer_matching(target: nn.Module, source: dict[str, torch.Tensor]) -> list[str]:
    """Copy every tensor whose name and shape agree, but for anchors, which belong to the data; returns their names.

    What YOLOv5 does with `--weights`.
    """
    own = target.state_dict()
    names = [name for name, value in source.items() if name in own and own[name].shape == value.shape]
    names = [name for name in names if not name.endswith(".anchors")]
    target.load_state_dict(own | {name: source[name] for name in names})
    return names


@torch.no_grad()
def transfer_largest_l1(target: nn.Module, source: nn.Module) -> None:
    """Start a narrower, shallower model from a wider one: each convolution keeps its filters of largest L1 norm.

    Which channels a layer keeps decides which inputs the next one keeps, through concatenations too. A shortcut adds
    its input to its output, so a bottleneck with one keeps the channels of its input. Bottlenecks that the target does
    not have are left out; Detect is copied where the number of classes agrees.
    """
    kept: list[tuple[torch.Tensor, int]] = []  # per layer: channels kept, and how many there were
    for old, new in zip(source.model, target.model, strict=True):
        sources = new.f if isinstance(new.f, list) else [new.f]
        inputs = [kept[i] for i in sources] if kept else [(torch.arange(3), 3)]
        if isinstance(new, Detect):
            for old_conv, new_conv, (keep, _) in zip(old.m, new.m, inputs, strict=True):
                if old_conv.out_channels == new_conv.out_channels:
                    new_conv.weight.copy_(old_conv.weight[:, keep])
                    new_conv.bias.copy_(old_conv.bias)
        else:
            keep, width = _joined(inputs)
            if isinstance(new, Conv):
                keep, width = _narrow(old, new, keep), old.conv.out_channels
            elif isinstance(new, (C3, SPPF)):
                keep, width = (_narrow_c3 if isinstance(new, C3) else _narrow_sppf)(old, new, keep)
            kept.append((keep, width))


def _joined(inputs: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, int]:
    """Kept channels of a concatenation, and its width before."""
    offset, parts = 0, []
    for keep, width in inputs:
        parts.append(keep + offset)
        offset += width
    return torch.cat(parts), offset


def _narrow(old: Conv, new: Conv, inputs: torch.Tensor, outputs: torch.Tensor | None = None) -> torch.Tensor:
    """Copy the rows of a convolution and its batch norm that are kept; returns which."""
    if outputs is None:
        norms = old.conv.weight.abs().sum((1, 2, 3))
        outputs = norms.topk(new.conv.out_channels).indices.sort().values
    new.conv.weight.copy_(old.conv.weight[outputs][:, inputs])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(new.bn, name).copy_(getattr(old.bn, name)[outputs])
    return outputs


def _narrow_c3(old: C3, new: C3, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    first, second = _narrow(old.cv1, new.cv1, inputs), _narrow(old.cv2, new.cv2, inputs)
    for old_block, new_block in zip(old.m, new.m, strict=False):  # the target may have fewer
        hidden = _narrow(old_block.cv1, new_block.cv1, first)
        first = _narrow(old_block.cv2, new_block.cv2, hidden, first if new_block.add else None)
    half = old.cv1.conv.out_channels
    joined, _ = _joined([(first, half), (second, half)])
    return _narrow(old.cv3, new.cv3, joined), old.cv3.conv.out_channels


def _narrow_sppf(old: SPPF, new: SPPF, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    hidden, half = _narrow(old.cv1, new.cv1, inputs), old.cv1.conv.out_channels
    joined, _ = _joined([(hidden, half)] * 4)
    return _narrow(old.cv2, new.cv2, joined), old.cv2.conv.out_channels
