"""Strangers' files: refused before anything in them runs, in memory that has to do with their size; and nothing is
installed, downloaded or reported at run time unasked."""

from __future__ import annotations

import ast
import bz2
import html.parser
import io
import json
import lzma
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from nbconvert.filters import markdown2html
from nbformat import v4
from PIL import Image
from safetensors.torch import save
from torch import nn

import yolop
from yolop import (
    checkpoints,
    datasets,
    downloads,
    models,
    page,
    plots,
    reporting,
    runner,
    runtimes,
    sparse,
    tables,
)
from yolop.__main__ import main
from yolop.checkpoints import CheckpointError
from yolop.datasets import DatasetError
from yolop.downloads import DownloadError, Source, fetch, manifest_text
from yolop.narrowing import remove_channels
from yolop.specs import MODELS, Study

ROOT = Path(__file__).resolve().parents[2]
GROWTH_MB = 400  # of the process that reads all bombs, over what it has after its imports
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\u202e"  # clears the screen, names the window, turns the writing around


@pytest.fixture
def canary(tmp_path):
    """A file that must not come into being: the code of strangers would make it."""
    return tmp_path / "canary"


def shown(error: BaseException) -> str:
    """The message of a refusal; it is short, and nothing in it steers a terminal."""
    text = str(error)
    assert len(text) < 15_000 and all(c.isprintable() or c == "\n" for c in text), ascii(text[:300])
    return text


# --- .pt --------------------------------------------------------------------------------------------------------------


