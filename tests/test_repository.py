"""The files around the code agree with each other, and name no machine."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import yolop
from yolop.packages import canonical_name, installed
from yolop.run import verify

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(name: str) -> dict[str, Requirement]:
    """Name -> requirement of every package of a lock, whose lines of hashes are indented."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    items = [Requirement(line.rstrip("\\")) for line in lines if line[:1].isalnum()]
    return {canonical_name(item.name): item for item in items}


LOCK = locked("requirements.lock")
DIRECT = [Requirement(text) for text in sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])]


def needed(item: Requirement, seen: dict[str, set]) -> dict[str, set]:
    """Names of everything that a requirement installs on this machine, with the extras asked for."""
    name = canonical_name(item.name)
    extras = {"", *item.extras} - seen.get(name, set())
    seen.setdefault(name, set()).update(extras)
    for text in (requires(name) or []) if extras else []:
        inner = Requirement(text)
        if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
            needed(inner, seen)
    return seen


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-read.lock"])
def test_lock_pins_every_package_once_with_hashes(name):
    """What `pip install --require-hashes` asks for."""
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip())
    pattern = r"([a-z0-9.-]+)==[a-z0-9.]+( ; [^\n\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+"
    names = [re.fullmatch(pattern, entry)[1] for entry in entries]
    assert names == sorted(set(names)) == sorted(locked(name))


def test_lock_holds_what_is_needed_and_nothing_else():
    seen: dict[str, set] = {}
    for item in [*DIRECT, Requirement("setuptools")]:  # builds the package
        needed(item, seen)
    assert set(seen) <= set(LOCK)
    assert {name for name, item in LOCK.items() if item.marker is None or item.marker.evaluate()} <= set(seen)


def test_lock_satisfies_every_package():
    found = installed()
    for name, item in LOCK.items():
        for inner in map(Requirement, (requires(name) or []) if name in found else []):
            if inner.marker is None or inner.marker.evaluate({"extra": ""}):
                version = next(iter(LOCK[canonical_name(inner.name)].specifier)).version
                assert inner.specifier.contains(version, prereleases=True), f"{item} against {inner}"


def test_gpu_packages_are_for_linux_only_and_left_out_by_one_word():
    """They alone are left out where PyTorch's build for the CPU is installed."""
    gpu = {name for name in LOCK if re.match(r"(nvidia-(?!ml-py)|cuda-|triton)", name)}
    elsewhere = {"sys_platform": "darwin", "platform_machine": "arm64"}
    assert len(gpu) > 15 and not any(LOCK[name].marker.evaluate(elsewhere) for name in gpu)
    dropped = re.search(r"drop = /(.*?)/ ", (ROOT / "Makefile").read_text(encoding="utf-8"))[1]
    assert {name for name in LOCK if re.match(dropped, name)} == gpu


def test_pyproject_pins_are_those_of_the_lock():
    assert DIRECT and all(item.specifier == LOCK[canonical_name(item.name)].specifier for item in DIRECT)
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [version in allowed for version in ("3.11.4", "3.11.5", "3.12", "3.13", "3.14", "3.15")] == [False, *[True] * 4, False]


def test_reading_needs_a_part_of_the_lock():
    """Notebooks, JupyterLab, nbval and `verify`, without PyTorch, the engine or the runtimes."""
    lock = locked("requirements-read.lock")
    seen: dict[str, set] = {}
    for item in map(Requirement, [*PROJECT["dependencies"], "nbval", "pytest-timeout", "jupyterlab"]):
        needed(item, seen)
    assert {name for name, item in lock.items() if item.marker is None or item.marker.evaluate()} == set(seen)
    assert all(LOCK[name].specifier == item.specifier for name, item in lock.items())
    assert not {"torch", "ultralytics-opencv-headless", "numba", "openvino", "scipy", "scikit-learn"} & set(seen)


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names}


def test_every_import_is_a_declared_dependency():
    beside = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    ours = {"yolop", *sys.stdlib_module_names, *(path.stem for path in beside)}
    owners, declared = packages_distributions(), {canonical_name(item.name) for item in DIRECT}
    for path in [*ROOT.glob("yolop/**/*.py"), *beside]:
        for module in imported(path) - ours:
            assert declared & set(map(canonical_name, owners.get(module, []))), f"{path.name} needs {module}"


def test_no_package_is_pinned_that_nothing_imports():
    tools = {"ipykernel", "jupyterlab", "nbclient", "nbval", "pytest", "pytest-timeout", "pytest-xdist", "ruff", "onnx"}  # run
    tools |= {"scikit-image"}  # its photographs are read
    owners, used = packages_distributions(), set()
    for path in [*ROOT.glob("yolop/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        used |= {canonical_name(owner) for module in imported(path) for owner in owners.get(module, [])}
    assert {canonical_name(item.name) for item in DIRECT} - used - tools == set()


def test_conda_environment_and_container_install_the_locks():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"] == ["python=3.11", "pip"]
    assert "pip install --no-deps -r requirements.lock" in (ROOT / "environment.yml").read_text(encoding="utf-8")
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "FROM python:3.11-" in container and "ARG LOCK=requirements-read.lock" in container
    installing = re.findall(r"pip install .*", container)
    assert len(installing) == 1 and "--require-hashes" in installing[0] and "COPY ${LOCK} requirements.txt" in container


def test_one_version_and_one_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == citation["version"] == yolop.__version__
    assert PROJECT["license"] == citation["license"] == "AGPL-3.0-only"
    text = (ROOT / "LICENSE").read_bytes()  # as the Free Software Foundation publishes it
    assert hashlib.sha256(text).hexdigest() == "0d96a4ff68ad6d4b6f1f30f713b18d5184912ba8dd389f86aa7710db079abcb0"


def test_the_readme_is_read_in_some_minutes():
    """What is longer goes to docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1100


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_of_a_page_lead_to_a_file(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_one_command_each_for_people_and_for_ci():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"study", "read", "test", "lab", "clean"} <= set(targets)
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and script.read_text().splitlines()[-1] == "make test"


def test_no_file_names_a_machine():
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git clone")
    for name in filter(None, done.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".jpg", ".ipynb", ".safetensors"):  # notebooks: test_notebooks
            found = re.search(r"(?<![\w.])/(?:home|root|work|Users)/\w+", path.read_text(encoding="utf-8"))
            assert found is None, f"{name}: {found}"


def test_everything_committed_is_what_the_records_give(capsys):
    """Tables, claims, figures, index.html, notebooks, READMEs and ledger of every published study."""
    assert verify.verify(), capsys.readouterr().out
