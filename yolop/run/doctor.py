"""Checks of the machine and its packages, each with what to do about it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.version import Version

from yolop import store
from yolop.specs import SpecError

ENGINE = "ultralytics-opencv-headless"
CV2 = {"opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"}
MARKS = {ENGINE: "ultralytics/__init__.py", "opencv-python-headless": "cv2/version.py"}  # files that name a version
COMPROMISED = {"8.3.41", "8.3.42", "8.3.45", "8.3.46"}  # releases of December 2024 with a miner inside


def examine() -> bool:
    """Print one line for each check, ok, WARN or FAIL, and return whether none failed."""
    failed = False
    for check in (python, packages, conflicts, flops, cores, memory, disk, folders, settings):
        name = check.__name__
        for level, message in check():
            print(f"{level:5} {name}: {message}")
            failed |= level == "FAIL"
    return not failed


def python() -> Iterator[tuple[str, str]]:
    """The version that the lock was made for."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield "ok", found
    else:
        yield "FAIL", f"{found}, but the lock is for 3.11: make clean, then make study PYTHON=/path/to/python3.11"


def installed() -> dict[str, str]:
    """Name -> version of every installed distribution, names in lower case with hyphens."""
    return {canonical_name(item.metadata["Name"]): item.version for item in distributions() if item.metadata["Name"]}


