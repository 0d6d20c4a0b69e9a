"""Weights of the original YOLOv5, read without executing their pickle: PyTorch's `weights_only` reader, and bounds of ours.

The file is bounded before PyTorch opens it, and may name nothing but tensors, plain containers and the original's classes.
"""

from __future__ import annotations

import collections
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from yolop.network.head import STRIDES
from yolop.specs import printable

SHELLS = (  # classes of the original code, and of its class weights, which nothing here needs: read as empty shells
    *("models.", "utils.", "torch.nn.modules."),
    *("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"),
)
LIMIT_MB = 1000  # of a file, of what it unpacks to, and of its tensors; the largest of the original has 170
PICKLE_MB = 5  # those of the original have less than 1
MODULES = 20_000  # visited in one file; the largest of the original has about 1,000
NAME = 200  # characters of a tensor's name


class CheckpointError(ValueError):
    """A weights file that is damaged, foreign or would execute code; the message names what was found."""


class _Shell:
    """Stands for any class of the original code: takes a state and does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


def read_official(path: Path | str) -> dict[str, torch.Tensor]:
    """Tensors of an original YOLOv5 release file (.pt, v6.0 to v7.0) by name, float32, without executing its pickle.

    The EMA weights are preferred, as in the original. Anchors are in pixels. Raises CheckpointError for files that name
    anything but tensors, plain containers and the original's classes, which become empty shells; for damaged files,
    compressed ones and none of torch.save's; and for more than LIMIT_MB of file or tensors.
    """
    path = Path(path)
    try:
        tensors = _read(path)
    except CheckpointError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way
        text = f"{path.name} is not a YOLOv5 checkpoint: {type(error).__name__}: {printable(error, NAME)}"
        raise CheckpointError(text) from None
    for name in [name for name in tensors if name.endswith(".anchors")]:  # the original keeps them in grid cells
        tensors[name] = tensors[name] * torch.tensor(STRIDES, dtype=torch.float32).view(3, 1, 1)
    return tensors


def load_official(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors of `read_official` into a model of the same size and classes; CheckpointError otherwise.

    v6.0's files hold the anchors twice (`anchor_grid`); ours need them once.
    """
    try:
        model.load_state_dict({name: t for name, t in tensors.items() if not name.endswith(".anchor_grid")})
    except RuntimeError as error:
        text = f"official weights of another size or number of classes: {' '.join(str(error).split())}"
        raise CheckpointError(printable(text, 1000)) from None


def require_sound(tensors: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """ValueError unless all are finite and of the types of the model's: PyTorch would convert, and compute with NaN."""
    for name, tensor in tensors.items():
        if name in own and tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tensor.dtype}, not {own[name].dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def _read(path: Path) -> dict[str, torch.Tensor]:
    _require_bounded(path)
    names = get_unsafe_globals_in_checkpoint(path)
    for name in names:
        if not name.startswith(SHELLS):
            asked = printable(name, NAME)
            raise CheckpointError(f"the file asks for {asked}: only tensors and plain containers are read")
    with safe_globals([(_Shell, name) for name in names]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = _tensors_of(content.get("ema") or content["model"])
    if sum(tensor.numel() for tensor in tensors.values()) > LIMIT_MB * 1e6 / 4:  # one value may stand for many
        raise CheckpointError(f"{path.name} has tensors of more than {LIMIT_MB} MB")
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    require_sound(tensors, {})
    return tensors


def _require_bounded(path: Path) -> None:
    """CheckpointError for a file that is none of torch.save's, damaged, or larger than any of YOLOv5."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            raise CheckpointError(f"{path.name} is no zip archive, which torch.save writes since PyTorch 1.6")
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


def _tensors_of(root) -> dict[str, torch.Tensor]:
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
                found[prefix + name] = value.detach()
            else:
                waiting.append((f"{prefix}{name}.", value))
    raise CheckpointError(f"more than {MODULES:,} modules, or names of more than {NAME} characters: no YOLOv5")
