"""Weights from strangers: refused before anything in them runs."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from strangers import ESCAPES, Trap, packed, pt, shown

from yolop.network import official, weights, yolov5
from yolop.network.channels import remove_channels
from yolop.network.weights import CheckpointError
from yolop.specs import MODELS


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


SHELL = b"cmodels.yolo\nModel\n)\x81"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
)
TENSOR += b"K\x01tQK\x00K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"


def traps(canary: Path) -> dict[str, object]:
    """Objects that make the canary when they are unpickled, each by another way."""
    code, shell = f"open({str(canary)!r}, 'w').close()", f"touch '{canary}'"
    calls = {
        "builtins.open": (open, str(canary), "w"),
        "builtins.eval": (eval, code),
        "builtins.exec": (exec, code),
        "os.mkdir": (os.mkdir, str(canary)),
        "os.system": (os.system, shell),
        "os.popen": (os.popen, shell),
        "os.open": (os.open, str(canary), os.O_CREAT),
        "subprocess.call": (subprocess.call, ["touch", str(canary)]),
        "subprocess.Popen": (subprocess.Popen, ["touch", str(canary)]),
        "shutil.copy": (shutil.copy, __file__, str(canary)),
        "pathlib.touch": (Path.touch, canary),
        "numpy.save": (np.ndarray.tofile, np.zeros(1), str(canary)),
        "torch.save": (torch.save, 1, str(canary)),
        "pickle in pickle": (pickle.loads, pickle.dumps(Trap(os.mkdir, str(canary)))),
    }
    return {name: Trap(*call) for name, call in calls.items()}


def raw_pickles(canary: Path) -> dict[str, bytes]:
    """What `pickle.dumps` does not write itself: old and rare opcodes, names that are code or are not there."""
    path, argument = str(canary).encode(), text(str(canary))
    return {
        "INST": b"(S'" + path + b"'\nios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\n" + argument + b"o.",
        "text opcodes": b"cos\nmkdir\n(S'" + path + b"'\ntR.",
        "GLOBAL": b"\x80\x02cos\nmkdir\n" + argument + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + argument + b"\x85R.",
        "NEWOBJ_EX": b"\x80\x04cpathlib\nPath\n" + argument + b"\x85}\x92.",
        "dots in a shell's name": b"\x80\x02cmodels\nos.mkdir\n" + argument + b"\x85R.",
        "dots in an allowed name": b"\x80\x02ctorch._utils\nos.mkdir\n" + argument + b"\x85R.",
        "an absent module": b"\x80\x02cabsent_package_xyz\nThing\n)R.",
        "a module with an escape": b"\x80\x02c\x1b[2J\nThing\n)R.",
        "a module of 1 MB": b"\x80\x02c" + b"x" * 10**6 + b"\nThing\n)R.",
        "an extension code": b"\x80\x02\x82\x01.",
        "the import function": b"\x80\x02c__builtin__\n__import__\n" + argument + b"\x85R.",
        "getattr on what is allowed": b"\x80\x02cbuiltins\ngetattr\n(ccollections\nOrderedDict\n" + argument + b"tR.",
        "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__Nsb.",
        "a call of a tensor": b"\x80\x02" + TENSOR + b"(" + argument + b"tR.",
        "no end": b"\x80\x02}",
        "nothing": b"",
    }


def test_pickles_that_would_run_code(tmp_path, canary, seen):
    files = raw_pickles(canary)
    for name, trap in traps(canary).items():
        made = pickle.loads(pickle.dumps(trap))  # each would sing
        getattr(made, "wait", getattr(made, "close", int))()
        assert canary.exists(), name
        shutil.rmtree(canary) if canary.is_dir() else canary.unlink()
        places = {
            "alone": trap,
            "model": {"model": trap},
            "ema": {"ema": trap, "model": {}},
            "inside": {"model": [{"a": trap}]},
        }
        files |= {f"{name} {at} {n}": pickle.dumps(content, n) for at, content in places.items() for n in (0, 2, 4)}
    for name, data in files.items():
        (tmp_path / "bare.pt").write_bytes(data)  # as torch.save wrote them long ago
        for path in (pt(tmp_path / "a.pt", data, [bytes(4)]), tmp_path / "bare.pt"):
            with warnings.catch_warnings(), pytest.raises(CheckpointError) as caught:
                warnings.simplefilter("ignore")  # of PyTorch, about other protocols
                official.read_checkpoint(path)
            said = shown(caught.value)
            assert len(said) < 1000 and not canary.exists(), name
            if path.name == "bare.pt":
                assert said.startswith("bare.pt is no zip archive"), name
            elif name.endswith(" 2"):  # torch.save's own protocol
                assert "the file asks for " in said or "of the ultralytics package" in said, name
    seen(".pt whose pickle would run code or names what is not there", 2 * len(files), "refused, the canary absent")


def test_shells_and_a_damaged_storage(tmp_path, canary, seen):
    """Classes of the original come through with their state, whatever they are called, and none of it is run."""
    state = b"}(" + text("_modules") + b"}" + text("conv") + SHELL + b"}" + text("_parameters") + b"}"
    state += text("weight") + TENSOR + b"ssbs" + text("forward") + text("os.system") + b"u"
    model = b"\x80\x02}" + text("model") + b"cmodels.yolo\nos.mkdir\n" + text(str(canary)) + b"\x85R" + state + b"bs."
    read = official.read_checkpoint(pt(tmp_path / "a.pt", model, [struct.pack("<f", 0.5)])).tensors
    assert read.keys() == {"conv.weight"} and read["conv.weight"] == 0.5 and not canary.exists()
    for storage in ([bytes(2)], [bytes(8)], [], [struct.pack("<f", float("nan"))]):
        with pytest.raises(CheckpointError, match=r"a\.pt|not finite"):
            official.read_checkpoint(pt(tmp_path / "a.pt", model, storage))
    seen("shells of the original's classes; storages of another size, absent or NaN", 5, "inert; named")


# --- safetensors ------------------------------------------------------------------------------------------------------


def lying_tensors(canary: Path) -> dict[str, bytes]:
    """Safetensors of YOLOv5p with 3 classes of which one thing is not true."""
    torch.manual_seed(0)
    state = yolov5.build(MODELS["p"], 3).state_dict()
    whole = save(state)
    length = struct.unpack("<Q", whole[:8])[0]
    text, data = whole[8 : 8 + length], whole[8 + length :]
    name, code = "model.0.conv.weight", f"__import__('os').mkdir({str(canary)!r})"
    entry = json.loads(text)[name]
    begin, end = entry["data_offsets"]

    def changed(**fields) -> bytes:
        return packed(json.loads(text) | {name: entry | fields}, data)

    def also(key: str, value) -> bytes:
        return packed(json.loads(text) | {key: value}, data)

    narrow, turned = {"__metadata__": {"widths": "own"}}, entry | {"shape": [3, 16, *entry["shape"][2:]]}
    cut, kernels, double, infinite = (dict(state) for _ in range(4))
    cut[name] = state[name][:-8].clone()
    kernels[name] = torch.zeros(*state[name].shape[:2], 3, 3)
    double[name] = state[name].double()
    infinite[name] = torch.full_like(state[name], float("nan"))
    return {
        "header longer than the file": packed(text, data, 10**6),
        "header of 2**63 bytes": packed(text, data, 2**63),
        "header of no bytes": packed(text, data, 0),
        "header of half its length": packed(text, data, length // 2),
        "header that is a list": packed(b"[]", data),
        "header nested deep": packed(b'{"a":' * 10**5, data),
        "header that is code": packed(code.encode(), data),
        "header in UTF-16": packed(text.decode().encode("utf-16"), data),
        "data cut": whole[:-4],
        "data added": whole + bytes(4),
        "offsets beyond the file": changed(data_offsets=[begin, len(data) + 4]),
        "offsets of 2**60": changed(data_offsets=[2**60, 2**60 + end - begin]),
        "offsets backwards": changed(data_offsets=[end, begin]),
        "offsets below 0": changed(data_offsets=[-4, end - 4]),
        "offsets as text": changed(data_offsets=["0", code]),
        "offsets of another tensor": changed(data_offsets=json.loads(text)["model.1.conv.weight"]["data_offsets"]),
        "shape of 2**80 values": changed(shape=[2**40, 2**40]),
        "shape that overflows to its size": changed(shape=[2**32, 2**32, *entry["shape"]]),
        "shape below 0": changed(shape=[-1, *entry["shape"][1:]]),
        "shape of other axes": changed(shape=entry["shape"][::-1]),
        "shape that is code": changed(shape=code),
        "type that is not there": changed(dtype="F33"),
        "type of another width": changed(dtype="F64"),
        "type of integers": changed(dtype="I32"),
        "type that is code": changed(dtype=code),
        "the same name twice": packed(text.rstrip()[:-1] + b"," + json.dumps({name: entry | {"shape": [0]}}).encode()[1:], data),
        "a name that is code": also(code, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        "a name with escapes": also(ESCAPES, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        "a name of 1 MB": also("x" * 10**6, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        "metadata that is a list": also("__metadata__", [code]),
        "double precision": save(double),
        "double precision and its own widths": save(double, {"widths": "own"}),
        "not a number": save(infinite),
        "widths that do not fit together": save(cut, {"widths": "own"}),
        "kernels of another size": save(kernels, {"widths": "own"}),
        "widths of nothing": save({}, {"widths": "own"}),
        "shape of other axes and its own widths": packed(json.loads(text) | narrow | {name: turned}, data),
        "a pickle": pickle.dumps(Trap(os.mkdir, str(canary))),
        "an archive": pt(canary.with_name("a.pt"), pickle.dumps(Trap(os.mkdir, str(canary)))).read_bytes(),
        "nothing": b"",
    }  # fmt: skip


def test_safetensors_that_lie(tmp_path, canary, seen):
    files = lying_tensors(canary)
    path, passed = tmp_path / "w.safetensors", 0
    for name, data in files.items():
        path.write_bytes(data)
        for load in (lambda path: weights.load_weights(yolov5.build(MODELS["p"], 3), path), weights.load_network):
            try:
                load(path)
                passed += 1
                print("not refused:", name)
            except CheckpointError as error:
                assert len(shown(error)) < 1200 and "w.safetensors" in str(error), name
            assert not canary.exists()
    assert passed == 0
    weights.save_weights(remove_channels(yolov5.build(MODELS["p"], 3), 0.5), path)  # and the honest ones pass
    weights.load_weights(yolov5.build(MODELS["p"], 3), path)
    weights.load_network(path)
    what = "safetensors with a lying header, widths that do not fit, NaN, names that are code"
    seen(what, len(files), "refused", passed)
