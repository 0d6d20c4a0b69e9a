"""Fuzzing of all that reads what others wrote: whatever bytes come, a named error or what was meant.

Checkpoints and records are read in a process of their own, this file as a script: an alarm kills it in a try that hangs
(also inside C), it sees every call of the interpreter that could be code of the file's, and it measures its own memory.
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import pytest

SEED = 20_250
TRIES = {"official": 10_000, "safetensors": 10_000, "records": 12_000}
LIMIT_S = 10  # a try; on a busy machine, where one takes a millisecond
GROWTH_MB = 400  # of the process that reads, over all its tries, some of which hold tensors of 20 MB
ADDRESSES = 6 * 2**30  # bytes that it may ask for beyond what it has, so that a failure ends it and not the machine
CODE = (
    "exec",
    "compile",
    "ctypes",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.mkdir",
    "os.remove",
    "os.rename",
)
CODE += ("subprocess.Popen", "socket.connect", "shutil", "builtins.input", "marshal.loads", "code.__new__")


# --- changes to bytes ---------------------------------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One to eight bytes changed, by a bit or to anything."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 8) if data else 0):
        place = draw.randrange(len(found))
        found[place] = draw.choice((found[place] ^ 1 << draw.randrange(8), draw.randrange(256), 0, 255))
    return bytes(found)


def spliced(data: bytes, draw: random.Random) -> bytes:
    """Cut, or with a piece moved, doubled, taken out, or put in at random."""
    a, b = sorted(draw.randint(0, len(data)) for _ in range(2))
    place, piece = draw.randint(0, len(data)), data[a : min(b, a + 200)]
    return draw.choice(
        (
            data[:a],
            data[a:],
            data[:a] + data[b:],
            data[:place] + piece + data[place:],
            data[:place] + piece * draw.choice((2, 50)) + data[place:],
            data[:place] + draw.randbytes(draw.randint(1, 20)) + data[place:],
            data[:place] + piece + data[place + len(piece) :],
        )
    )


def noise(data: bytes, draw: random.Random) -> bytes:
    """Random bytes, sometimes behind a true beginning."""
    return data[: draw.choice((0, 0, 4, 30))] + draw.randbytes(draw.choice((0, 1, 8, 100, 1000)))


def mutated(data: bytes, draw: random.Random) -> bytes:
    return draw.choice((flipped, flipped, spliced, spliced, noise))(data, draw)


# --- official checkpoints: a pickle in a zip archive ----------------------------------------------------------------------


def an_official() -> dict[str, bytes]:
    """Entries of a small file like those that the original releases: half-precision modules of its own classes."""
    import types

    import torch

    module = types.ModuleType("models.yolo")
    module.Model = type("Model", (torch.nn.Module,), {"__module__": "models.yolo"})
    sys.modules |= {"models": types.ModuleType("models"), "models.yolo": module}
    model = module.Model()
    model.model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    model.model.register_buffer("anchors", torch.ones(3, 3, 2))
    buffer = io.BytesIO()
    torch.save({"epoch": -1, "ema": None, "model": model.half(), "date": "2021-10-12"}, buffer)
    del sys.modules["models"], sys.modules["models.yolo"]
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries, methods=(zipfile.ZIP_STORED,), draw=random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        for name, data in entries:
            archive.writestr(name, data, draw.choice(methods))
    return buffer.getvalue()


NAMES = [
    *(b"os\nsystem", b"posix\nmkdir", b"builtins\neval", b"builtins\ngetattr", b"builtins\n__import__", b"torch\nload"),
    *(b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nHalfStorage", b"models.yolo\nModel"),
    *(b"torch\nSize", b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"_codecs\nencode", b"__builtin__\nset"),
    *(
        b"models.__init__\nsystem",
        b"utils.x\n__class__",
        b"torch.nn.modules.conv\nConv2d",
        b"torch\ndevice",
        b"absent\nX",
    ),
]


def opcode(draw: random.Random) -> bytes:
    """Any opcode of any protocol, with an argument that is usual, large, or none."""
    op = draw.choice(pickletools.opcodes)
    size = draw.choice((0, 1, 3, 255, 2**31 - 1, 2**32 - 1))
    kind = op.arg.name if op.arg else ""
    if kind == "stringnl_noescape_pair":
        argument = draw.choice(NAMES) + b"\n"
    elif kind.endswith(("nl", "nl_noescape", "nl_short", "nl_long")):
        argument = draw.choice((b"1", b"'a'", b"-9", b"1e999", b"9" * 40, b"9" * 5000)) + b"\n"
    elif kind.endswith("8") and kind != "float8":
        argument = struct.pack("<Q", draw.choice((1, 2**40, 2**63, 2**64 - 1))) + b"canary"
    elif kind.endswith("4") or kind == "int4":
        argument = struct.pack("<I", size) + b"canary"[: draw.choice((0, 3))]
    else:
        argument = draw.randbytes({"float8": 8, "uint2": 2, "": 0}.get(kind, 1))
    return op.code.encode("latin-1") + argument


def program(data: bytes, draw: random.Random) -> bytes:
    """A pickle with operations left out, doubled, exchanged or put in, or one of random operations only."""
    if draw.random() < 0.2:
        return b"\x80\x02" + b"".join(opcode(draw) for _ in range(draw.randint(1, 30))) + b"."
    starts = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    ops = [data[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    for _ in range(draw.randint(1, 6)):
        place, other = draw.randrange(len(ops)), draw.randrange(len(ops))
        change = draw.randrange(4)
        if change == 0:
            ops[place] = b""
        elif change == 1:
            ops[place], ops[other] = ops[other], ops[place]
        else:
            ops.insert(place, ops[other] if change == 2 else opcode(draw))
    return b"".join(ops)


def an_archive(entries: dict[str, bytes], draw: random.Random) -> bytes:
    """Entries left out, doubled, renamed, emptied, exchanged or packed otherwise."""
    items, names = list(entries.items()), list(entries)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(items))
        name, data = items[place]
        strange = draw.choice(
            ("../" + name, "/tmp/" + name, name + "/", "data.pkl", "x\0y", "é" * 300, draw.choice(names))
        )
        items[place] = draw.choice(
            ((strange, data), (name, b""), (name, data * 3), (name, draw.randbytes(50)), items[0])
        )
        if draw.random() < 0.3:
            items.append((name, items[place][1]))
    methods = (zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    data = zipped(items, methods if draw.random() < 0.3 else methods[:1], draw)
    return flipped(data, draw) if draw.random() < 0.3 else data


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def shell(state: bytes) -> bytes:
    return b"cmodels.yolo\nModel\n)\x81" + state + b"b"


def mapping(*pairs: tuple[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def storage(key: str, count: int) -> bytes:
    return (
        b"("
        + text("storage")
        + b"ctorch\nHalfStorage\n"
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", count)
        + b"tQ"
    )


def tensor(source: bytes, size: bytes, stride: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + source + b"K\x00" + size + stride + b"\x89NtR"


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def bombs() -> dict[str, bytes]:
    """Small files that ask for endless time or memory of a reader that does as it is told."""
    half = 10_000_000  # values, 20 MB
    large = [("a/data/0", bytes(2 * half))]
    nested = b"(tq\x00" + b"h\x00h\x00\x86q\x00" * 60  # tuples of tuples: a hash or a text of 2^60 steps
    lists = b"]q\x00" + b"](h\x00h\x00eq\x00" * 60
    tower = shell(mapping()) + b"q\x00"
    for _ in range(60):
        tower += shell(mapping(("_modules", mapping(("a", b"h\x00"), ("b", b"h\x00"))))) + b"q\x00"
    one = tensor(storage("0", half), whole(half) + b"\x85", b"K\x01\x85")
    long = text("n" * 4_000_000) + b"q\x01"
    many = [(f"m{i}", shell(b"}" + text("_buffers") + b"}h\x01h\x02ss")) for i in range(2000)]

    def model(content: bytes) -> bytes:
        return b"\x80\x02" + mapping(("model", content)) + b"."

    def buffers(*values: bytes) -> bytes:
        return model(shell(mapping(("_buffers", mapping(*((f"b{i}", value) for i, value in enumerate(values)))))))

    square = whole(100_000) * 2 + b"\x86"
    pickles = {
        "memo of 2^31 places": (b"\x80\x02}r\xff\xff\xff\x7f.", []),
        "memo as text": (b"\x80\x02}p99999999999\n.", []),
        "array of 2^40 bytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", []),
        "text of 2^62 bytes": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".", []),
        "frame of 2^62 bytes": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.", []),
        "key of nested tuples": (b"\x80\x02" + nested + b"}h\x00K\x01s.", []),
        "keys of nested tuples": (b"\x80\x02" + nested + b"}(h\x00K\x01u.", []),
        "set of nested tuples": (b"\x80\x02" + nested + b"c__builtin__\nset\n](h\x00e\x85R.", []),
        "dict of nested tuples": (b"\x80\x02" + nested + b"ccollections\nOrderedDict\n](h\x00K\x01\x86e\x85R.", []),
        "number of nested lists": (b"\x80\x02" + lists + b"ctorch\nFloatStorage\nh\x00\x85R.", []),
        "call of nested tuples": (b"\x80\x02" + nested + b"K\x01R.", []),
        "storage named by nested tuples": (
            b"\x80\x02" + nested + b"(" + text("storage") + b"ctorch\nHalfStorage\nh\x00NK\x01tQ.",
            [],
        ),
        "modules in modules": (b"\x80\x02" + tower + mapping(("model", b"h\x00")) + b".", []),
        "one storage 2,000 times": (b"\x80\x02](" + storage("0", half) * 2000 + b"e.", large),
        "one value as 10^10": (buffers(tensor(storage("0", 1), square, b"K\x00K\x00\x86")), [("a/data/0", bytes(2))]),
        "one tensor 500 times": (buffers(*[one] * 500), large),
        "size made of tensors": (buffers(tensor(storage("0", half), one + b"\x85", one + b"\x85")), large),
        "state of a tensor": (b"\x80\x02" + one + b"(" + storage("0", 1) + b"K\x00" + square + square + b"tb.", large),
        "names of 4 MB": (
            b"\x80\x02" + long + one + b"q\x02" + model(shell(mapping(("_modules", mapping(*many)))))[2:],
            large,
        ),
        "pickle of 6 MB": (b"\x80\x02" + b"]" * 6_000_000 + b".", []),
        "class of 4 MB": (b"\x80\x02cmodels." + b"n" * 4_000_000 + b"\nX\n.", []),
    }
    return {f"bomb: {name}": zipped([("a/data.pkl", code), *more]) for name, (code, more) in pickles.items()}


def official(draw: random.Random, folder: Path):
    """(tries, what reads one): each try is bytes and the names of their change; reading returns whether it was read."""
    from yolop.network.checkpoints import CheckpointError, read_official

    entries, path = an_official(), folder / "c.pt"
    base, code = zipped(entries.items()), entries["archive/data.pkl"]

    def tries():
        yield "sound", base
        yield from bombs().items()
        while True:
            kind = draw.choice(("bytes", "pickle", "operations", "operations", "archive"))
            if kind == "bytes":
                yield kind, mutated(base, draw)
            elif kind == "archive":
                yield kind, an_archive(entries, draw)
            else:
                changed = mutated(code, draw) if kind == "pickle" else program(code, draw)
                yield kind, zipped((entries | {"archive/data.pkl": changed}).items())

    def read(data: bytes) -> bool:
        path.write_bytes(data)
        with watched(path):
            try:
                found = read_official(path)
            except CheckpointError as error:
                assert "MemoryError" not in str(error) and 20 < len(str(error)) < 1000, error
                return False
        assert all(isinstance(name, str) and value.isfinite().all() for name, value in found.items())
        return True

    return tries(), read


# --- our own weights: safetensors -----------------------------------------------------------------------------------------


def safetensors(draw: random.Random, folder: Path):
    import torch
    from torch import nn

    from yolop.network.checkpoints import CheckpointError, load_weights, save_weights

    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    path = folder / "c.safetensors"
    save_weights(model(), path)
    base = path.read_bytes()
    size = int.from_bytes(base[:8], "little")
    shapes = {name: (value.shape, value.dtype) for name, value in model().state_dict().items()}

    def header() -> bytes:
        """The header's entries changed, its length true or not."""
        content = json.loads(base[8 : 8 + size])
        entry = content[draw.choice([name for name in content if name != "__metadata__"])]
        number = draw.choice((0, -1, 2**31, 2**62, 2**64, 1e300, 3, "4", None, [], {}))
        draw.choice(
            (
                lambda: entry.update(dtype=draw.choice(("F16", "I32", "F64", "BOOL", "BF16", "U8", "F8_E4M3", "X", 3))),
                lambda: entry.update(shape=[number] * draw.choice((0, 1, 2, 1000))),
                lambda: entry.update(shape=entry["shape"][::-1]),
                lambda: entry.update(data_offsets=[draw.randint(0, 700), number]),
                lambda: entry.pop(draw.choice(list(entry))),
                lambda: content.update(__metadata__={"widths": "own"}),
                lambda: content.update({draw.choice(("x", "", "0.weight")): entry}),
                lambda: content.update(x=draw.choice((number, json.loads("[" * 500 + "]" * 500)))),
            )
        )()
        changed = json.dumps(content).encode()
        if draw.random() < 0.3:
            changed = changed.replace(b'{"', b'{"__metadata__":{"widths":"own"},"', 1)
        length = len(changed) if draw.random() < 0.9 else draw.choice((0, 2**20, 2**40, 2**64 - 1))
        return struct.pack("<Q", length) + changed + base[8 + size :]

    def tries():
        yield "sound", base
        while True:
            yield draw.choice((("bytes", mutated(base, draw)), ("header", header())))

    def read(data: bytes) -> bool:
        path.write_bytes(data)
        target = model()
        with watched(path):
            try:
                load_weights(target, path)
            except CheckpointError as error:
                assert "c.safetensors" in str(error) and "MemoryError" not in str(error), error
                return False
        found = target.state_dict()
        assert all(value.isfinite().all() for value in found.values())
        assert getattr(target, "narrowed", False) or shapes == {k: (v.shape, v.dtype) for k, v in found.items()}
        return True

    torch.manual_seed(SEED)
    return tries(), read