class Trap:
    """Calls something when a plain unpickler meets it."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def pt(path: Path, pickled: bytes, storages=(), compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for number, data in enumerate(storages):
            archive.writestr(f"archive/data/{number}", data)
    return path


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
    path = str(canary).encode()
    text = b"X" + struct.pack("<I", len(path)) + path
    return {
        "INST": b"(S'" + path + b"'\nios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\n" + text + b"o.",
        "text opcodes": b"cos\nmkdir\n(S'" + path + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + text + b"\x85R.",
        "NEWOBJ_EX": b"\x80\x04cpathlib\nPath\n" + text + b"\x85}\x92.",
        "dots in a shell's name": b"\x80\x04\x8c\x06models\x8c\x09os.system\x93" + text + b"\x85R.",
        "dots in an allowed name": b"\x80\x04\x8c\x0ctorch._utils\x8c\x0dos.path.isdir\x93" + text + b"\x85R.",
        "an absent module": b"\x80\x02cabsent_package_xyz\nThing\n)R.",
        "a module with an escape": b"\x80\x02c\x1b[2J\nThing\n)R.",
        "a module of 1 MB": b"\x80\x02c" + b"x" * 10**6 + b"\nThing\n)R.",
        "an extension code": b"\x80\x02\x82\x01.",
        "the import function": b"c__builtin__\n__import__\n(S'this'\ntR.",
        "getattr on what is allowed": b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nS'__init__'\ntR.",
        "a state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__code__Ns\x86b.",
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
        files |= {f"{name} {at} {n}": pickle.dumps(found, n) for at, found in places.items() for n in (0, 2, 4)}
    ran = 0
    for name, data in files.items():
        (tmp_path / "bare.pt").write_bytes(data)  # as torch.save wrote them long ago
        for path in (pt(tmp_path / "a.pt", data), tmp_path / "bare.pt"):
            with pytest.raises(CheckpointError) as caught:
                checkpoints.read_official(path)
            assert len(shown(caught.value)) < 1000, name
            ran += canary.exists()
    assert ran == 0
    seen(
        ".pt whose pickle would run code or names what is not there", 2 * len(files), "refused, the canary absent", ran
    )


# --- safetensors ------------------------------------------------------------------------------------------------------


def packed(header: dict | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def lying_tensors(canary: Path) -> dict[str, bytes]:
    """Safetensors of YOLOv5p with 3 classes of which one thing is not true."""
    torch.manual_seed(0)
    state = models.build(MODELS["p"], 3).state_dict()
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
        try:
            checkpoints.load_weights(models.build(MODELS["p"], 3), path)
            passed += 1
            print("not refused:", name)
        except CheckpointError as error:
            assert len(shown(error)) < 1200 and "w.safetensors" in str(error), name
        assert not canary.exists()
    assert passed == 0
    checkpoints.save_weights(remove_channels(models.build(MODELS["p"], 3), 0.5), path)  # and the honest ones pass
    checkpoints.load_weights(models.build(MODELS["p"], 3), path)
    seen(
        "safetensors with a lying header, widths that do not fit, NaN, names that are code",
        len(files),
        "refused",
        passed,
    )


# --- data.yaml --------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(project, tmp_path):
    """A small good data set, in a folder beside things that are none of its business; a project with one notebook."""
    notebook(project)
    root = tmp_path / "set"
    for split in ("train", "val"):
        picture(root / f"images/{split}/0.png", split)
        picture(tmp_path / f"private/images/{split}/0.png", split)
    (root / "data.yaml").write_text(GOOD)
    (tmp_path / "private/list.txt").write_text("images/train/0.png\n")
    return root


GOOD = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
FIELDS = (
    "study records write_report dataset imgsz models p epochs batch pretraining pretrain_epochs seeds ratios sparsities removed "
    "timing_rounds device"
)


def picture(path: Path, seed: str) -> None:
    label = datasets._label_path(path)
    for file in (path, label):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(seed)).integers(256, size=(16, 20, 3), dtype=np.uint8)).save(path)
    label.write_text("0 0.5 0.5 0.2 0.4\n")


def notebook(root: Path, *sources: str, **fields) -> Path:
    defaults = {"study": "digits", "records": "committed", "write_report": False} | fields
    cell = "\n".join(f"{name} = {defaults.get(name)!r}" for name in FIELDS.split())
    cells = [v4.new_code_cell(cell, metadata={"tags": ["parameters"]}), *map(v4.new_code_cell, sources)]
    path = root / "notebooks" / "01_toy.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def laughs(levels: int, item: str, form: str = "[{}]") -> str:
    lines = [f"l0: &l0 {item}"]
    lines += [f"l{i}: &l{i} {form.format(', '.join([f'*l{i - 1}'] * 10))}" for i in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


def hostile_yamls(canary: Path) -> dict[str, str | bytes]:
    shell, code = f"touch {canary}", f"open('{canary}', 'w')"
    rest, nested = "train: images/train\nval: images/val\n", "names: [cat]\n"
    applied = f'os.system ["{shell}"]'
    tags = {
        "apply": f"!!python/object/apply:{applied}",
        "apply, with the tag in full": f'!<tag:yaml.org,2002:python/object/apply:os.system> ["{shell}"]',
        "apply with keywords": f'!!python/object/apply:os.system {{args: ["{shell}"]}}',
        "new": f'!!python/object/new:os.mkdir ["{canary}"]',
        "new with state": f'!!python/object/new:type {{args: ["z", !!python/tuple [], {{}}], listitems: "{code}"}}',
        "object": f"!!python/object:pathlib.Path {{_str: {canary}}}",
        "name": "!!python/name:os.system",
        "module": "!!python/module:os",
        "tuple": "!!python/tuple [a, b]",
        "unknown": "!!absent.Thing {a: b}",
        "set": "!!set {a, b}",
        "binary": "!!binary Y2F0",
    }
    found = {f"tag: {name}": f"{rest}names: {text}\n" for name, text in tags.items()}
    found |= {f"tag in a path: {name}": f"train: {text}\nval: images/val\n{nested}" for name, text in tags.items()}
    found |= {
        "tag by a directive": f'%TAG ! tag:yaml.org,2002:python/object/\n---\n{rest}names: !apply:os.system ["{shell}"]\n',
        "download in Python": f"{rest}{nested}download: |\n  import os\n  {code}\n",
        "download by a shell": f"{rest}{nested}download: bash {shell}\n",
        "download from elsewhere": f"{rest}{nested}download: https://example.org/set.zip\n",
        "download as a list": f"{rest}{nested}download: ['{shell}']\n",
        "download of images that are not there": f"train: images/gone\nval: images/gone\n{nested}download: |\n  {code}\n",
        "laughing names": f"{rest}{laughs(9, '[a, b]')}names: *l9\n",
        "laughing paths": f"{laughs(9, '[a, b]')}train: *l9\nval: images/val\n{nested}",
        "laughing beside": f"{rest}{nested}{laughs(9, '[a, b]')}",
        "merges that multiply": f"{rest}{nested}{laughs(9, '{a: b}', '{{<<: [{}]}}')}",
        "an alias of itself": f"{rest}names: &a [*a]\n",
        "deep lists": f"{rest}names: {'[' * 50_000}",
        "deep mappings": f"{rest}names: {'{a: ' * 50_000}",
        "2 MB": f"{rest}{nested}#{'x' * 2**21}\n",
        "a name of 5,000 hex digits": f"{rest}names: [0x{'f' * 5000}]\n",
        "nc of 5,000 hex digits": f"{rest}{nested}nc: 0x{'f' * 5000}\n",
        "nc in base 60": f"{rest}{nested}nc: {'1:' * 100_000}1\n",
        "nc that is code": f'{rest}{nested}nc: "{code}"\n',
        "a name of 1 MB": f"{rest}names: ['{'x' * 10**6}']\n",
        "a name with escapes": f"{rest}names: {json.dumps([ESCAPES])}\n",
        "a name with a new line": f'{rest}names: ["a\\nb"]\n',
        "a name with a NUL": f'{rest}names: ["a\\0b"]\n',
        "a name that is half a character": f'{rest}names: ["\\uD800"]\n',
        "300 KB of names and one twice": f"{rest}names: [{', '.join(map(str, range(50_000)))}, 7]\n",
        "a path of 1 MB": f"train: {'x' * 10**6}\nval: images/val\n{nested}",
        "a path with escapes": f"train: {json.dumps(ESCAPES)}\nval: images/val\n{nested}",
        "a path with a NUL": f'train: "images/train\\0"\nval: images/val\n{nested}',
        "a data set with a NUL": f'path: "a\\0b"\n{rest}{nested}',
        "a path that is code": f"train: $({shell})\nval: '`{shell}`'\n{nested}",
        "an address": f"train: https://example.org/a.zip\nval: images/val\n{nested}",
        "a model": f"nc: 2\nactivation: \"{code}\"\nbackbone: [[-1, 1, Conv, [64, 6, 2, 2]]]\nhead: []\n",
        "two documents": f"{rest}{nested}---\n{rest}names: [other]\n",
        "control characters": f"{rest}names: [{ESCAPES}]\n",
        "UTF-7": f"{rest}names: [+ADw-script+AD4-\xff]\n".encode("latin-1"),
        "the whole disk": f"train: /\nval: images/val\n{nested}",
        "the folder above": f"train: ..\nval: images/val\n{nested}",
        "images elsewhere": f"train: ../private/images/train\nval: images/val\n{nested}",
        "images elsewhere, in full": f"train: {canary.parent}/private/images/train\nval: images/val\n{nested}",
        "a list elsewhere": f"train: ../private/list.txt\nval: images/val\n{nested}",
        "the user's home as the data set": f"path: {os.path.expanduser('~')}\n{rest}{nested}",
        "the disk as the data set": f"path: /\n{rest}{nested}",
        "the disk as the data set, from here": f"path: {'../' * 40}\n{rest}{nested}",
    }  # fmt: skip
    return found


def refused(yaml: Path, capsys, canary: Path) -> None:
    """Neither the reader nor the command line takes it; no kernel starts, and no code of it runs."""
    with pytest.raises(DatasetError) as caught:
        datasets.read(yaml)
    shown(caught.value)
    assert main(["run", "smoke", "--set", f"dataset={yaml}"]) == 2
    assert capsys.readouterr().err.startswith("yolop: ")
    assert not canary.exists()


def test_yamls_that_would_run_blow_up_or_lead_away(root, canary, monkeypatch, capsys, seen):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    datasets.read(root / "data.yaml")
    files = hostile_yamls(canary)
    for name, text in files.items():
        print(name)
        (root / "data.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        refused(root / "data.yaml", capsys, canary)
    seen(
        "data.yaml with code, aliases, endless numbers, paths that lead away",
        2 * len(files),
        "refused before a kernel starts",
    )


def test_files_that_lead_away_from_their_data_set(root, tmp_path, canary, monkeypatch, capsys, seen):
    """By links and by lists; what lies there is not even shown in the message."""
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    secret = tmp_path / "private/secret"
    secret.write_text("the secret of somebody\n")
    away, picture_away = tmp_path / "private/images/train", tmp_path / "private/images/train/0.png"

    def linked(place: str, to: Path):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(to)

    def listed(line):
        (root / "list.txt").write_text(f"images/train/0.png\n{line}\n")
        (root / "data.yaml").write_text(GOOD.replace("images/train", "list.txt"))

    def moved(place: str, to: Path):
        shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()
        linked(place, to)

    def list_linked():
        linked("list.txt", secret)
        (root / "data.yaml").write_text(GOOD.replace("images/val", "list.txt"))

    ways = {
        "an image that is a link": lambda: linked("images/train/1.png", picture_away),
        "a label that is a link": lambda: moved("labels/train/0.txt", secret),
        "a folder of labels that is a link": lambda: moved("labels/train", tmp_path / "private/labels/train"),
        "a split that is a link": lambda: moved("images/train", away),
        "a list that is a link": list_linked,
        "a link to a link": lambda: linked("a", picture_away) or linked("images/train/1.png", root / "a"),
        "a path in full in a list": lambda: listed(picture_away),
        "a path upwards in a list": lambda: listed("../private/images/train/0.png"),
        "a line with escapes in a list": lambda: listed(ESCAPES),
        "a line with a NUL in a list": lambda: listed("images/train/\0.png"),
        "a line of 1 MB in a list": lambda: listed("x" * 10**6),
        "a device in a list": lambda: listed("/dev/zero"),
    }
    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    for name, spoil in ways.items():
        print(name)
        spoil()
        refused(root / "data.yaml", capsys, canary)
        with pytest.raises(DatasetError) as caught:
            datasets.read(root / "data.yaml")
        assert "secret of" not in str(caught.value)
        shutil.rmtree(root)
        shutil.copytree(whole, root)
    (root / "inner").mkdir()  # inside a data set, links and paths upwards are as good as any
    (root / "inner/data.yaml").write_text(f"path: ..\n{GOOD}")
    linked("images/train/1.png", root / "images/train/0.png")
    assert len(datasets.read(root / "inner/data.yaml").splits["train"].images) == 2
    seen("links and lists that lead out of the data set", 2 * len(ways), "refused, and nothing of it shown")


# --- images and what lies beside them ---------------------------------------------------------------------------------


def png(width: int, height: int, rows: int | None = None, *chunks: tuple[bytes, bytes]) -> bytes:
    """A black PNG of any size, or the beginning of one; a thousandth of what it is in memory."""
    packer, row = zlib.compressobj(1), bytes(width * 3 + 1)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = (b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    framed = (
        struct.pack(">I", len(text)) + kind + text + struct.pack(">I", zlib.crc32(kind + text))
        for kind, text in (header, *chunks, (b"IDAT", data), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def tiff(side: int) -> bytes:
    """A TIFF of 20 x 16 px in one compressed tile of side x side."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(side * 3)) for _ in range(side)) + packer.flush()
    tags = {256: 20, 257: 16, 258: 8, 259: 8, 262: 2, 277: 3, 322: side, 323: side, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(width: int, height: int) -> bytes:
    """A BMP whose one run skips 255 rows."""
    data = b"\0\2\xff\xff\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + header + bytes(1024) + data


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(file, form)
    return file.getvalue()


def disguised(canary: Path) -> dict[str, bytes]:
    """Programs and documents in the place of an image."""
    shell = f"touch '{canary}'"
    return {
        "a shell script": f"#!/bin/sh\n{shell}\n".encode(),
        "Python": f"open({str(canary)!r}, 'w')\n".encode(),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 30\n(%pipe%"
        + shell.encode()
        + b") (w) file\n%%EOF\n",
        "SVG": f"<svg xmlns='http://www.w3.org/2000/svg'><script>{shell}</script></svg>".encode(),
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "PDF": b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n",
        "a pickle": pickle.dumps(Trap(os.mkdir, str(canary))),
        "an archive": pt(canary.with_name("b.pt"), b"x").read_bytes(),
        "a GIF": encoded("GIF"),
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(100),
        "MVG": f'push graphic-context\nimage over 0,0 0,0 "|{shell}"\npop graphic-context'.encode(),
        "a URL": b"https://example.org/a.png",
    }


def test_images_that_are_something_else(root, canary, monkeypatch, capsys, seen):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    files = disguised(canary)
    for form, suffix in {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}.items():
        whole = encoded(form)
        files |= {f"{form} cut to {share:.0%}.{suffix}": whole[: int(share * len(whole))] for share in (0.02, 0.5, 0.9)}
    for name, data in files.items():
        print(name)
        path = root / f"images/train/1.{name.rpartition('.')[2] if '%' in name else 'png'}"
        path.write_bytes(data)
        refused(root / "data.yaml", capsys, canary)
        path.unlink()
    both = {name: png(20, 16) + data for name, data in disguised(canary).items()}  # an image to one reader only
    for data in both.values():
        (root / "images/train/1.png").write_bytes(data)
        assert datasets.read_image(datasets.read(root / "data.yaml").splits["train"].images[1]).shape == (16, 20, 3)
    assert not canary.exists()
    seen("images that are programs or documents, or cut", 2 * len(files), "refused")
    seen("images that are a program as well", len(both), "read as the image; nothing runs")


# --- bombs: all of them in one process whose memory is measured -------------------------------------------------------

SHELL = b"cmodels.yolo\nModel\n)\x81"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQ"


def number(n: int) -> bytes:
    return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)


def tensor(size: tuple, stride: tuple) -> bytes:
    sizes, strides = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00" + sizes + strides + b"\x89}tR"


