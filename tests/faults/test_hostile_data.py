"""Data sets from strangers: YAML, links, lists and images that are something else."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from strangers import ESCAPES, GOOD, Trap, encoded, laughs, png, pt, shown

from yolop.__main__ import main
from yolop.data import DatasetError, images
from yolop.data.folder import read
from yolop.run import runner


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
        read(yaml)
    shown(caught.value)
    assert main(["run", "smoke", "--set", f"dataset={yaml}"]) == 2
    assert capsys.readouterr().err.startswith("yolop: ")
    assert not canary.exists()


def test_yamls_that_would_run_blow_up_or_lead_away(root, canary, monkeypatch, capsys, seen):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    read(root / "data.yaml")
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
            read(root / "data.yaml")
        assert "secret of" not in str(caught.value)
        shutil.rmtree(root)
        shutil.copytree(whole, root)
    (root / "inner").mkdir()  # inside a data set, links and paths upwards are as good as any
    (root / "inner/data.yaml").write_text(f"path: ..\n{GOOD}")
    linked("images/train/1.png", root / "images/train/0.png")
    assert len(read(root / "inner/data.yaml").splits["train"].images) == 2
    seen("links and lists that lead out of the data set", 2 * len(ways), "refused, and nothing of it shown")


# --- images and what lies beside them ---------------------------------------------------------------------------------


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
        assert images.read_image(read(root / "data.yaml").splits["train"].images[1]).shape == (16, 20, 3)
    assert not canary.exists()
    seen("images that are programs or documents, or cut", 2 * len(files), "refused")
    seen("images that are a program as well", len(both), "read as the image; nothing runs")