# --- records --------------------------------------------------------------------------------------------------------------

ODD = [
    None,
    True,
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "x\0",
    "/etc/passwd",
    "../../x",
    ".",
    [],
    {},
]
ODD += [[[]] * 3, {"": {}}, {"../x": "0" * 64}, {"/dev/zero": "0" * 64}, {"record.json": "0" * 64}, {"w": 3}, "é" * 300]


def edited(value, draw: random.Random):
    """A JSON value with something in it exchanged, left out or put in, at any depth."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        rest = {k: v for k, v in value.items() if k != key}
        new = draw.choice((key, key, key, key + "x", "kind", "folder", "checksum", "\ud800"))
        return rest if draw.random() < 0.1 else rest | {new: edited(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return value[:place] + [edited(value[place], draw)] * draw.choice((0, 1, 2)) + value[place + 1 :]
    if isinstance(value, float) and draw.random() < 0.5:
        return value + draw.choice((1e-9, 0.1, -2.0))
    return draw.choice(ODD)


def forged(body: dict) -> str:
    """The text of a record whose checksum somebody computed anew."""
    import hashlib

    body = {key: value for key, value in body.items() if key != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps(body | {"checksum": hashlib.sha256(text.encode()).hexdigest()}, indent=1)


def records(draw: random.Random, folder: Path):
    from yolop.specs import CensusSpec, ModelSpec, TrainSpec, run_id
    from yolop.store import DamagedRecord, Record, Store

    spec = TrainSpec(ModelSpec(0.33, 0.25), "n", "0" * 16, 3, 64, 2)
    other = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)

    def work(where: Path) -> dict:
        (where / "weights.bin").write_bytes(b"1234")
        return {
            "mAP50": 0.5,
            "curve": [{"epoch": 1, "loss": 0.25, "named": "é"}, {"epoch": 2, "loss": 0.125}],
            "steps": 6,
        }

    store = Store("s", True, folder)
    base = store.get_or_run(spec, work).to_json()
    stranger = store.get_or_run(other, work).to_json()
    body, fresh = json.loads(base), store.runs / run_id(spec) / "record.json"
    committed = store.committed / f"{run_id(spec)}.json"
    committed.parent.mkdir(parents=True)

    def tries():
        yield "sound", base
        yield "another record", stranger
        for depth in (900, 100_000):
            yield "deep", base.replace('"steps": 6', '"steps": ' + "[" * depth + "]" * depth)
            yield "deep", "[" * depth
        yield "large", base.replace("0.25", "9" * 100_000)
        yield "twice", base.replace('"mAP50": 0.5', '"mAP50": 0.9,\n  "mAP50": 0.5')
        while True:
            kind = draw.choice(("bytes", "edited", "forged", "forged"))
            if kind == "bytes":
                yield (
                    kind,
                    mutated(base.encode(), draw).decode(errors=draw.choice(("replace", "surrogateescape", "ignore"))),
                )
            elif kind == "edited":
                yield kind, json.dumps(edited(body, draw), ensure_ascii=draw.random() < 0.5)
            else:
                changed = body
                for _ in range(draw.randint(1, 3)):
                    changed = edited(changed, draw)
                yield kind, forged(changed) if isinstance(changed, dict) else json.dumps(changed)

    def outcome(compute: bool):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = Store("s", compute, folder).get(spec)
            except DamagedRecord as error:
                assert not compute and str(error).startswith(f"committed record {run_id(spec)} is damaged"), error
                return None
        assert (found is None) == bool(caught) and all(run_id(spec) in str(item.message) for item in caught)
        return found

    def read(text: str) -> bool:
        data = text.encode(errors="surrogatepass")
        for path in (fresh, committed):
            path.write_bytes(data)
        with watched(fresh, committed):
            try:
                record = Record.from_json(text)
            except DamagedRecord:
                record = None
            found = [outcome(compute) for compute in (True, False)]
        assert found[0] is None or found[0].path("weights.bin").read_bytes() == b"1234"
        for one in filter(None, (record, *found)):  # what is read can be written, and is the work that was asked for
            assert one.to_json().encode() and Record.from_json(one.to_json(), one.folder) == one
        for one in filter(None, found):
            assert one.run_id == run_id(spec) and one.spec == body["spec"]
        return found[1] is not None

    return tries(), read


# --- the process that reads -----------------------------------------------------------------------------------------------

WATCHED: list[tuple[Path, ...]] = []  # while a reader is at work: the files that it may touch
FOUND: list[str] = []


class watched:
    """Inside, the interpreter notes what would be code of a file's, and an alarm ends a try that hangs."""

    def __init__(self, *paths: Path):
        self.paths = paths

    def __enter__(self):
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # its signal has no handler: it ends the process
        WATCHED.append(self.paths)

    def __exit__(self, *_):
        WATCHED.pop()
        signal.setitimer(signal.ITIMER_REAL, 0)