def network(*parts: bytes) -> bytes:
    """A pickle of a model whose parameters are these."""
    named = b"".join(b"X\x08\x00\x00\x00" + f"{i:08}".encode() + part for i, part in enumerate(parts))
    return b"\x80\x02}X\x05\x00\x00\x00model" + SHELL + b"}X\x0b\x00\x00\x00_parameters}(" + named + b"usbs."


def doubling(levels: int) -> bytes:
    """Modules that hold the one before twice: few in the file, 2 ** levels to walk."""
    found = SHELL + b"r" + struct.pack("<I", 0)
    for i in range(1, levels):
        before = b"j" + struct.pack("<I", i - 1)
        children = b"}X\x08\x00\x00\x00_modules}(X\x01\x00\x00\x00a" + before + b"X\x01\x00\x00\x00b" + before + b"us"
        found += b"X\x01\x00\x00\x00x" + SHELL + b"r" + struct.pack("<I", i) + children + b"b"
    names = b"X\x05\x00\x00\x00model"
    return b"\x80\x02}(" + b"X\x01\x00\x00\x00y" + found + names + b"j" + struct.pack("<I", levels - 1) + b"u."


def write_bombs(folder: Path) -> int:
    """Every file of it asks for one to many GB of memory, for ever, or for the stack; returns how many there are."""
    folder.mkdir()
    (folder / "honest.pt").write_bytes(pt(folder / "x", network(tensor((2, 4), (4, 1))), [bytes(16)]).read_bytes())
    pickles = {
        "memo": b"\x80\x02Nr" + struct.pack("<I", 2**28) + b".",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**32) + b".",
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**32) + b".",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**32) + b"N.",
        "long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
        "digits": b"\x80\x02L" + b"9" * 3 * 10**6 + b"L\n.",
        "deep-key": b"\x80\x02}" + b")" + b"\x85" * 3 * 10**6 + b"K\x01s.",
        "deep-list": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "doubling-keys": b"\x80\x02})" + b"q\x00h\x00\x86" * 64 + b"K\x01s.",
        "marks": b"\x80\x02" + b"(" * 4 * 10**6 + b".",
        "copies": b"\x80\x02" + b"2" * 4 * 10**6 + b".",
        "doubling-modules": doubling(50),
        "a-large-name": b"\x80\x02cmodels.x\n" + b"y" * 4 * 10**6 + b"\n)\x81.",
    }
    for name, data in pickles.items():
        pt(folder / f"{name}.pt", data)
    pt(folder / "stride-0.pt", network(tensor((10**9,), (0,))), [bytes(16)])
    pt(folder / "two-strides-0.pt", network(tensor((10**5, 10**5), (0, 0))), [bytes(16)])
    pt(folder / "overlapping.pt", network(tensor((10**6, 10**6), (1, 0))), [bytes(2 * 10**6)])
    again = b"K\x00K\x08\x85K\x01\x85\x89}tR"
    often = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE.replace(b"K\x08tQ", number(10**6) + b"tQ") + again
    pt(folder / "a-storage-asked-for-often.pt", network(*[often] * 2000), [bytes(2 * 10**6)])
    pt(folder / "compressed.pt", bytes(2**30), compression=zipfile.ZIP_DEFLATED)
    announced = (folder / "compressed.pt").read_bytes().replace(struct.pack("<I", 2**30), struct.pack("<I", 100))
    (folder / "compressed-and-announced-small.pt").write_bytes(announced)
    pt(folder / "compressed-storage.pt", network(tensor((2, 4), (4, 1))), [bytes(2**29)], zipfile.ZIP_BZIP2)
    for name, header in {"deep": b'{"a":' * 2 * 10**6, "wide": b'{"' + b"x" * 10**7 + b'":{}}'}.items():
        (folder / f"{name}.safetensors").write_bytes(packed(header, b""))
    lie = {"a": {"dtype": "F32", "shape": [2**30, 2], "data_offsets": [0, 2**33]}}
    (folder / "large.safetensors").write_bytes(packed(lie, b""))
    images = {
        "3600-megapixels.png": png(60000, 60000, 10),
        "340-megapixels.png": png(18500, 18500),
        "text.png": png(20, 16, None, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**29)))),
        "profile.png": png(20, 16, None, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**29)))),
        "rows-beyond-the-picture.png": png(20, 16, 10**6),
        "tile.tif": tiff(20_000),
        "run.bmp": bmp(4_000_000, 20),
        "canvas.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0"
        + b"\xff\xff\xff" * 2
        + b"ANIM\x06\0\0\0"
        + bytes(6),
    }
    for name, data in images.items():
        (folder / name).write_bytes(data)
    for name in ("sparse.png", "sparse.webp", "sparse.yaml", "sparse.label", "sparse.list"):
        start = {"png": png(20, 16), "webp": encoded("WEBP"), "yaml": GOOD.encode()}.get(name[7:], b"0 .5 .5 .2 .2\n")
        (folder / name).write_bytes(start)
        os.truncate(folder / name, 2**31)  # takes no room on the disk, nor in a tar archive
    (folder / "merges.yaml").write_text(GOOD + laughs(7, "{a: b}", "{{<<: [{}]}}"))
    deflated, zeros = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(2**29)
    packers = {
        zipfile.ZIP_BZIP2: bz2.compress(zeros, 1),
        zipfile.ZIP_LZMA: lzma_member(zeros),
        zipfile.ZIP_DEFLATED: deflated.compress(zeros) + deflated.flush(),
    }
    for method, data in packers.items():
        with zipfile.ZipFile(folder / f"{method}.zip", "w") as archive:
            archive.writestr("a.bin", data + os.urandom(300_000 - len(data) % 300_000))
        raw = (folder / f"{method}.zip").read_bytes()
        for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
            place = raw.index(mark) + at
            raw = raw[:place] + struct.pack("<H", method) + raw[place + 2 :]
        (folder / f"{method}.zip").write_bytes(raw)
    (folder / "x").unlink()
    return len(list(folder.iterdir())) - 1


