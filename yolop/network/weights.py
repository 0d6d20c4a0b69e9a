"""Our weights as safetensors: saved, loaded, and those of a record as a model. No pickle is ever written."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from yolop.data import public
from yolop.files import write_atomically
from yolop.network import yolov5
from yolop.network.official import CheckpointError, load_official, read_official, require_sound
from yolop.specs import ModelSpec, OfficialSpec, printable
from yolop.store import Record


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's parameters and buffers as safetensors, float32, whole or not at all.

    A model whose channels were removed (`channels`) says so in the file: its widths are the shapes of the tensors.
    """
    state = {k: v.contiguous().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    write_atomically(path, save(state, {"widths": "own"} if getattr(model, "own_widths", False) else None))


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Put weights written by `save_weights` into a model of the same shapes; CheckpointError otherwise.

    If the file says that its model has widths of its own, the model's convolutions are first given these widths.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
        own_widths = metadata.get("widths") == "own"
        if own_widths:
            _take_widths(model, tensors)
        require_sound(tensors, model.state_dict())
        model.load_state_dict(tensors)
        if own_widths:
            _require_that_it_runs(model)
    except Exception as error:  # safetensors and torch raise many kinds
        text = f"{path.name} does not hold the weights of this model: {' '.join(str(error).split())}"
        raise CheckpointError(printable(text, 1000)) from None
    return model


def model_of(record: Record) -> nn.Module:
    """The model of a training's record, or of the official weights', in evaluation mode and not fused.

    StoreError if the record came without its weights.
    """
    model = yolov5.build(ModelSpec(**record.spec["model"]), record.spec["nc"])
    return load_weights(model, record.path("weights.safetensors")).eval()


def compute(spec: OfficialSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Read the official weights of n on COCO and keep them as safetensors; the number of their tensors."""
    tensors = read_official(public.official_weights())
    model = yolov5.build(spec.model, spec.nc)
    load_official(model, tensors)
    save_weights(model, folder / "weights.safetensors")
    return {"tensors": len(tensors), "parameters": sum(p.numel() for p in model.parameters())}


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
