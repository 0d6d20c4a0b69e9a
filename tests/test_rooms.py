"""The package is small and its arrows go one way: sizes, imports and docstrings, read from the code itself."""

from __future__ import annotations

import ast

import pytest
from support import HERE

PACKAGE = HERE / "yolop"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
GROUND = "ground"
ALLOWED = {  # room -> rooms that it may import, beside itself
    GROUND: set(),
    "data": {GROUND},
    "network": {GROUND, "data"},
    "measure": {GROUND, "data", "network"},
    "train": {GROUND, "data", "network", "measure"},
    "speed": {GROUND, "data", "network", "measure", "train"},
    "study": {GROUND},
    "paper": {GROUND, "study"},
    "report": {GROUND, "study", "paper", "data"},  # data: which data set a study means, without opening it
    "run": {GROUND, "study", "paper", "report", "data", "network", "measure", "train", "speed"},
}
EXTENSION = {"speed"}  # counted apart from the paper's study, with the search for the paper's p
ENGINES = {"schedule", "estimate", "processes", "cluster", "worker", "parcels"}  # of the runner, counted apart too


def room(path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "run" if parts[0] == "__main__.py" else GROUND


def lines(path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "yolop":
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if module_file(name) else node.module for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "yolop"}
    return found


def module_file(name: str):
    path = HERE.joinpath(*name.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py" if path.is_dir() else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_below_it(path):
    own = room(path)
    if path.name == "__main__.py":
        return  # the command line may reach everything
    for name in imported(path) - {"yolop"}:
        there = room(module_file(name))
        assert there == own or there in ALLOWED[own], f"{path.relative_to(HERE)} imports {name}"


def test_no_circles():
    graph = {path: {module_file(name) for name in imported(path)} - {path} for path in FILES if path.name != "__init__.py"}
    done, waiting = set(), []

    def visit(path):
        assert path not in waiting, [str(p.relative_to(PACKAGE)) for p in (*waiting, path)]
        if path not in done:
            waiting.append(path)
            for other in graph.get(path, ()):
                visit(other)
            done.add(waiting.pop())

    for path in graph:
        visit(path)


def test_sizes():
    """5,900 and 1,450 lines are aimed at. Controls, checks of users' files, further trainings, scores on val and the commands for
    one's own network made the study longer again, and so did captions, marked rows, provenance in the report, the site, and
    networks crossed with runtimes."""
    extension = {path for path in FILES if room(path) in EXTENSION or path.name == "recipe.py"}
    engines = {path for path in FILES if room(path) == "run" and path.stem in ENGINES}
    assert sum(lines(path) for path in FILES if path not in extension | engines) <= 10985
    assert sum(map(lines, engines)) <= 950
    assert sum(map(lines, extension)) <= 2415
    assert max(map(lines, FILES)) <= 400
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                most = 150 if isinstance(node, ast.ClassDef) else 60
                assert node.end_lineno - node.lineno < most, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_public_says_what_it_gives(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else []
        private = node.name.startswith("_") if isinstance(node, ast.ClassDef) else False
        for item in [node, *([] if private else members)]:
            if isinstance(item, (ast.FunctionDef, ast.ClassDef)) and not item.name.startswith("_") and item.name != "forward":
                assert ast.get_docstring(item), f"{path.name}: {item.name}"
