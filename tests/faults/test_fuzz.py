"""Fuzzing of all that reads what others wrote: whatever bytes come, a named error or what was meant.

Our weights and records are read in a process of their own, this file as a script: an alarm kills it in a try that hangs
(also inside C), it sees every call of the interpreter that could be code of the file's, and it measures its own memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

SEED = 20_250
TRIES = {"safetensors": 10_000, "records": 12_000}
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


# --- our own weights: safetensors -----------------------------------------------------------------------------------------


def safetensors(draw: random.Random, folder: Path):
    import torch
    from torch import nn

    from yolop.network.weights import CheckpointError, load_weights, save_weights

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
        assert getattr(target, "own_widths", False) or shapes == {k: (v.shape, v.dtype) for k, v in found.items()}
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
    from yolop.files import DamagedRecord, sha256
    from yolop.specs import CensusSpec, ModelSpec, TrainSpec, canonical, identity, run_id
    from yolop.store import Record, Store, committed_path, host, run_folder, versions

    spec = TrainSpec(ModelSpec(0.33, 0.25), "n", "0" * 16, 3, 64, 2)
    other = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)

    metrics = {
        "mAP50": 0.5,
        "curve": [{"epoch": 1, "loss": 0.25, "named": "é"}, {"epoch": 2, "loss": 0.125}],
        "steps": 6,
    }
    run_folder(folder, run_id(spec)).mkdir(parents=True)
    (run_folder(folder, run_id(spec)) / "weights.bin").write_bytes(b"1234")
    made = {"weights.bin": sha256(run_folder(folder, run_id(spec)) / "weights.bin")}
    base, stranger = (
        Record(
            run_id(s), json.loads(canonical({"kind": s.kind} | identity(s))), metrics, made, 1.0, host(), versions()
        ).to_json()
        for s in (spec, other)
    )
    body, fresh = json.loads(base), run_folder(folder, run_id(spec)) / "record.json"
    fresh.write_text(base)
    committed = committed_path(folder, run_id(spec))
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
                found = Store("fresh" if compute else "committed", folder).get(spec)
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
            assert one.to_json().encode() and Record.from_json(one.to_json(), one.folder) == replace(one, asked=None)
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
