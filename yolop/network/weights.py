"""Our weights as safetensors: saved, loaded, and those of a record as a model. No pickle is ever written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from yolop.data import public
from yolop.files import write_atomically
from yolop.network import yolov5
from yolop.network.official import LIMIT_MB, Checkpoint, CheckpointError, read_checkpoint, require_same, require_sound
from yolop.shapes import BACKBONE, NECK, parameters, scaled, scaled_depth
from yolop.specs import GRID, MODELS, ModelSpec, OfficialSpec, printable
from yolop.store import Record


def save_weights(model: nn.Module, path: Path, names: tuple[str, ...] = ()) -> None:
    """Write a model's parameters and buffers as safetensors, float32, whole or not at all.

    A model whose channels were removed (`channels`) says so in the file: its widths are the shapes of the tensors. `names`
    of its classes stand in the file, too, where they are given.
    """
    yolov5.require_unmasked(model)
    state = {k: v.contiguous().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    said = {"widths": "own"} if getattr(model, "own_widths", False) else {}
    said |= {"names": json.dumps(names)} if names else {}
    write_atomically(path, save(state, said or None))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Put weights written by `save_weights` into a model of the same shapes; CheckpointError otherwise.

    If the file says that its model has widths of its own, the model's convolutions are first given these widths.
    """
    try:
        tensors, said = _contents(path)
        _fill(model, tensors, said.get("widths") == "own")
    except Exception as error:  # safetensors and torch raise many kinds
        text = f"{path.name} does not hold the weights of this model: {' '.join(str(error).split())}"
        raise CheckpointError(printable(text, 1000)) from None
    return model


def load_network(path: Path) -> tuple[nn.Module, Checkpoint]:
    """The network of anybody's file in evaluation mode, built as the file says, and what else the file says.

    A .pt of the original YOLOv5 or a state dict of one, or a .safetensors of `save_weights`: depth, width, classes and
    anchors come from its tensors. CheckpointError, by its name, for a network that this project does not build.
    """
    path = Path(path).expanduser()
    found = _own(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    try:
        tensors = {name: tensor for name, tensor in found.tensors.items() if not name.endswith(".anchor_grid")}
        spec, nc = shape_of(tensors)
        if sum(parameters(spec, nc)) > LIMIT_MB * 1e6 / 4:  # a file of few bytes may ask for it
            raise CheckpointError(f"{path.name} asks for a network of more than {LIMIT_MB} MB")
        model = yolov5.build(spec, nc)
        require_same(found, model, path.name)
        if "model.0.bn.weight" not in tensors:
            model = model.eval().fuse(verbose=False)
        _fill(model, tensors, any(tensors[name].shape != own.shape for name, own in model.state_dict().items()))
    except CheckpointError:
        raise
    except Exception as error:  # a file may say anything
        text = f"{path.name} holds no YOLOv5 that can be built: {type(error).__name__}: {printable(error, 300)}"
        raise CheckpointError(text) from None
    names = found.names if len(found.names) == nc else tuple(map(str, range(nc)))
    model.names = dict(enumerate(names))
    return model.eval(), replace(found, names=names)


def shape_of(tensors: dict[str, torch.Tensor]) -> tuple[ModelSpec, int]:
    """Depth and width of the YOLOv5 v6 that tensors belong to, and its number of classes, by their shapes alone.

    Where channels were removed, no width gives these shapes; then it is the one of the deepest layer. Of all depths that
    repeat the bottlenecks as often, the known models' comes first. CheckpointError if there is none.
    """
    blocks = {i: n for i, (_, n, module, _) in enumerate(BACKBONE + NECK) if module == "C3"}
    repeats = {i: len({name.split(".")[3] for name in tensors if name.startswith(f"model.{i}.m.")}) for i in blocks}
    width = len(tensors["model.9.cv2.conv.weight"]) / 1024
    depths = [round(0.01 * i, 2) for i in range(1, 201)]
    known = [*MODELS.values(), *GRID, *(ModelSpec(depth, width) for depth in depths)]
    fitting = [m for m in known if all(scaled_depth(n, m.depth) == repeats[i] for i, n in blocks.items())]
    if not fitting:
        raise CheckpointError(f"no depth of YOLOv5 v6 repeats the bottlenecks as often as {list(repeats.values())}")
    wide = scaled(1, width)[1]
    spec = next((m for m in fitting if scaled(1, m.width)[1] == wide), ModelSpec(fitting[0].depth, width))
    return spec, len(tensors["model.24.m.0.weight"]) // 3 - 5


def _own(path: Path) -> Checkpoint:
    """What a file of `save_weights` holds."""
    try:
        tensors, said = _contents(path)
        require_sound(tensors, {})
        names = json.loads(said.get("names", "[]"))
        return Checkpoint(tensors, tuple(printable(name, 100) for name in names))
    except Exception as error:  # safetensors raises many kinds
        raise CheckpointError(f"{path}: not a whole safetensors file: {printable(error, 300)}") from None


def _contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of a safetensors file by name, and what it says beside them."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], own_widths: bool) -> None:
    """Put tensors into a model, whose convolutions take their widths first if these are its own."""
    if own_widths:
        _take_widths(model, tensors)
    require_sound(tensors, model.state_dict())
    model.load_state_dict(tensors)
    if own_widths:
        _require_that_it_runs(model)


def model_of(record: Record) -> nn.Module:
    """The model of a training's record, or of the official weights', in evaluation mode and not fused.

    StoreError if the record came without its weights.
    """
    model = yolov5.build(ModelSpec(**record.spec["model"]), record.spec["nc"])
    return load_weights(model, record.path("weights.safetensors")).eval()


def compute(spec: OfficialSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Read the official weights of n on COCO and keep them as safetensors; the number of their tensors."""
    model, found = load_network(public.official_weights())
    save_weights(model, folder / "weights.safetensors")
    return {"tensors": len(found.tensors), "parameters": sum(p.numel() for p in model.parameters())}


def _take_widths(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
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
    model.own_widths = True


@torch.no_grad()
def _require_that_it_runs(model: nn.Module) -> None:
    """An error unless each layer's output is as wide as the next one's input: a file may say anything."""
    training = model.training
    model.eval()(torch.zeros(1, 3, 64, 64))
    model.train(training)
