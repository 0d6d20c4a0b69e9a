"""Weights of the original YOLOv5, read without executing their pickle: PyTorch's `weights_only` reader, and bounds of ours.

The file is bounded before PyTorch opens it, and may name nothing but tensors, plain containers and the original's classes.
What it says about its network comes with the tensors, so that nothing else is ever built from them.
"""

from __future__ import annotations

import collections
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from yolop.files import LFS_POINTER
from yolop.network.head import STRIDES
from yolop.shapes import BACKBONE, NECK
from yolop.specs import printable

SHELLS = (  # classes of the original code, and of settings and counts beside it, which nothing here needs: read as empty shells
    *("models.", "utils.", "torch.nn.modules.", "torch.nn.parallel.", "torch.nn.utils.prune.", "pathlib."),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype"),
)
LAYERS = [module.removeprefix("nn.") for _, _, module, _ in (*BACKBONE, *NECK)] + ["Detect"]
LIMIT_MB = 1000  # of a file, of what it unpacks to, and of its tensors; the largest of the original has 170
PICKLE_MB = 5  # those of the original have less than 1
MODULES = 20_000  # visited in one file; the largest of the original has about 1,000
NAME = 200  # characters of a tensor's name, or of a class's
FIRST = "model.0.conv.weight"  # in every network that we build, whatever it is wrapped in
STATED = (  # what a layer without weights of its own, or beside them, is told; a file may say it otherwise than we do
    *("stride", "padding", "dilation", "groups", "kernel_size", "ceil_mode", "scale_factor", "mode"),
    *("eps", "add", "d", "f", "nc", "na"),
)


class CheckpointError(ValueError):
    """A weights file that is damaged, foreign or would execute code; the message names what was found."""


