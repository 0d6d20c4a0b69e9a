"""A training that was interrupted goes on from its last kept epoch and ends with the same weights, to the bit.

Kept is all that the next epoch depends on: weights and their running average, the best ones so far, the optimizer's moments,
gradients that still wait for their step, the states of all random numbers, the curve. As safetensors, numbers among them as
JSON, behind a checksum; no pickle. ultralytics' own `resume` rounds the weights to half precision, forgets the random
numbers, and leaves a truncated file if it is killed while it writes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from yolop import store
from yolop.specs import canonical
from yolop.specs import identity as identity_of

EVERY_S = 60.0  # kept at the first end of an epoch after so many seconds
DIGEST = 64  # bytes of the checksum


def keep(trainer, path: Path) -> None:
    """Write what `go_on` needs, whole or not at all; to be called between two epochs, after warm-up."""
    numbers = trainer.numbers() | {
        "of": identity(trainer),
        "epoch": trainer.epoch + 1,
        "last_step": trainer.last_step,
        "updates": trainer.ema.updates,
        "momentum": [group.get("momentum") for group in trainer.optimizer.param_groups],
        "python": random.getstate(),
        "numpy": [np.random.get_state()[0], None, *np.random.get_state()[2:]],
    }
    found = {"model": trainer.model.state_dict(), "ema": trainer.ema.ema.state_dict(), "best": trainer.best_state or {}}
    found["grad"] = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    found["random"] = {"torch": torch.get_rng_state(), "numpy": torch.tensor(np.random.get_state()[1].astype(np.int64))}
    found["own"] = trainer.tensors()
    for i, p in enumerate(_parameters(trainer)):
        found[f"optimizer {i}"] = {k: v for k, v in trainer.optimizer.state[p].items() if v is not None}
    tensors = {f"{part}/{name}": v.contiguous() for part, named in found.items() for name, v in named.items()}
    tensors["numbers"] = torch.frombuffer(bytearray(json.dumps(numbers, allow_nan=False).encode()), dtype=torch.uint8)
    blob = save({name: v.clone() for name, v in tensors.items()})
    store.write_atomically(path, hashlib.sha256(blob).hexdigest().encode() + blob)


def go_on(trainer, path: Path) -> None:
    """Put a trainer that is about to begin where `keep` left an interrupted run of the same spec.

    It begins as ever, saying so, where nothing is kept, where that is damaged, or where it was made with other versions,
    threads or another processor, which would round otherwise.
    """
    if not path.exists():
        return
    text, label = path.read_bytes(), trainer.spec.label
    if hashlib.sha256(text[DIGEST:]).hexdigest().encode() != text[:DIGEST]:
        print(f"{label}: what was kept of an interrupted run is damaged, starting over", flush=True)
        return
    tensors = load(text[DIGEST:])
    numbers = json.loads(tensors.pop("numbers").numpy().tobytes())
    if numbers["of"] != identity(trainer):
        print(f"{label}: interrupted with other settings, versions or threads, starting over", flush=True)
        return
    parts = {}
    for name, tensor in tensors.items():
        part, key = name.split("/", 1)
        parts.setdefault(part, {})[key] = tensor
    _restore(trainer, parts, numbers)
    print(f"{label:<12} goes on after epoch {numbers['epoch']}/{trainer.epochs}", flush=True)


def _restore(trainer, parts: dict, numbers: dict) -> None:
    trainer.model.load_state_dict(parts["model"])
    trainer.ema.ema.load_state_dict(parts["ema"])
    trainer.ema.updates = numbers["updates"]
    if "best" in parts:
        trainer.best_state = copy.deepcopy(trainer.ema.ema.state_dict())  # for its memory layout
        for name, tensor in trainer.best_state.items():
            tensor.copy_(parts["best"][name])
    for i, p in enumerate(_parameters(trainer)):
        for key, value in parts.get(f"optimizer {i}", {}).items():
            trainer.optimizer.state[p][key] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value
    for group, momentum in zip(trainer.optimizer.param_groups, numbers["momentum"], strict=True):
        group.update({"momentum": momentum} if momentum is not None else {})
    trainer.waiting = parts.get("grad", {})
    trainer.start_epoch, trainer.last_step = numbers["epoch"], numbers["last_step"]
    trainer.go_on_with(numbers, parts.get("own", {}))
    loader = trainer.train_loader
    loader.iterator = loader._get_iterator()
    for _ in range(trainer.start_epoch * len(loader)):  # the order of the images so far, without reading them
        next(loader.iterator._sampler_iter)
    version, state, gauss = numbers["python"]
    random.setstate((version, tuple(state), gauss))
    kind, _, *rest = numbers["numpy"]
    np.random.set_state((kind, parts["random"]["numpy"].numpy().astype(np.uint32), *rest))
    torch.set_rng_state(parts["random"]["torch"])


def identity(trainer) -> dict:
    """What the bits of a training depend on."""
    spec = json.loads(canonical(identity_of(trainer.spec)))
    return {"spec": spec, "versions": store.versions(), "threads": torch.get_num_threads(), "host": store.host()}


def _parameters(trainer) -> list[torch.nn.Parameter]:
    return [p for group in trainer.optimizer.param_groups for p in group["params"]]