def lzma_member(content: bytes) -> bytes:
    """The content as a zip archive holds it."""
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 0}]
    properties = lzma._encode_filter_properties(filters[0])
    data = lzma.compress(content, lzma.FORMAT_RAW, filters=filters)
    return struct.pack("<BBH", 9, 4, len(properties)) + properties + data


READER = """
import json, resource, shutil, sys, time, warnings, zipfile
from pathlib import Path
from yolop import checkpoints, datasets, downloads, models
from yolop.specs import MODELS

warnings.simplefilter("ignore")
folder, root = map(Path, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 8 * 2**30,) * 2)
model = models.build(MODELS["p"], 3)

def read_set(path, place):
    shutil.copy(root / "data.yaml", root / "data.yaml.kept")
    (root / place).unlink(missing_ok=True)
    (root / place).symlink_to(path)  # a copy of a sparse file would take room
    before = datasets._outside
    datasets._outside = lambda *_: ""  # the link is ours
    try:
        datasets.read(root / "data.yaml")
    finally:
        datasets._outside = before
        (root / place).unlink()
        shutil.copy(root / "data.yaml.kept", root / "data.yaml")

def archive(path):
    files = {"a.bin": (10**6, "0" * 64)}
    downloads._unpack("https://x/a.zip", path, files, root / "unpacked")
    raise downloads.DownloadError("nothing found") if downloads.wrong_files(root / "unpacked", files) else 0

READERS = {
    ".pt": checkpoints.read_official, ".safetensors": lambda path: checkpoints.load_weights(model, path),
    ".yaml": lambda path: datasets.read(path), ".label": lambda path: read_set(path, "labels/train/0.txt"),
    ".list": lambda path: datasets._refuse(path, datasets._listed(path, root, (root,), found := []) and found or found),
    ".zip": archive,
}
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000  # of this program only
start = peak()
for path in sorted(folder.iterdir()):
    before, began = peak(), time.perf_counter()
    try:
        READERS.get(path.suffix, datasets.read_image)(path)
        outcome = "read"
    except (checkpoints.CheckpointError, datasets.DatasetError, downloads.DownloadError) as error:
        outcome = f"refused: {str(error)[:120]}"
    print(json.dumps([path.name, outcome, round(peak() - before), round(time.perf_counter() - began, 1)]), flush=True)
print(json.dumps(peak() - start))
"""
# Read: what is too much in them is left alone.
HARMLESS = {"honest.pt", "a-storage-asked-for-often.pt", "text.png", "profile.png", "rows-beyond-the-picture.png"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_bombs(root, tmp_path, seen):
    bombs = write_bombs(tmp_path / "bombs")
    picture(root / "images/train/0.png", "train")
    command = [sys.executable, "-c", READER, str(tmp_path / "bombs"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr[-2000:])
    *rows, growth_mb = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and len(rows) == bombs + 1
    passed = {name for name, outcome, *_ in rows if outcome == "read"} - HARMLESS
    assert passed == set() and growth_mb < GROWTH_MB
    seen(
        "bombs: pickles, archives, images, labels, YAML that ask for GB, for ever or for the stack",
        bombs,
        f"refused, in at most {round(growth_mb, -1):.0f} MB more memory, {max(row[3] for row in rows):.0f} s each",
        len(passed),
    )


# --- archives ---------------------------------------------------------------------------------------------------------

CONTENT = b"the known content " * 100


def zipped(*members: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16  # the constructor tidies names
            archive.writestr(info, data)
    return buffer.getvalue()


def tarred(form: str, name: str, kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w{form}") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(CONTENT) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(CONTENT))
    return buffer.getvalue()


def hostile_archives(canary: Path) -> dict[str, bytes]:
    """None holds the one known file, `images/a.bin`, in an honest place; each tries to write the canary."""
    link, evil = stat.S_IFLNK | 0o777, (str(canary), b"evil", 0)
    upwards = "../" * 20 + str(canary).lstrip("/")
    names = ("../images/a.bin", "x/../images/a.bin", "/images/a.bin", "//x/images/a.bin", "..\\images\\a.bin")
    names += (
        "C:\\images\\a.bin",
        "images/a.bin/",
        "images/./a.bin",
        "IMAGES/A.BIN",
        "images/a.bin ",
        "images/../a.bin",
    )
    found = {f"a member called {name!r}": zipped((name, CONTENT, 0), evil) for name in names}
    found |= {
        "a path in full": zipped(evil),
        "a path upwards": zipped((upwards, b"evil", 0)),
        "a link in its place": zipped(("images/a.bin", str(canary).encode(), link)),
        "a link to the content": zipped(("images/a.bin", CONTENT, link)),
        "a link, then a file through it": zipped(("images", str(canary.parent).encode(), link), ("images/canary", b"evil", 0)),
        "a device": zipped(("images/a.bin", CONTENT, stat.S_IFCHR | 0o777)),
        "a pipe": zipped(("images/a.bin", CONTENT, stat.S_IFIFO | 0o777)),
        "another content": zipped(("images/a.bin", CONTENT[::-1], 0)),
        "a longer content": zipped(("images/a.bin", CONTENT + b"x", 0)),
        "an archive in an archive": zipped(("inner.zip", zipped(("images/a.bin", CONTENT, 0)), 0)),
        "a program in front": f"#!/bin/sh\ntouch '{canary}'\nexit\n".encode() + zipped(evil),
        "Python to start": zipped(("__main__.py", f"open({str(canary)!r}, 'w')".encode(), 0)),
        "30,000 members": zipped(*[(f"{i}/b.bin", b"", 0) for i in range(30_000)]),
        "no members": zipped(),
        "cut": zipped(("images/a.bin", CONTENT, 0))[:-30],
    }  # fmt: skip
    for form in ("", ":gz", ":bz2", ":xz"):
        kinds = {
            "link": (tarfile.SYMTYPE, str(canary)),
            "hard link": (tarfile.LNKTYPE, str(canary)),
            "file": (tarfile.REGTYPE, ""),
        }
        found |= {f"a tar{form}: {kind}": tarred(form, "images/a.bin", *how) for kind, how in kinds.items()}
        found[f"a tar{form}: a path in full"] = tarred(form, str(canary), tarfile.REGTYPE)
    encrypted = bytearray(zipped(("images/a.bin", CONTENT, 0)))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(mark) + at] |= 1
    return found | {"an encrypted member": bytes(encrypted)}


def test_archives_that_write_elsewhere(project, tmp_path, canary, monkeypatch, seen):
    (tmp_path / "whole/images").mkdir(parents=True)
    (tmp_path / "whole/images/a.bin").write_bytes(CONTENT)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/tiny.json").write_text(manifest_text(tmp_path / "whole", ["images/a.bin"]))
    monkeypatch.setattr(downloads, "MANIFESTS", tmp_path / "manifests")
    monkeypatch.delenv("YOLOP_DATA", raising=False)
    source, sent = Source("tiny", ("https://example.org/set.zip",), "data/tiny"), {}
    monkeypatch.setattr(downloads, "_save", lambda url, to, limit, target: to.write_bytes(sent["data"]))
    archives = hostile_archives(canary)
    before = {path for path in tmp_path.rglob("*")} | {project / "data", project / "data/downloads"}
    for name, sent["data"] in archives.items():
        with pytest.raises(DownloadError) as caught:
            fetch(source)
        shown(caught.value)
        assert {path for path in tmp_path.rglob("*") if path.name != ".tiny.lock"} == before, name
    sent["data"] = zipped(("set-1/images/a.bin", CONTENT, 0), (str(canary), b"evil", 0))
    assert (fetch(source) / "images/a.bin").read_bytes() == CONTENT and not canary.exists()
    seen("archives with ../, full paths, links, devices, and tars", len(archives), "refused, nothing written anywhere")


# --- models and code ----------------------------------------------------------------------------------------------------


def test_models_in_yaml_run_nothing(root, canary, capsys, seen):
    """This project reads no model from YAML; what ultralytics would make of one runs nothing either, once yolop is imported."""
    from ultralytics.nn.tasks import DetectionModel

    code = f"open({str(canary)!r}, 'w')"
    activations = [code, f"torch.nn.SiLU() if {code} else 0", f"[{code}, torch.nn.SiLU()][1]", f"(lambda: {code})()"]
    activations += [
        f"torch.nn.SiLU({code} and False)",
        f"torch.save(1, {str(canary)!r})",
        f"__import__('os').mkdir({str(canary)!r})",
    ]
    layers = {"backbone": [[-1, 1, "Conv", [16, 3, 2]]] * 5, "head": [[[2, 3, 4], 1, "Detect", [2]]]}
    tries = 0
    for text in activations:
        places = [layers | {"activation": text}, layers | {"head": [[-1, 1, text, [16]]]}, layers | {"nc": text}]
        places += [
            layers | {"backbone": [[-1, 1, "Conv", [16, 3, text]]] * 5},
            layers | {"scales": {"n": [text, 1, 1]}},
        ]
        for place in places:
            config, tries = {"nc": 2} | place, tries + 1
            try:
                DetectionModel(config, verbose=False)
            except Exception as error:  # any refusal will do
                print(type(error).__name__, ascii(str(error))[:100])
            assert not canary.exists(), place
    for setting in ("models=n,p,evil.yaml", "models=evil.yaml", f"p={code},1", f"pretraining={code}", f"device={code}"):
        assert main(["run", "smoke", "--set", setting]) == 2 and not canary.exists()
    capsys.readouterr()
    seen("model YAML whose activation, module or argument is code", tries, "runs nothing; the project reads none")


def test_the_package_has_no_way_to_run_a_file(seen):
    """No call in it that unpickles, evaluates or asks a shell, and YAML is read in two places only."""
    banned = "torch.load pickle.load pickle.loads np.load numpy.load joblib.load torch.hub.load yaml.unsafe_load yaml.full_load "
    banned += "yaml.load_all shutil.unpack_archive eval exec os.system os.popen YOLO"
    files, yaml = sorted((ROOT / "yolop").glob("*.py")), set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in banned.split() and not name.endswith("extractall"), (
                    f"{path.name}:{node.lineno}: {name}"
                )
                assert "shell" not in [keyword.arg for keyword in node.keywords], f"{path.name}:{node.lineno}"
                yaml |= {path.stem} if name in ("yaml.load", "yaml.safe_load") else set()
    assert yaml == {"datasets", "public"}
    seen("calls in the package that would unpickle, evaluate, unpack or ask a shell", len(files), "none")


def test_networks_whose_layers_have_names_that_are_code(tmp_path, canary, monkeypatch, seen):
    """Tracing writes Python out of the names of layers; the engine, the exporter and the remover run none of it."""
    monkeypatch.chdir(tmp_path)
    code = "open('canary', 'w')"
    names = [
        code,
        f'a"), {code}, getattr(self, "a',
        f'a")\n{code}\n("',
        f'a")\n\n{code}#',
        f"a'''{code}'''",
        f"${{{code}}}",
    ]
    names += [
        f"$(touch {canary})",
        "a\\",
        'a"',
        "'",
        "{0}",
        "%s",
        "a b",
        ESCAPES,
        "self",
        "class",
        "__class__x",
        "0",
        "\u0430",
    ]
    names += ["x" * 10_000]
    image, ran = torch.rand(1, 3, 32, 32), 0
    for name in names:
        model = nn.Sequential()
        model.add_module(name, nn.Conv2d(3, 8, 3, padding=1))
        model.add_module("last", nn.Conv2d(8, 8, 1))
        model.eval()
        try:
            found = sparse.sparsify(model, 32, threads=1, choose=False)(image)
            torch.testing.assert_close(found, model(image).detach(), rtol=1e-3, atol=1e-4)
        except yolop.specs.SpecError as error:
            print(ascii(name)[:60], ascii(str(error))[:100])
        try:
            torch.jit.trace(model, image, check_trace=False)
        except Exception as error:  # names that TorchScript has no room for
            print(ascii(name)[:60], type(error).__name__)
        ran += canary.exists()
    assert ran == 0
    seen("networks whose layers have names that are code", len(names), "run or refused, no code of them", ran)


# --- parameters and names -----------------------------------------------------------------------------------------------


def test_parameters_that_are_code(project, tmp_path, canary, monkeypatch, capsys, seen):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    monkeypatch.chdir(tmp_path)
    notebook(project)
    code = "open('canary','w')"
    names = [
        f"x;{code}",
        "x\nimport os",
        f"epochs;{code}",
        f"epochs\n{code}\nx",
        f"epochs={code};x",
        "__import__('os')",
    ]
    names += [
        "epochs ",
        " epochs",
        "ep\u043echs",
        "epochs#",
        "epochs.real",
        "epochs[0]",
        "{epochs}",
        "%s",
        "*",
        "**{}",
        "/",
        "",
    ]
    names += [
        "%pip install x",
        "!touch canary",
        "get_ipython()",
        "1",
        "None",
        "self",
        "name",
        "study",
        "records",
        "write_report",
    ]
    names += ["changed", "__class__", ESCAPES, "x" * 10**5]
    settings = [f"{name}=3" for name in names]
    fields = [field for field in FIELDS.split()[3:] if field != "dataset"]
    values = [
        code,
        f"3;{code}",
        f"3\n{code}",
        "[].__class__",
        "1e999",
        "9" * 5000,
        "0x10",
        "{}",
        "%d",
        "",
        " ",
        ESCAPES,
        "3\0",
    ]
    values += ["\ud800", "x" * 10**5]
    settings += [f"{field}={value}" for field in fields for value in values] + [
        f"dataset={value}.yaml" for value in values
    ]
    allowed = {("sparsities", ""), ("removed", ""), ("sparsities", " "), ("removed", " ")}  # none
    tries = 0
    for setting in settings:
        if tuple(setting.split("=", 1)) in allowed:
            continue
        assert main(["run", "smoke", "--set", setting]) == 2, ascii(setting)[:100]
        assert capsys.readouterr().err.startswith("yolop: ") and not canary.exists()
        tries += 1
    seen("names and values of parameters that are code", tries, "refused before a kernel starts")


def odd_places(canary: Path) -> list[str]:
    """Names of folders that shells, templates, notebooks and Python stumble over."""
    code = f"open('{canary.name}', 'w')"
    names = [
        f'a";{code};b="',
        f"a';{code};b='",
        f'a""";{code};"""',
        f"a\n{code}\n",
        "{0}",
        "{{x}}",
        "{dataset}",
        "%s %(x)s",
    ]
    names += [
        "$(touch canary)",
        "`touch canary`",
        "a\\",
        "\\x22",
        "<script>alert(1)</script>",
        "\x1b[2J",
        "ü 数据 \u202e",
        "a;b&c|d",
    ]
    return [*names, "~", "--set", "#", "?", "*"]


def test_paths_that_are_code_become_literals(root, project, tmp_path, canary, seen):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    with pytest.raises(yolop.specs.SpecError):  # no text: no notebook can hold it
        place = tmp_path / os.fsdecode(b"\xff")
        shutil.copytree(root, place)
        runner.prepare("smoke", [f"dataset={place / 'data.yaml'}"])
    places = odd_places(canary)
    for name in places:
        place = tmp_path / name
        shutil.copytree(root, place)
        _, values, (path,) = runner.prepare("smoke", [f"dataset={place / 'data.yaml'}"])
        assert values == {"dataset": str(place / "data.yaml")}
        book = parameterize_notebook(load_notebook_node(str(path)), values, kernel_name="python3", language="python")
        (injected,) = (cell.source for cell in book.cells if "injected-parameters" in cell.metadata.tags)
        (line,) = ast.parse(injected).body
        assert [target.id for target in line.targets] == ["dataset"] and ast.literal_eval(line.value) == values[
            "dataset"
        ]
    seen(
        "data sets in folders whose names are code",
        1 + len(places),
        "the name reaches a notebook as text, or is refused",
    )


def test_scripts_in_a_notebook_do_not_reach_its_report(root, project, tmp_path, canary, seen):
    """Old outputs and foreign metadata are dropped; a kernel runs on a data set whose path is code, and classes that are HTML."""
    place = tmp_path / odd_places(canary)[0]
    shutil.copytree(root, place)
    lines = [
        "from yolop import datasets, reporting",
        "from IPython.display import Markdown",
        "from pathlib import Path",
    ]
    lines += ["import pandas", "names = datasets.read(Path(dataset)).names"]
    lines += ["Markdown(reporting.to_markdown(pandas.DataFrame({'class': names})))"]
    (place / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(list(ODD))}\n")
    path = notebook(project, "\n".join(lines))
    book = nbformat.read(path, as_version=4)
    kinds = ("text/html", "application/javascript", "image/svg+xml", "text/markdown", "text/latex")
    for cell in book.cells:
        cell.outputs = [v4.new_output("display_data", {kind: f"<script>{kind}</script>"}) for kind in kinds]
    book.metadata |= {"widgets": {"state": "<script>1</script>"}, "title": "<script>2</script>"}
    book.metadata.kernelspec = {"name": "evil", "display_name": "<script>3</script>", "language": "python"}
    nbformat.write(book, path)
    shutil.copy(path, path.with_name("02_not_run.ipynb"))  # without it an index would be written, of a whole study
    runner.run("smoke", [f"dataset={place / 'data.yaml'}"], only="01")
    (executed,) = (project / "reports").rglob("01_toy.ipynb")
    text = executed.read_text(encoding="utf-8")
    assert (
        "<script" not in text
        and "&lt;script" in text
        and set(json.loads(text)["metadata"]) <= {"kernelspec", "language_info"}
    )
    assert not list(tmp_path.rglob("canary"))
    seen("scripts in outputs and metadata of a notebook", len(book.cells) * len(kinds) + 3, "not in the executed one")


# Names of classes that are text and nothing else, however much they look like something.
ODD = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></table><script>", "<!--", "-->", "]]>", "&lt;b&gt;",
    "[x](javascript:alert(1))", "![x](https://example.org/beacon.png)", "[x]: https://example.org", "`x`", "a|b", "a\\", "*a*",
    "{0} {} {names}", "%s %d %(x)s", "$\\notacommand{x}$", "$$\\href{javascript:alert(1)}{x}$$", "$x", "=cmd|'/C calc'!A0",
    "__import__('os').mkdir('canary')", "..", "/", "~", "null", "NaN", "None", "\"a\" 'b'", "class", "model", "名前",
    "نام\u200cها", "x" * 100,
)  # fmt: skip


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a text, and what stands in its cells."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.cells = set(), set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_classes_stay_text(root, tmp_path, monkeypatch, seen):
    import base64

    import pandas as pd

    monkeypatch.chdir(tmp_path)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(list(ODD))}\n")
    found = datasets.read(root / "data.yaml")
    assert found.names == ODD
    record = SimpleNamespace(metrics={"test": {"per_class": [{"name": name, "AP50": 0.5} for name in found.names]}})
    evidence = SimpleNamespace(study=Study("x"), trained=lambda label, seed: record)
    table = tables.per_class_table(evidence)
    in_markdown, in_page = Tags(markdown2html(reporting.to_markdown(table))), Tags(page.table_html(table))
    frame = {"table", "thead", "tbody", "tr", "th", "td"}
    assert in_page.tags - {"div"} <= frame and in_page.attributes <= {"class"}
    assert in_markdown.tags - frame <= {"code", "em", "strong", "a"}  # of `x`, *a* and https://...: looks only
    assert in_markdown.attributes <= {"style", "href"} and 'href="javascript' not in markdown2html(
        reporting.to_markdown(table)
    )
    columns = len(table.columns)
    assert [cell.strip() for cell in in_page.cells[::columns]] == list(ODD)
    assert pd.read_csv(io.StringIO(reporting.to_csv(table)), keep_default_na=False)["class"].tolist() == list(ODD)
    runtimes.describe(tmp_path, "onnxruntime", found.names, 64, [])
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["names"] == list(ODD)
    jpeg = base64.b64encode(encoded("JPEG")).decode()
    boxes = [[i % 8 * 8, 8, i % 8 * 8 + 8, 30, 0.5, i] for i in range(len(ODD))]
    drawn = {
        "names": list(ODD),
        "pictures": [{"jpeg": jpeg, "truth": []}],
        "detections": [{"label": "n", "boxes": [boxes]}],
    }
    figure = plots.draw("pictures", None, SimpleNamespace(pictures=lambda: drawn))
    assert plots.to_jpeg(figure) and "<script" not in plots.to_svg(figure)
    assert not (tmp_path / "canary").exists()
    seen(
        "names of classes that are HTML, formulas, templates, code",
        len(ODD),
        "text in tables, page, figure, model.json",
    )