class Shell:
    """Stands for any class of the original code, whose name it knows: takes a state and does nothing."""

    kind = ""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by name, float32, anchors in px, and what it says about its network.

    `names` of the classes and `imgsz` of the training are empty and 0 where it does not say them; `modules` are the shells of
    its layers by name, none of a state dict; `notes` says how it was read.
    """

    tensors: dict[str, torch.Tensor]
    names: tuple[str, ...] = ()
    imgsz: int = 0
    modules: dict[str, Shell] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path | str) -> Checkpoint:
    """A file of the original YOLOv5 (.pt, v6.0 to v7.0), or a state dict of one, without executing its pickle.

    The EMA weights are preferred, as in the original. Prefixes of what wrapped the network (`module.`) are taken off, masks
    of pruning are multiplied in. Raises CheckpointError for files that name anything but tensors, plain containers and the
    original's classes, which become empty shells; for damaged files, compressed ones and none of torch.save's; for more than
    LIMIT_MB of file or tensors; and, by its name, for a network that we do not build.
    """
    path = Path(path)
    try:
        return _read(path)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}: give the path of a .pt file") from None
    except Exception as error:  # a hostile pickle can fail in any way
        text = f"{path.name} is not a YOLOv5 checkpoint: {type(error).__name__}: {printable(error, NAME)}"
        raise CheckpointError(text) from None


def require_sound(tensors: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """ValueError unless all are finite and of the types of the model's: PyTorch would convert, and compute with NaN."""
    for name, tensor in tensors.items():
        if name in own and tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, not {own[name].dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def require_same(checkpoint: Checkpoint, model: nn.Module, name: str) -> None:
    """CheckpointError where a file says of a layer anything else than our network does: its class, a stride, a shortcut."""
    for where, module in model.named_modules():
        shell = checkpoint.modules.get(where)
        if shell is None or not where:
            continue
        kind = printable(shell.kind.split(".")[-1], NAME)
        if kind != type(module).__name__:
            raise CheckpointError(f"{name} is another network: {where} is {kind}, ours is {type(module).__name__}")
        for key in STATED:
            theirs, ours = getattr(shell, key, None), getattr(module, key, None)
            if None not in (theirs, ours) and _plain(theirs) != _plain(ours):
                said = f"{key} {printable(_plain(theirs), NAME)}, ours has {_plain(ours)}"
                raise CheckpointError(f"{name} is another network: {where} ({kind}) has {said}")


def contents(path: Path | str) -> list[tuple[dict[str, torch.Tensor], dict[str, Shell], dict]]:
    """Of each network in a file, the EMA first: its raw tensors by name, its shells, and what stands beside it in the file."""
    names = get_unsafe_globals_in_checkpoint(path)
    for name in names:
        if name.startswith("ultralytics."):
            text = "it holds a network of the ultralytics package (YOLOv5u, YOLOv8 and later), not of the original YOLOv5"
            raise CheckpointError(f"{text}: it is not read")
        if not name.startswith(SHELLS):
            asked = printable(name, NAME)
            raise CheckpointError(f"the file asks for {asked}: only tensors and plain containers are read")
    with safe_globals([(type("Shell", (Shell,), {"kind": name}), name) for name in names]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    beside = content if isinstance(content, dict) else {}
    networks = [beside[key] for key in ("ema", "model") if beside.get(key)] or [content]
    return [(*_tensors_of(network), beside) for network in networks]


def _read(path: Path) -> Checkpoint:
    _require_bounded(path)
    try:
        raw, shells, beside = contents(path)[0]
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    if not raw:
        raise CheckpointError(f"{path.name} is not a YOLOv5 checkpoint: it holds no network and no tensors")
    if wrong := _not_ours(shells):
        text = "this project builds the anchor-based YOLOv5 v6.0 to v7.0 with SiLU alone"
        raise CheckpointError(f"{path.name} is {wrong}: {text}")
    if sum(tensor.numel() for tensor in raw.values()) > LIMIT_MB * 1e6 / 4:  # one value may stand for many
        raise CheckpointError(f"{path.name} has tensors of more than {LIMIT_MB} MB")
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in raw.items()}
    notes = [] if shells else ["a state dict does not say its activation and strides: taken for a YOLOv5 v6 with SiLU"]
    masked = [name.removesuffix("_mask") for name in tensors if name.endswith("_mask")]
    for name in masked:  # as torch.nn.utils.prune.remove would
        tensors[name] = tensors.pop(f"{name}_orig") * tensors.pop(f"{name}_mask")
    notes += [f"{len(masked)} masks of pruning were made zeros"] if masked else []
    for name in [name for name in tensors if name.endswith(".anchors")]:  # the original keeps them in grid cells
        tensors[name] = tensors[name] * torch.tensor(STRIDES, dtype=torch.float32).view(3, 1, 1)
    require_sound(tensors, {})
    imgsz = beside["opt"].get("imgsz") if isinstance(beside.get("opt"), dict) else 0
    imgsz = imgsz if isinstance(imgsz, int) and 32 <= imgsz <= 1280 and imgsz % 32 == 0 else 0
    return Checkpoint(tensors, _names(shells), imgsz, shells, tuple(notes))


def _require_bounded(path: Path) -> None:
    """CheckpointError for a file that is none of torch.save's, damaged, or larger than any of YOLOv5."""
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise CheckpointError(f"{path.name} is a pointer of Git LFS, not the file that it stands for: git lfs pull")
    if head[:4] != b"PK\3\4":
        way_out = "load it with the code that wrote it and save it again"
        raise CheckpointError(f"{path.name} is no zip archive, which torch.save writes since PyTorch 1.6: {way_out}")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        pickled = max((member.file_size for member in members if member.filename.endswith("data.pkl")), default=0)
        if max(path.stat().st_size, unpacked) > LIMIT_MB * 1e6:
            raise CheckpointError(f"{path.name} unpacks to more than {LIMIT_MB} MB")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(f"{path.name} is compressed, as torch.save never does")
        if pickled > PICKLE_MB * 1e6:
            raise CheckpointError(f"{path.name} has a pickle of more than {PICKLE_MB} MB")
        if damaged := archive.testzip():
            raise CheckpointError(f"{path.name} is damaged: {printable(damaged, NAME)} is not what was written")


def _not_ours(shells: dict[str, Shell]) -> str:
    """What a network is that we do not build, in words; "" for one that we do, and for a state dict, which says nothing."""
    numbers = [name.removeprefix("model.") for name in shells if name.startswith("model.")]
    layers = [shells[f"model.{i}"].kind.split(".")[-1] for i in sorted(map(int, filter(str.isdecimal, numbers)))]
    kinds = {shell.kind for shell in shells.values()}
    activations = {kind.split(".")[-1] for kind in kinds if ".activation" in kind} - {"SiLU", "Sigmoid", "Identity"}
    if not layers:
        return ""
    if layers[0] == "Focus":
        return "a YOLOv5 of before v6.0, whose first layer is Focus"
    detect = shells[f"model.{len(layers) - 1}"]
    outputs, anchors, strides = (getattr(detect, key, ours) for key, ours in (("nl", 3), ("na", 3), ("stride", STRIDES)))
    if layers[-1] == "Detect" and outputs != 3:
        return f"a network with {printable(outputs, NAME)} outputs in place of 3, as P6 and P2 have"
    if layers[-1] == "Detect" and anchors != 3:
        return f"a network with {printable(anchors, NAME)} anchors at each output"
    if layers != LAYERS:
        return f"another network ({len(layers)} layers, the last {printable(layers[-1], NAME)})"
    if _plain(strides) != STRIDES:
        return f"a network with strides {printable(_plain(strides), NAME)}"
    return f"a YOLOv5 with {', '.join(sorted(activations))} in place of SiLU" if activations else ""


def _names(shells: dict[str, Shell]) -> tuple[str, ...]:
    """Names of the classes as the network says them, as text that can be shown; empty if it does not."""
    names = getattr(shells.get(""), "names", ())
    names = list(names.values()) if isinstance(names, dict) else names
    return tuple(printable(name, 100) for name in names) if isinstance(names, (list, tuple)) else ()


def _plain(value):
    """A stated value as numbers, text and tuples; an int for a pair of the same."""
    value = value.tolist() if isinstance(value, torch.Tensor) and value.numel() < NAME else value
    if not isinstance(value, (list, tuple)):
        return value
    return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)


