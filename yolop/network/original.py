"""Networks handed back to the original YOLOv5: its own checkpoint with other values, or a state dict with its configuration.

Nothing is pickled here but tensors and plain containers. A checkpoint is copied byte by byte, and only what its tensors hold
changes: so the original's code loads it as it loaded the file that it wrote itself.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from torch import nn

from yolop.files import write_atomically
from yolop.network import yolov5
from yolop.network.head import STRIDES
from yolop.network.official import contents
from yolop.shapes import OUTPUTS

NUMBER = struct.Struct("<I")  # of a storage, which marks it


def with_zeros(source: Path, model: nn.Module, path: Path) -> None:
    """Copy a checkpoint that `weights.load_network` reads, with each weight zeroed that is zero in `model`.

    All else keeps its bytes: the other weights to the bit, in the precision of the file, and the pickle, which is not run.
    """
    zeros = {name: tensor == 0 for name, tensor in model.state_dict().items() if name.endswith("conv.weight")}
    zeros |= {f"model.24.m.{i}.weight": conv.weight == 0 for i, conv in enumerate(model.model[-1].m)}
    with zipfile.ZipFile(source) as archive:
        members = {item: archive.read(item) for item in archive.infolist()}
    stored = [item for item in members if "/data/" in item.filename]
    marks = {item: NUMBER.pack(i) * (item.file_size // 4) + b"\0" * (item.file_size % 4) for i, item in enumerate(stored)}
    with TemporaryDirectory() as folder:
        marked = Path(folder, "marked.pt")
        marked.write_bytes(_archive(members | marks))
        networks = contents(marked)
    for tensors, _, _ in networks:  # what a tensor holds there says where it lies
        for name, zero in zeros.items():
            tensor = tensors[name] if name in tensors else tensors[f"{name}_orig"]
            (number,) = NUMBER.unpack(bytes(tensor.untyped_storage()[:4]))
            data = bytearray(members[stored[number]])
            values = torch.frombuffer(data, dtype=tensor.dtype)
            values.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())[zero] = 0
            members[stored[number]] = bytes(data)
    write_atomically(path, _archive(members))


def as_state_dict(model: nn.Module, path: Path) -> None:
    """Write a network as a state dict under the original's names, which `torch.load(weights_only=True)` reads.

    Beside it, as .yaml, its configuration: `models.yolo.Model(yaml).load_state_dict(torch.load(pt))` in the original's folder. A
    network whose channels were removed gets none, as no configuration says its widths.
    """
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    state["model.24.anchors"] = state["model.24.anchors"] / torch.tensor(STRIDES).view(3, 1, 1)  # in grid cells there
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())
    if not getattr(model, "own_widths", False):
        anchors = model.model[-1].anchors.flatten(1).tolist()
        config = yolov5.configuration(model.spec, model.nc) | {"anchors": anchors}
        config["head"] = [*config["head"], [list(OUTPUTS), 1, "Detect", ["nc", "anchors"]]]
        write_atomically(path.with_suffix(".yaml"), yaml.safe_dump(config, sort_keys=False, default_flow_style=None))


def _archive(members: dict[zipfile.ZipInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for item, data in members.items():
            archive.writestr(zipfile.ZipInfo(item.filename, item.date_time), data)
    return content.getvalue()
