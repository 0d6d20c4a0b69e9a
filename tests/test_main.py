"""The command line: which function each command calls, what it refuses, and with which exit status it ends."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import fields

import pytest

from yolop import __main__ as command_line
from yolop.__main__ import main
from yolop.files import StoreError
from yolop.run import export, one, publish, runner, site, status, verify
from yolop.run.notebooks import NotebookError
from yolop.settings import COSTS, STUDIES, Study
from yolop.specs import SpecError


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["run", "--records", "old"], ["verify", "digits", "--only", "01"], ["export", "--format", "pt"], ["doctor", "x"]],
)
def test_unusable_command_line_is_refused(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize(
    ("line", "module", "name", "values"),
    [
        ("run", runner, "run", ("digits", [], "", "fresh", "auto", "", False)),
        ("run bccd --set a=1 b=2 --set c=3 --only 02 --jobs 2 --plan", runner, "run",
         ("bccd", ["a=1", "b=2", "c=3"], "02", "fresh", "2", "", True)),  # fmt: skip
        ("run --records committed", runner, "run", ("digits", [], "", "committed", "auto", "", False)),
        ("status bccd --set seeds=0", status, "status", ("bccd", ["seeds=0"])),
        ("verify", verify, "verify", ("",)),
        ("publish coco128", publish, "publish", ("coco128",)),
        ("site", site, "site", ("site",)),
        (
            "export --model n --seed 1 --format ncnn --out x --set a=1", export, "export",
            ("ncnn", "x", "digits", ["a=1"], "n", 1, 0.0, 0.0, None, ""),
        ),
        ("export my.pt --imgsz 640", export, "export", ("onnx", "export", "my.pt", [], None, None, 0.0, 0.0, 640, "")),
        (
            "time bccd --channels-removed 0.2 --threads 1", one, "time",
            (1, "bccd", [], None, None, 0.0, 0.2, None, ""),
        ),
        (
            "prune my.pt --ratio 0.3 --dataset d.yaml", one, "prune",
            (0.3, "l1-unstructured", "export", "my.pt", [], None, None, 0.0, 0.0, None, "d.yaml"),
        ),
    ],
)
def test_each_command_calls_its_function(monkeypatch, line, module, name, values):
    called = []
    monkeypatch.setattr(module, name, lambda *given: called.append(given))
    assert main(line.split()) == 0 and called == [values]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SpecError("epochs = 0"), 2, "yolop: epochs = 0"),
        (StoreError("no record"), 1, "yolop: no record"),
        (NotebookError("01 failed"), 1, "yolop: 01 failed"),
        (KeyboardInterrupt(), 130, "start again"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "yolop: /x: No space left on device; "),
    ],
)
def test_errors_are_one_message_and_a_status(monkeypatch, capsys, error, code, said):
    def fails(*_):
        raise error

    monkeypatch.setattr(runner, "run", fails)
    assert main(["run"]) == code
    assert said in capsys.readouterr().err


def test_what_differs_is_no_success(monkeypatch):
    monkeypatch.setattr(verify, "verify", lambda name: name == "digits")
    assert (main(["verify", "digits"]), main(["verify"])) == (0, 1)


def test_help_of_run_lists_every_setting_with_its_range(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--help"])
    printed = capsys.readouterr().out
    for item in fields(Study):
        if "meaning" in item.metadata:
            assert f"\n  {item.name:16} {item.metadata['meaning']}: {item.metadata['allowed']} (default: " in printed
    assert "(default: 0.16,0.2)" in printed and "(default: cpu)" in printed and set(COSTS) == set(STUDIES)
    assert all(f"\n  {name:16} {cost}" in printed for name, cost in COSTS.items())
    assert set(command_line.COMMANDS) == {"run", "status", "verify", "doctor", "publish", "site", "time", "export", "prune"}


def test_the_command_line_starts_where_there_is_no_module_resource():
    """As on Windows."""
    code = (
        "import sys, psutil, zmq\n"  # which use it on Linux themselves
        "sys.modules.pop('resource', None)\n"
        "class No:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'resource':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No)\n"
        "import yolop.__main__, yolop.run.runner, yolop.run.verify, yolop.run.doctor, yolop.run.status"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in command_line.COMMANDS)