def _tensors_of(root) -> tuple[dict[str, torch.Tensor], dict[str, Shell]]:
    """Tensors and shells of a network by name, or of a state dict; CheckpointError for more than any network has.

    The names are those inside the YOLOv5, whatever wraps it.
    """
    tensors, shells, waiting = {}, {}, collections.deque([("", root)])
    for _ in range(MODULES):
        if not waiting:
            break
        prefix, inner = waiting.popleft()
        if isinstance(inner, dict):
            names = {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        else:
            shells[prefix.removesuffix(".")] = inner
            parts = [getattr(inner, part, {}) for part in ("_parameters", "_buffers", "_modules")]
            names = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
        if len(tensors) + len(waiting) + len(names) > MODULES or len(prefix) + max(map(len, names), default=0) > NAME:
            waiting.append(("", None))
            break
        for name, value in names.items():
            if isinstance(value, torch.Tensor):
                tensors[prefix + name] = value.detach()
            elif isinstance(value, Shell):
                waiting.append((f"{prefix}{name}.", value))
    if waiting:
        raise CheckpointError(f"more than {MODULES:,} modules, or names of more than {NAME} characters: no YOLOv5")
    wrapped = next((name.split(FIRST)[0] for name in tensors if FIRST in name), "")
    inside = {name: shell for name, shell in shells.items() if f"{name}.".startswith(wrapped)}
    return (
        {name.removeprefix(wrapped): tensor for name, tensor in tensors.items()},
        {f"{name}.".removeprefix(wrapped).removesuffix("."): shell for name, shell in inside.items()},
    )