# --- nothing installed, downloaded or reported --------------------------------------------------------------------------

RECORDER = """
import os, sys

def _record(event, args):
    if event == "subprocess.Popen" or event in ("os.system", "os.exec", "os.posix_spawn"):
        what = repr(args[:2])
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = args[1]
        if not isinstance(where, tuple) or where[0] in ("127.0.0.1", "::1", "localhost"):
            return
        what = repr(where)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        if args[0] in (None, "", b"", "127.0.0.1", "::1", "localhost", b"localhost", b"127.0.0.1"):
            return
        what = repr(args[0])
    else:
        return
    with open(os.environ["RECORD"], "a") as file:
        file.write(event + " " + what.replace(chr(10), " ") + chr(10))
    if event.startswith("socket"):
        raise ConnectionRefusedError("the network is cut off")

sys.addaudithook(_record)
"""

# In a network of its own, whose loopback begins as down; its counters see what libraries try past Python, too.
ALONE = """
import fcntl, os, re, socket, struct, subprocess, sys
from pathlib import Path
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
done = subprocess.run(sys.argv[1:])
lines = Path("/proc/net/snmp").read_text().split("Ip: ")[1:3] + Path("/proc/net/snmp6").read_text().splitlines()
names, values = lines[0].split(), lines[1].split()
unroutable = int(values[names.index("OutNoRoutes")]) + sum(int(x.split()[1]) for x in lines if "Ip6OutNoRoutes" in x)
if unroutable and "RECORD" in os.environ:
    with open(os.environ["RECORD"], "a") as file:
        file.write(f"unroutable {unroutable}" + chr(10))
raise SystemExit(done.returncode)
"""

