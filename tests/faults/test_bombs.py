"""Files that ask for gigabytes, for ever or for the stack: read in one process whose memory is measured."""

import bz2
import json
import lzma
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from strangers import GOOD, encoded, laughs, packed, picture, png, pt

GROWTH_MB = 400  # of the process that reads all bombs, over what it has after its imports
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
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**32) + b".",
        "a-large-pickle": b"\x80\x02" + b"]" * 6 * 10**6 + b".",
        "doubling-modules": doubling(50),
        "a-large-name": network(tensor((2, 4), (4, 1))).replace(b"00000000", b"x" * 4 * 10**6),
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
    (folder / "keys.yaml").write_text(GOOD + "x: {" + ", ".join(f"k{i}: 1" for i in range(80_000)) + "}\n")
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
from yolop.data import downloads, folder as folders, images
from yolop.network import official, weights, yolov5
from yolop.specs import MODELS

warnings.simplefilter("ignore")
folder, root = map(Path, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 8 * 2**30,) * 2)
model = yolov5.build(MODELS["p"], 3)

def read_set(path, place):
    shutil.copy(root / "data.yaml", root / "data.yaml.kept")
    (root / place).unlink(missing_ok=True)
    (root / place).symlink_to(path)  # a copy of a sparse file would take room
    before = folders._Place.outside
    folders._Place.outside = lambda *_: ""  # the link is ours
    try:
        folders.read(root / "data.yaml")
    finally:
        folders._Place.outside = before
        (root / place).unlink()
        shutil.copy(root / "data.yaml.kept", root / "data.yaml")

def archive(path):
    if not downloads._unpacked(path.read_bytes(), {"a.bin": (10**6, "0" * 64)}):
        raise downloads.DownloadError("nothing found")

def listed(path):
    folders._listed(path, folders._Place.of(root / "data.yaml", "."), problems := [])
    folders._refuse(path, problems)

READERS = {
    ".pt": official.read_checkpoint, ".safetensors": lambda path: weights.load_weights(model, path),
    ".yaml": lambda path: folders.read(path), ".label": lambda path: read_set(path, "labels/train/0.txt"),
    ".list": listed,
    ".zip": archive,
}
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000  # of this program only
start = peak()
for path in sorted(folder.iterdir()):
    before, began = peak(), time.perf_counter()
    try:
        READERS.get(path.suffix, images.read_image)(path)
        outcome = "read"
    except (official.CheckpointError, zipfile.BadZipFile, images.DatasetError, downloads.DownloadError) as error:
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