def audit(event: str, arguments: tuple) -> None:
    if not WATCHED:
        return
    if event.startswith(CODE) and not (event == "os.rename" and Path(arguments[0]) in WATCHED[-1]):  # set aside
        FOUND.append(f"{event} {arguments!r}"[:300])
    elif event == "open" and not isinstance(arguments[0], int):
        if Path(os.fsdecode(arguments[0])).name not in {"weights.bin", *(path.name for path in WATCHED[-1])}:
            FOUND.append(f"{event} {arguments!r}"[:300])


def main(kind: str, count: int, folder: Path) -> None:
    tries, read = globals()[kind](random.Random(SEED), folder)
    _, data = next(tries)
    assert read(data), "what is sound is not read"  # and all that is imported late, is now
    for codec in ("cp437", "latin-1", "ascii", "utf-8"):
        b"".decode(codec)
    sys.addaudithook(audit)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES,) * 2)
    before, outcomes, slowest = peak_mb(), Counter(), 0.0
    for number in range(count):
        kind, data = next(tries)
        (folder / "last").write_text(f"try {number}: {kind}")
        began = time.perf_counter()
        try:
            was_read = read(data)
            assert not (was_read and kind.startswith("bomb"))
            outcomes["read" if was_read else "refused"] += 1
        except BaseException:
            print(f"try {number}: {kind}: {data[:3000]!r}", file=sys.stderr)
            raise
        slowest = max(slowest, time.perf_counter() - began)
        if FOUND:
            raise SystemExit(f"try {number}: {kind}: {FOUND}")
    print(json.dumps({"outcomes": outcomes, "grown_mb": round(peak_mb() - before), "slowest_s": round(slowest, 2)}))


def peak_mb() -> float:
    """The most memory that this process has held. Linux's ru_maxrss would begin with what the parent had."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("official", "mutated official checkpoints (zip, pickle, opcodes, bombs)"),
        ("safetensors", "mutated safetensors"),
        ("records", "mutated, edited and forged records"),
    ],
)
def test_readers_give_what_was_meant_or_a_named_error(tmp_path, kind, words, seen):
    command = [sys.executable, __file__, kind, str(TRIES[kind]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    last = (tmp_path / "last").read_text() if (tmp_path / "last").exists() else "none begun"
    assert done.returncode == 0, f"{done.returncode} in {last}\n{done.stderr[-5000:]}"
    found = json.loads(done.stdout)
    print(kind, SEED, found)
    read, refused = (found["outcomes"].get(name, 0) for name in ("read", "refused"))
    assert read + refused == TRIES[kind] and refused > TRIES[kind] / 2 and found["grown_mb"] < GROWTH_MB
    assert not list(tmp_path.rglob("canary*"))
    slowest = f"slowest {found['slowest_s']} s, {found['grown_mb']} MB more"
    seen(words, read + refused, f"{refused:,} named errors, {read:,} whole ones read; no code, {slowest}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