CHAIN = """
import os, sys
from pathlib import Path
import numpy as np, torch, yaml
from yolop import checkpoints, datasets, models, runtimes, training
from yolop.specs import FORMATS, MODELS, DigitsSpec, TrainSpec

folder, traps, names = Path(sys.argv[1]), Path(sys.argv[2]), yaml.safe_load(sys.argv[3])[:10]

class Trap:
    def __reduce__(self):
        return os.mkdir, (str(folder / "canary"),)

if __name__ == "__main__":
    root = datasets.generate(DigitsSpec(train=12, val=4, test=4, imgsz=96), folder / "set").root
    config = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump(config | {"names": names[:len(config["names"])]}))
    before = datasets.read(root / "data.yaml")
    places = ["labels.cache", "labels/train.cache", "labels/train/x.cache", "images/train.cache", "train.cache"]
    places += [f"images/train/{i:05}.npy" for i in range(12)] + ["labels/train.npy", "images.pkl", "images/train/00000.pkl"]
    for place in places:
        np.save(root / "x.npy", np.array([Trap()], object), allow_pickle=True)
        (root / "x.npy").rename(root / place)
    data = datasets.read(root / "data.yaml")
    assert data.digest == before.digest
    spec = TrainSpec(MODELS["p"], "p", data.digest, data.nc, imgsz=64, epochs=1, batch=4, val_every=1, mosaic=1.0)
    (folder / "run").mkdir()
    training.train(spec, data, folder / "run")
    model = checkpoints.load_weights(models.build(MODELS["p"], data.nc), folder / "run/weights.safetensors")
    for runtime in FORMATS.values():
        (folder / runtime).mkdir()
        calibration = np.zeros((2, 3, 64, 64), np.uint8)
        runtimes.export(models.fused(model), runtime, 64, folder / runtime, calibration)
        runtimes.load(runtime, folder / runtime, models.fused(model), 64, 1)(torch.zeros(1, 3, 64, 64))
    for path in sorted(traps.iterdir()):  # absent modules, formats that need a package: nobody installs them
        try:
            (checkpoints.read_official if path.suffix == ".pt" else datasets.read_image)(path)
        except (checkpoints.CheckpointError, datasets.DatasetError) as error:
            print(path.name, str(error)[:200])
        else:
            raise SystemExit(f"{path.name} was read")
    assert not (folder / "canary").exists()
"""


