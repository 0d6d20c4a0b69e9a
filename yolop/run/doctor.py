"""Checks of the machine and its packages, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator

import psutil
from packaging.version import Version

from yolop import files, idle
from yolop.packages import conflicts, installed, locked
from yolop.store import VERSIONED

COMMITTED = (3, 11)  # the Python of the committed records
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")


def examine() -> bool:
    """Print one line for each check, ok, WARN or FAIL, and return whether none failed."""
    failed = False
    for check in (system, python, versions, conflicts, cores, memory, disk):
        for level, message in check():
            print(f"{level:5} {check.__name__}: {message}")
            failed |= level == "FAIL"
    return not failed


def system() -> Iterator[tuple[str, str]]:
    """Which systems are meant: everything on Linux; on macOS and Windows what reads the committed records."""
    name = platform.system()
    if name == "Linux":
        yield "ok", name
    else:
        yield "WARN", f"{name}: make read and verify are meant to work here; trainings and timings are tried on Linux alone"


def python() -> Iterator[tuple[str, str]]:
    """Whether the packages exist for this version, and whether equal bits are promised for it."""
    own = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == COMMITTED:
        yield "ok", own
    elif (3, 11) <= sys.version_info[:2] < (3, 15):
        yield "WARN", f"{own}: fine, but equal bits are promised for 3.11 only, with which the committed records were made"
    else:
        yield "FAIL", f"{own}, but 3.11 to 3.14 is needed: make clean, then make study PYTHON=/path/to/python3.11"


def versions() -> Iterator[tuple[str, str]]:
    """Installed versions against the lock. Failing: those that can change a number."""
    there, wanted = installed(), locked()
    wrong = {
        name: f"{name} {there.get(name, 'absent')} instead of {version}"
        for name, version in wanted.items()
        if name not in there or Version(there[name]).public != Version(version).public  # 2.14.1+cpu is 2.14.1
    }
    fix = "make clean, then make study; or pip install --no-deps --require-hashes -r requirements.lock"
    for level, names in (("FAIL", set(wrong) & set(VERSIONED)), ("WARN", set(wrong) - set(VERSIONED))):
        if names:
            yield level, "; ".join(wrong[name] for name in sorted(names)[:5]) + f" ({len(names)} differ): {fix}"
    if not wrong:
        yield "ok", f"{len(wanted)} as in requirements.lock"


def cores() -> Iterator[tuple[str, str]]:
    """Processor cores, and variables that let libraries use fewer of them."""
    count = len(idle.usable_cores())
    fewer = [name for name in THREADS if os.environ.get(name, "").isdecimal() and int(os.environ[name]) < min(count, 2)]
    if fewer:
        yield "WARN", f"{count} cores: unset {', '.join(fewer)}, or training takes twice as long"
    else:
        yield ("ok", f"{count} cores") if count > 1 else ("WARN", "1 core: a run takes about twice as long as on two")


def memory() -> Iterator[tuple[str, str]]:
    """Memory that a run may use."""
    yield _room(psutil.virtual_memory().available, 6, "WARN", "close programs")


def disk() -> Iterator[tuple[str, str]]:
    """Room for records and weights."""
    yield _room(shutil.disk_usage(files.ROOT).free, 2, "FAIL", "free some")


def _room(free: float, needed_gb: int, level: str, fix: str) -> tuple[str, str]:
    if free >= needed_gb * 1e9:
        return "ok", f"{free / 1e9:.1f} GB free"
    return level, f"{free / 1e9:.1f} GB free, a run may need {needed_gb}: {fix}"
