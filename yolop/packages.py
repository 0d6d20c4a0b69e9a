"""Which packages are installed, which are pinned, and which would silently change what is computed."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from yolop import files
from yolop.specs import SpecError
from yolop.store import VERSIONED

ENGINE = "ultralytics-opencv-headless"
CV2 = {"opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"}
MARKS = {ENGINE: "ultralytics/__init__.py", "opencv-python-headless": "cv2/version.py"}  # files that name a version


def installed() -> dict[str, str]:
    """Name -> version of every installed distribution, names in lower case with hyphens."""
    return {canonical_name(item.metadata["Name"]): item.version for item in distributions() if item.metadata["Name"]}


def canonical_name(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Name -> version of every package that requirements.lock asks for on this system."""
    lines = (files.ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    items = [Requirement(line.rstrip("\\")) for line in lines if line[:1].isalnum()]  # hashes are indented
    wanted = [item for item in items if item.marker is None or item.marker.evaluate()]
    return {canonical_name(item.name): next(iter(item.specifier)).version for item in wanted}


def conflicts() -> Iterator[tuple[str, str]]:
    """Packages that overwrite or impersonate those of the study."""
    found = installed()
    cv2 = sorted(CV2 & set(found))
    rows = [  # there, why not, what to remove, what to install again because its files were overwritten
        (len(cv2) > 1, "two packages own cv2", " ".join(cv2), "opencv-python-headless"),
        ("thop" in found, "thop overwrites ultralytics-thop and FLOPs become 0", "thop", "ultralytics-thop"),
        ("ultralyticsheadless" in found, "not made by Ultralytics", "ultralyticsheadless", ENGINE),
        ("ultralytics" in found, f"ultralytics has the same files as {ENGINE}", "ultralytics", ENGINE),
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
    return [name for name in VERSIONED if len(places[name]) > 1]


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