@pytest.fixture
def cut_off(tmp_path):
    """`cut_off(*command)`: run it without a network, with all that installs or fetches replaced by a recorder; what it tried.

    Without `unshare`, a hook of Python's own refuses every connection; it records them either way.
    """
    log, bin_, home = tmp_path / "log", tmp_path / "bin", tmp_path / "home"
    for folder in (bin_, home / ".config/Ultralytics"):
        folder.mkdir(parents=True)
    for tool in "pip pip3 pip3.11 uv uvx conda mamba apt apt-get brew curl wget git npm".split():
        (bin_ / tool).write_text(f"#!/bin/sh\necho \"installer $0 $*\" >> '{log}'\nexit 1\n")
        (bin_ / tool).chmod(0o755)
    (bin_ / "sitecustomize.py").write_text(RECORDER)
    (home / ".config/Ultralytics/settings.json").write_text('{"sync": true, "mine": "untouched"}')
    # some report nothing where one of these is set, and pytest's own process has imported yolop
    told = ("YOLO", "ORT_", "NNCF", "CI", "TF_BUILD", "JENKINS", "XDG_", "PYTEST")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    environment |= {
        "HOME": str(home),
        "RECORD": str(log),
        "PYTHONPATH": str(bin_),
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    cut = ["unshare", "-rn", sys.executable, "-I", "-c", ALONE] if shutil.which("unshare") else []
    if not cut or subprocess.run([*cut, sys.executable, "-c", ""], capture_output=True).returncode:
        cut = []  # not allowed here

    def run(*command: str, **more: str) -> list[str]:
        log.write_text("")
        call, settings = [*cut, sys.executable, *command], environment | more
        done = subprocess.run(call, env=settings, capture_output=True, text=True, timeout=280, cwd=tmp_path)
        print(done.stdout[-3000:], done.stderr[-3000:], log.read_text(), *home.rglob("*"), sep="\n")
        assert done.returncode == 0
        assert (home / ".config/Ultralytics/settings.json").read_text() == '{"sync": true, "mine": "untouched"}'
        left = {
            path.relative_to(home).as_posix()
            for place in (".", ".cache", ".config")
            for path in (home / place).glob("*")
        }
        assert left <= HOMELY
        assert [path.name for path in (home / ".config/Ultralytics").iterdir()] == ["settings.json"]
        return log.read_text().splitlines()

    run.alone = bool(cut)
    return run


HOMELY = {
    ".cache",
    ".config",
    ".ipython",
    ".local",
    ".cache/matplotlib",
    ".cache/numba",
    ".config/Ultralytics",
    ".config/matplotlib",
}
LOCAL = {"python", "python3", "uname", "ldconfig", "fc-list", "pnnx", "lscpu"}  # programs that ask nobody


def tried(lines: list[str]) -> list[str]:
    """What of the recorded is a connection, an installer, or a program that is not known to be harmless."""
    found = []
    for line in lines:
        event, _, rest = line.partition(" ")
        program = Path(ast.literal_eval(rest)[0]).name if event == "subprocess.Popen" else event
        if program.rstrip("0123456789.") not in {name.rstrip("3") for name in LOCAL} | LOCAL or "pip" in rest.replace(
            "pipe", ""
        ):
            found.append(line)
    return found


def test_a_study_asks_nobody(cut_off, tmp_path, seen):
    """The command line, a kernel, a notebook with figures; then data, training, every export and runtime, and traps."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "project/notebooks")
    traps = tmp_path / "traps"
    traps.mkdir()
    pt(traps / "absent.pt", b"\x80\x02cabsent_package_xyz\nThing\n)R.")
    files = {"heic": b"\0\0\0\x18ftypheic" + bytes(4), "avif": b"\0\0\0\x18ftypavif" + bytes(4), "png": b"no"}
    for form, data in files.items():
        (traps / f"a.{form}").write_bytes(data)
    connect = "import ctypes, struct; libc = ctypes.CDLL(None); s = libc.socket(2, 2049, 0); "  # TCP that does not wait
    connect += "libc.connect(s, struct.pack('=H', 2) + struct.pack('!H4s8x', 443, bytes([192, 0, 2, 1])), 16)"
    assert not cut_off.alone or len(tried(cut_off("-c", connect))) == 1  # what is watched for is seen
    for line in (
        "import subprocess; subprocess.run(['pip', 'install', 'x'])",
        "import subprocess; subprocess.run(['sh', '-c', 'curl x'])",
    ):
        assert len(tried(cut_off("-c", line))) == 2
    for line in ("socket.create_connection(('192.0.2.1', 443))", "urllib.request.urlopen('http://192.0.2.1')"):
        line = f"import contextlib, socket, urllib.request\nwith contextlib.suppress(OSError): {line}"
        assert tried(cut_off("-c", line))
    asked = tried(cut_off("-m", "yolop", "run", "smoke", "--only", "01", YOLOP_ROOT=str(tmp_path / "project")))
    (tmp_path / "work").mkdir()
    (tmp_path / "chain.py").write_text(CHAIN)
    asked += tried(cut_off(str(tmp_path / "chain.py"), str(tmp_path / "work"), str(traps), json.dumps(list(ODD))))
    assert asked == []
    seen(
        "a run without a network, with installers replaced by a recorder",
        2,
        "no connection, installer or report tried; settings untouched",
        len(asked),
    )
