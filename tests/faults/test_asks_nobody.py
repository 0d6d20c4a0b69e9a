"""Nothing is installed, downloaded or reported at run time unasked."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from strangers import ODD, ROOT, pt

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
from yolop.data import digits, images
from yolop.data.folder import read
from yolop.network import official, weights, yolov5
from yolop.speed import runtimes
from yolop.train import trainer
from yolop.specs import MODELS, DigitsSpec, TrainSpec
from yolop.speed_specs import FORMATS

folder, traps, names = Path(sys.argv[1]), Path(sys.argv[2]), yaml.safe_load(sys.argv[3])[:10]

class Trap:
    def __reduce__(self):
        return os.mkdir, (str(folder / "canary"),)

if __name__ == "__main__":
    root = digits.generate(DigitsSpec(train=12, val=4, test=4, imgsz=96), folder / "set").root
    config = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump(config | {"names": names[:len(config["names"])]}))
    before = read(root / "data.yaml")
    places = ["labels.cache", "labels/train.cache", "labels/train/x.cache", "images/train.cache", "train.cache"]
    places += [f"images/train/{i:05}.npy" for i in range(12)] + ["labels/train.npy", "images.pkl", "images/train/00000.pkl"]
    for place in places:
        np.save(root / "x.npy", np.array([Trap()], object), allow_pickle=True)
        (root / "x.npy").rename(root / place)
    data = read(root / "data.yaml")
    assert data.digest == before.digest
    spec = TrainSpec(MODELS["p"], "p", data.digest, data.nc, imgsz=64, epochs=1, batch=4, val_every=1, mosaic=1.0)
    (folder / "run").mkdir()
    trainer.train(spec, data, folder / "run")
    model = weights.load_weights(yolov5.build(MODELS["p"], data.nc), folder / "run/weights.safetensors")
    for runtime in FORMATS.values():
        (folder / runtime).mkdir()
        calibration = np.zeros((8, 3, 64, 64), np.uint8)
        runtimes.export(yolov5.fused(model), runtime, 64, folder / runtime, calibration)
        runtimes.load(runtime, folder / runtime, yolov5.fused(model), 64, 1)(torch.zeros(1, 3, 64, 64))
    for path in sorted(traps.iterdir()):  # absent modules, formats that need a package: nobody installs them
        try:
            (official.read_checkpoint if path.suffix == ".pt" else images.read_image)(path)
        except (weights.CheckpointError, images.DatasetError) as error:
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
