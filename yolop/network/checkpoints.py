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

from yolop.network.head import STRIDES, Detect
from yolop.specs import printable
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
OPCODES = b"".join(  # what torch.save writes; each takes only as much time and memory as it has bytes in the file
    getattr(pickle, name)
    for name in (
        "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
        "SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
        "BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL BINPERSID REDUCE NEWOBJ BUILD"
    ).split()
)
PICKLE_MB = 5  # those of the original have less than 1
MODULES = 20_000  # visited in one file; the largest of the original has about 1,000
NAME = 200  # characters of a tensor's name


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
        _require_sound(tensors, model.state_dict())
        model.load_state_dict(tensors)
        if own.get("widths") == "own":
            _require_that_it_runs(model)
    except Exception as error:  # safetensors and torch raise many kinds
        text = f"{path.name} does not hold the weights of this model: {' '.join(str(error).split())}"
        raise CheckpointError(printable(text, 1000)) from None
    return model


def _require_sound(tensors: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """ValueError unless all are finite and of the types of the model's: PyTorch would convert, and compute with NaN."""
    for name, tensor in tensors.items():
        if name in own and tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, not {own[name].dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def _narrow_to(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give every convolution and batch norm of a model the shapes of the tensors that it will hold."""
    for name, module in model.named_modules():
        weight = tensors.get(f"{name}.weight")
        if isinstance(module, nn.Conv2d):
            if weight.shape[2:] != module.weight.shape[2:]:
                raise ValueError(f"{name} has kernels of another size")
            module.out_channels, module.in_channels = weight.shape[:2]
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(weight)
        else:
            continue
        for key, old in [*module.named_parameters(), *module.named_buffers()]:
            new = old.new_empty(tensors[f"{name}.{key}"].shape)
            setattr(module, key, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    model.narrowed = True


@torch.no_grad()
def _require_that_it_runs(model: nn.Module) -> None:
    """An error unless what each layer gives is as wide as what the next one takes: a file may say anything."""
    training = model.training
    model.eval()(torch.zeros(1, 3, 64, 64))
    model.train(training)


class _Shell:
    """Stands for any class of the original code: accepts a state, does nothing."""

    def __init__(self, *args, **kwargs):
        pass


class _Dict(dict):
    """Stands for OrderedDict, which is always made empty and then filled."""

    def __init__(self):
        super().__init__()


def _refused(reader=None):
    raise CheckpointError("its pickle does what torch.save never does")


def _require_keys(target, keys: list) -> None:
    if not isinstance(target, dict) or {type(key) for key in keys} - {str, int}:
        _refused()


class _Reader(pickle._Unpickler):
    """Rebuilds tensors and plain containers; classes of the original become shells; every other name is refused.

    Python's own unpickler, not C's: whatever a file asks of it, it takes no more memory than the file is large. Keys of
    dicts must be text or integers, because the hash of tuples inside tuples can take for ever.
    """

    dispatch = {code: pickle._Unpickler.dispatch[code] if code in OPCODES else _refused for code in range(256)}

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self.archive, self.prefix, self.storages = archive, prefix, {}

    def find_class(self, module: str, name: str):
        allowed = {
            ("collections", "OrderedDict"): _Dict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _tensor(*args),
            ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
            ("torch", "Size"): lambda size: None,
            ("torch", "device"): lambda *args: "cpu",
            ("numpy.core.multiarray", "_reconstruct"): _Shell,  # class weights, which nothing here needs
            ("numpy", "ndarray"): _Shell,
            ("numpy", "dtype"): _Shell,
            ("_codecs", "encode"): lambda text, encoding: b"",
            ("builtins", "set"): _Shell,  # names of buffers
            ("__builtin__", "set"): _Shell,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        if module.startswith(INERT) and name.isidentifier():
            return _Shell
        raise CheckpointError(
            f"the file asks for {printable(f'{module}.{name}', NAME)}: only tensors and plain containers are read"
        )

    def load_setitem(self):
        _require_keys(self.stack[-3], [self.stack[-2]])
        super().load_setitem()

    def load_setitems(self):
        _require_keys(self.metastack[-1][-1], self.stack[::2])
        super().load_setitems()

    def load_reduce(self):
        """As ever, but Python's own refusal of what is no call would first write all of it out."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(function(*arguments) if type(arguments) is tuple and callable(function) else _refused(self))

    def load_newobj(self):
        _, cls = self.stack.pop(), self.stack.pop()
        self.stack.append(cls() if cls in (_Shell, _Dict) else _refused(self))

    def load_build(self):
        """A state for shells only: every other object has its own already."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Shell) and isinstance(state, dict):
            self.stack[-1].__dict__.update(state)

    dispatch |= {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
    }

    def persistent_load(self, pid):
        _, dtype, key, _, count = pid
        if not (isinstance(dtype, np.dtype) and type(key) is str and type(count) is int):
            _refused(self)
        if key not in self.storages:  # else a storage asked for often would fill the memory
            array = np.frombuffer(self.archive.read(f"{self.prefix}data/{key}"), dtype)
            self.storages[key] = torch.from_numpy(array.copy())
        storage = self.storages[key]
        if len(storage) < count:
            raise CheckpointError(
                f"tensor storage {printable(key, NAME)} is cut short: {len(storage)} of {count} values"
            )
        return storage


def _tensor(storage: torch.Tensor, offset, size, stride, *_):
    if {type(n) for n in (offset, *size, *stride)} - {int} or len(size) > 8:
        raise CheckpointError("the size of a tensor is not made of whole numbers")
    end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if math.prod(size) else 0
    if min((offset, *size, *stride)) < 0 or max(end, math.prod(size)) > len(storage):
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
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise CheckpointError(f"{path.name} is compressed, as torch.save never does")
            pickled = next(item for item in archive.infolist() if item.filename.endswith("data.pkl"))
            if pickled.file_size > PICKLE_MB * 1e6:
                raise CheckpointError(f"{path.name} has a pickle of more than {PICKLE_MB} MB")
            content = _Reader(archive, pickled.filename.removesuffix("data.pkl")).load()
        found = _found(content.get("ema") or content["model"])
        if sum(t.numel() for t in found.values()) > limit_mb * 1e6 / 4:
            raise CheckpointError(f"{path.name} has tensors of more than {limit_mb} MB")
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in found.items()}
        _require_sound(tensors, {})
        for name in [name for name in tensors if name.endswith(".anchors")]:  # the original keeps them in grid cells
            tensors[name] = tensors[name] * torch.tensor(STRIDES, dtype=torch.float32).view(3, 1, 1)
        return tensors
    except CheckpointError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way
        raise CheckpointError(
            f"{path.name} is not a YOLOv5 checkpoint: {type(error).__name__}: {printable(error, NAME)}"
        ) from None


def load_official(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors of `read_official` into a model of the same size and classes; CheckpointError otherwise.

    v6.0's files hold the anchors twice (`anchor_grid`); ours need them once.
    """
    try:
        model.load_state_dict({name: t for name, t in tensors.items() if not name.endswith(".anchor_grid")})
    except RuntimeError as error:
        text = f"official weights of another size or number of classes: {' '.join(str(error).split())}"
        raise CheckpointError(printable(text, 1000)) from None


def _found(root) -> dict[str, torch.Tensor]:
    """Name -> tensor of a shell and the shells inside it; CheckpointError for more than any network has."""
    found, waiting = {}, collections.deque([("", root)])
    for _ in range(MODULES):
        if not waiting:
            return found
        prefix, shell = waiting.popleft()
        names = {n: v for part in ("_parameters", "_buffers", "_modules") for n, v in getattr(shell, part, {}).items()}
        if len(found) + len(waiting) + len(names) > MODULES or len(prefix) + max(map(len, names), default=0) > NAME:
            break
        for name, value in names.items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value
            else:
                waiting.append((f"{prefix}{name}.", value))
    raise CheckpointError(f"more than {MODULES:,} modules, or names of more than {NAME} characters: no YOLOv5")


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
