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
from yolop.shapes import BACKBONE, NECK
from yolop.specs import printable

SHELLS = (  # classes of the original code, and of settings and counts beside it, which nothing here needs: read as empty shells
    *("models.", "utils.", "torch.nn.modules.", "torch.nn.parallel.", "pathlib."),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype"),
)
LAYERS = [module.removeprefix("nn.") for _, _, module, _ in (*BACKBONE, *NECK)] + ["Detect"]
LIMIT_MB = 1000  # of a file, of what it unpacks to, and of its tensors; the largest of the original has 170
PICKLE_MB = 5  # those of the original have less than 1
MODULES = 20_000  # visited in one file; the largest of the original has about 1,000
NAME = 200  # characters of a tensor's name


class CheckpointError(ValueError):
    """A weights file that is damaged, foreign or would execute code; the message names what was found."""


class _Shell:
    """Stands for any class of the original code, whose name it knows: takes a state and does nothing."""

    kind = ""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


def read_official(path: Path | str, state_dict: bool = False) -> dict[str, torch.Tensor]:
    """Tensors of an original YOLOv5 release file (.pt, v6.0 to v7.0) by name, float32, without executing its pickle.

    The EMA weights are preferred, as in the original. Anchors are in pixels. Raises CheckpointError for files that name
    anything but tensors, plain containers and the original's classes, which become empty shells; for damaged files,
    compressed ones and none of torch.save's; for more than LIMIT_MB of file or tensors; and, by its name, for a network
    that we do not build.

    `state_dict`: the file holds tensors alone, and you know that they are of an anchor-based YOLOv5 v6 with SiLU.
    """
    path = Path(path)
    try:
        tensors = _read(path, state_dict)
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


def _read(path: Path, state_dict: bool) -> dict[str, torch.Tensor]:
    _require_bounded(path)
    names = get_unsafe_globals_in_checkpoint(path)
    for name in names:
        if name.startswith("ultralytics."):
            text = "holds a network of the ultralytics package (YOLOv5u, YOLOv8 and later), not of the original YOLOv5"
            raise CheckpointError(f"{path.name} {text}: it is not read")
        if not name.startswith(SHELLS):
            asked = printable(name, NAME)
            raise CheckpointError(f"the file asks for {asked}: only tensors and plain containers are read")
    with safe_globals([(type("_Shell", (_Shell,), {"kind": name}), name) for name in names]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    network = (content.get("ema") or content.get("model", content)) if isinstance(content, dict) else content
    if isinstance(network, dict) and network and all(isinstance(value, torch.Tensor) for value in network.values()):
        if not state_dict:
            text = "is a state dict, which does not say what network it is of; if of an anchor-based YOLOv5 v6 with SiLU:"
            raise CheckpointError(f"{path.name} {text} read_official(path, state_dict=True)")
        tensors = {name.removeprefix("module."): value for name, value in network.items()}
    elif isinstance(network, _Shell):
        parallel = network.kind.endswith(("DataParallel", "DistributedDataParallel"))
        network = network._modules["module"] if parallel else network
        tensors, kinds = _tensors_of(network)
        if wrong := _not_ours(network, kinds, tensors):
            text = "this project builds the anchor-based YOLOv5 v6.0 to v7.0 with SiLU alone"
            raise CheckpointError(f"{path.name} is {wrong}: {text}")
    else:
        raise CheckpointError(f"{path.name} is not a YOLOv5 checkpoint: it holds a {type(network).__name__}")
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


def _not_ours(network: _Shell, kinds: set[str], tensors: dict[str, torch.Tensor]) -> str:
    """What a network is that we do not build, in words; "" for one that we do, or that is no sequence of layers."""
    masked = next((name for name in tensors if name.endswith("_mask")), "")
    if masked:
        return f"pruned with masks that are still on ({printable(masked, NAME)}); torch.nn.utils.prune.remove makes them zeros"
    layers = [layer.kind.split(".")[-1] for layer in getattr(network._modules.get("model"), "_modules", {}).values()]
    activations = {kind.split(".")[-1] for kind in kinds if ".activation" in kind} - {"SiLU", "Sigmoid", "Identity"}
    if not layers:
        return ""
    if layers[0] == "Focus":
        return "a YOLOv5 of before v6.0, whose first layer is Focus"
    outputs = getattr(network._modules["model"]._modules[str(len(layers) - 1)], "nl", 3)
    if layers[-1] == "Detect" and outputs != 3:
        return f"a network with {outputs} outputs (P6 or P2)"
    if layers != LAYERS:
        return f"another network ({len(layers)} layers, the last {printable(layers[-1], NAME)})"
    if activations:
        return f"a YOLOv5 with {', '.join(sorted(activations))} in place of SiLU"
    return "fused (its batch norm is folded away)" if "model.0.bn.weight" not in tensors else ""


def _tensors_of(root) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Name -> tensor of a shell and the shells inside it, and what these stand for; CheckpointError for more than any has."""
    found, kinds, waiting = {}, set(), collections.deque([("", root)])
    for _ in range(MODULES):
        if not waiting:
            return found, kinds
        prefix, shell = waiting.popleft()
        kinds.add(getattr(shell, "kind", ""))
        names = {n: v for part in ("_parameters", "_buffers", "_modules") for n, v in getattr(shell, part, {}).items()}
        if len(found) + len(waiting) + len(names) > MODULES or len(prefix) + max(map(len, names), default=0) > NAME:
            break
        for name, value in names.items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value.detach()
            else:
                waiting.append((f"{prefix}{name}.", value))
    raise CheckpointError(f"more than {MODULES:,} modules, or names of more than {NAME} characters: no YOLOv5")