def canonical_name(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Name -> version of every package that requirements.lock asks for on this system."""
    lines = (store.ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    items = [Requirement(line) for line in lines if line and not line.startswith("#")]
    wanted = [item for item in items if item.marker is None or item.marker.evaluate()]
    return {canonical_name(item.name): next(iter(item.specifier)).version for item in wanted}


def packages() -> Iterator[tuple[str, str]]:
    """Installed versions against the lock. Failing: those that can change a number."""
    found, wanted = installed(), locked()
    wrong = {
        name: f"{name} {found.get(name, 'absent')} instead of {version}"
        for name, version in wanted.items()
        if name not in found or Version(found[name]).public != Version(version).public  # 2.14.1+cpu is 2.14.1
    }
    fix = "make clean, then make study; or pip install -r requirements.lock"
    for level, names in (("FAIL", set(wrong) & set(store.VERSIONED)), ("WARN", set(wrong) - set(store.VERSIONED))):
        if names:
            yield level, "; ".join(wrong[name] for name in sorted(names)[:5]) + f" ({len(names)} differ): {fix}"
    if not wrong:
        yield "ok", f"{len(wanted)} as in requirements.lock"


def conflicts() -> Iterator[tuple[str, str]]:
    """Packages that overwrite or impersonate those of the study."""
    found = installed()
    cv2 = sorted(CV2 & set(found))
    bad = [name for name in ("ultralytics", ENGINE) if found.get(name) in COMPROMISED]
    rows = [  # there, why not, what to remove, what to install again because its files were overwritten
        (len(cv2) > 1, "two packages own cv2", " ".join(cv2), "opencv-python-headless"),
        ("thop" in found, "thop overwrites ultralytics-thop and FLOPs become 0", "thop", "ultralytics-thop"),
        ("ultralyticsheadless" in found, "not made by Ultralytics", "ultralyticsheadless", ENGINE),
        ("ultralytics" in found, f"ultralytics has the same files as {ENGINE}", "ultralytics", ENGINE),
        (bool(bad), "this release carries malware, change your passwords", " ".join(bad), ENGINE),
    ]
    wrong = [row[1:] for row in rows if row[0]]
    wrong += [(f"{name} is installed more than once", name, name) for name in twice()]
    for why, remove, again in wrong:
        version = locked().get(again)
        fix = f"pip uninstall -y {remove}, then pip install --force-reinstall --no-deps {again}=={version}"
        yield "FAIL", f"{why}: {fix}"
    strange = [("FAIL", message) for message in foreign()]
    yield from strange
    if not wrong and not strange:
        yield "ok", "none"


def twice() -> list[str]:
    """Packages of the study that several folders, or several versions, provide: which one is imported is chance."""
    places = defaultdict(set)
    for item in distributions():
        places[canonical_name(item.metadata["Name"] or "")].add((Path(item.locate_file("")).resolve(), item.version))
    return [name for name in store.VERSIONED if len(places[name]) > 1]


def foreign() -> Iterator[str]:
    """Where the code that Python would import is not what was installed, and what to do."""
    for name, mark in MARKS.items():
        try:
            file = next(file for file in distribution(name).files or () if str(file) == mark)
        except (PackageNotFoundError, StopIteration):
            continue  # absent: `packages` says so; installed without a list of files: nothing to compare
        module = mark.split("/")[0]
        spec, own = find_spec(module), Path(file.locate())
        if spec is None or not spec.origin or Path(spec.origin).resolve().parent != own.resolve().parent:
            yield f"{module} comes from {spec and spec.origin}, not from {name}: rename it, or unset PYTHONPATH"
        elif file.hash and file.hash.value != _record_hash(own):
            fix = f"pip install --force-reinstall --no-deps {name}=={locked().get(name)}"
            yield f"another package has overwritten {mark} of {name}: {fix}"


def _record_hash(path: Path) -> str:
    """SHA-256 as pip lists it."""
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()


def require_no_conflicts() -> None:
    """SpecError where `conflicts` fails: what such packages compute belongs in no table."""
    wrong = [message for level, message in conflicts() if level == "FAIL"]
    if wrong:
        raise SpecError("\n".join(wrong))


def flops() -> Iterator[tuple[str, str]]:
    """PyTorch's counter on one convolution against the count by hand: 2 operations for each weight and place."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.nn.Conv2d(3, 4, 3, padding=1)(torch.zeros(1, 3, 8, 8))
    found, expected = counter.get_total_flops(), 2 * 3 * 4 * 9 * 64
    if found == expected:
        yield "ok", f"{found} for a small convolution"
    else:
        yield "FAIL", f"{found} for a small convolution instead of {expected}: install torch as in requirements.lock"


def cores() -> Iterator[tuple[str, str]]:
    """Processor cores and threads of PyTorch."""
    import torch

    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    message = f"{count} cores, {threads} threads"
    if threads < min(count, 2):
        yield "WARN", f"{message}: unset OMP_NUM_THREADS, or training takes twice as long"
    else:
        yield ("ok", message) if count > 1 else ("WARN", f"{message}: a run takes about twice as long as on two cores")


def memory() -> Iterator[tuple[str, str]]:
    """Memory that a run may use."""
    free_gb = psutil.virtual_memory().available / 1e9
    good = free_gb >= 6
    yield ("ok" if good else "WARN"), f"{free_gb:.1f} GB free" + ("" if good else ", a run may need 6: close programs")


def disk() -> Iterator[tuple[str, str]]:
    """Room for records and weights."""
    free_gb = shutil.disk_usage(store.ROOT).free / 1e9
    good = free_gb >= 2
    yield ("ok" if good else "FAIL"), f"{free_gb:.1f} GB free" + ("" if good else ", a run needs 2: free some")


def folders() -> Iterator[tuple[str, str]]:
    """The folders that a run writes to."""
    wrong = [name for name in ("data/runs", "reports", "notebooks") if not writable(store.ROOT / name)]
    if wrong:
        yield "FAIL", f"cannot write to {', '.join(wrong)}: give this user the right to, or work in a clone of your own"
    else:
        yield "ok", "writable"


def writable(path: Path) -> bool:
    """Whether a folder, or the nearest one above it that exists, can be written to."""
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def settings() -> Iterator[tuple[str, str]]:
    """ultralytics' settings as a training of the study sees them: nothing reported, the user's own file untouched."""
    from ultralytics.utils import SETTINGS, SETTINGS_FILE

    from yolop.train import trainer

    on = [name for name in trainer.INTEGRATIONS if SETTINGS[name]]
    if on:
        yield "FAIL", f"{', '.join(on)} on: import yolop before ultralytics"
    elif not Path(SETTINGS_FILE).is_relative_to(os.environ["YOLO_CONFIG_DIR"]):
        yield "FAIL", f"{SETTINGS_FILE} is your own: import yolop before ultralytics"
    else:
        yield "ok", "no reporting, a settings file of our own"
