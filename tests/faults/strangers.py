"""What the tests of strangers' files are made of: traps, small pictures, a notebook, names that look like code."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from support import Trap, toy  # noqa: F401 (a trap like the others here)

from yolop.data import folder

ROOT = Path(__file__).resolve().parents[2]
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\u202e"  # clears the screen, names the window, turns the writing around

GOOD = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
# Names of classes that are text and nothing else, however much they look like something.
ODD = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></table><script>", "<!--", "-->", "]]>", "&lt;b&gt;",
    "[x](javascript:alert(1))", "![x](https://example.org/beacon.png)", "[x]: https://example.org", "`x`", "a|b", "a\\", "*a*",
    "{0} {} {names}", "%s %d %(x)s", "$\\notacommand{x}$", "$$\\href{javascript:alert(1)}{x}$$", "$x", "=cmd|'/C calc'!A0",
    "__import__('os').mkdir('canary')", "..", "/", "~", "null", "NaN", "None", "\"a\" 'b'", "class", "model", "名前",
    "نام\u200cها", "x" * 100,
)  # fmt: skip


def shown(error: BaseException) -> str:
    """The message of a refusal; it is short, and nothing in it steers a terminal."""
    text = str(error)
    assert len(text) < 15_000 and all(c.isprintable() or c == "\n" for c in text), ascii(text[:300])
    return text


def pt(path: Path, pickled: bytes, storages=(), compression=zipfile.ZIP_STORED) -> Path:
    """An archive as torch.save writes it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for number, data in enumerate(storages):
            archive.writestr(f"archive/data/{number}", data)
    return path


def packed(header: dict | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def picture(path: Path, seed: str) -> None:
    label = folder._label_path(path)
    for file in (path, label):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(seed)).integers(256, size=(16, 20, 3), dtype=np.uint8)).save(path)
    label.write_text("0 0.5 0.5 0.2 0.4\n")


def notebook(root: Path, *sources: str) -> Path:
    """A notebook of the project's four parameters and some cells."""
    return toy(root, "01_toy", *sources)


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


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(file, form)
    return file.getvalue()


def laughs(levels: int, item: str, form: str = "[{}]") -> str:
    lines = [f"l0: &l0 {item}"]
    lines += [f"l{i}: &l{i} {form.format(', '.join([f'*l{i - 1}'] * 10))}" for i in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


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
    ]
    return [*names, "a;b&c|d", "~", "--set", "#", "?", "*"]
