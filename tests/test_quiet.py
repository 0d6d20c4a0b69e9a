"""Importing yolop changes nothing in the user's process; what it needs of ultralytics leaves the user's own alone."""

import json
import os
import subprocess
import sys

KEYS = ("ULTRALYTICS_API_KEY", "WANDB_API_KEY", "COMET_API_KEY", "CLEARML_API_ACCESS_KEY")
BEFORE = """
import json, os, sys, warnings
environment, modules = dict(os.environ), set(sys.modules)
"""
IMPORTED = """
import yolop, yolop.settings, yolop.specs, yolop.store, yolop.study.graph
assert dict(os.environ) == environment
heavy = {"torch", "ultralytics", "numpy", "pandas", "yolop.quiet", "openvino_telemetry"}
assert not heavy & (set(sys.modules) - modules), heavy & set(sys.modules)
assert os.listdir(os.environ["TMPDIR"]) == []
"""
COMPUTING = """
import yolop.network.yolov5
from yolop import quiet
import ultralytics.utils as theirs
from ultralytics.utils.events import events
assert {name: os.environ.get(name) for name in environment} == environment
assert not any(theirs.SETTINGS[name] for name in quiet.INTEGRATIONS)
assert not (theirs.ONLINE or theirs.AUTOINSTALL or theirs.VERBOSE or events.enabled) and theirs.SAFE_LOAD
assert theirs.SETTINGS_FILE.is_relative_to(quiet.PRIVATE) and quiet.PRIVATE.is_relative_to(environment["TMPDIR"])
try:
    import openvino_telemetry
except ImportError:
    print("done")
"""


def run(code: str, tmp_path, **environment: str) -> subprocess.CompletedProcess:
    """A fresh Python as a user has it, with keys, a home and settings of ultralytics of their own."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    settings = home / ".config" / "Ultralytics" / "settings.json"
    settings.parent.mkdir(parents=True)
    temporary.mkdir()
    settings.write_text(json.dumps({"sync": True, "wandb": True, "mine": "untouched"}))
    places = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    keys = dict.fromkeys(KEYS, "secret")
    done = subprocess.run([sys.executable, "-c", code], env=places | keys | environment, capture_output=True, text=True)
    assert json.loads(settings.read_text()) == {"sync": True, "wandb": True, "mine": "untouched"}
    assert [path.name for path in settings.parent.iterdir()] == ["settings.json"]
    assert list(temporary.iterdir()) == []  # what was made is gone when the process ends
    return done


def test_importing_yolop_changes_nothing(tmp_path):
    done = run(BEFORE + IMPORTED, tmp_path)
    assert done.returncode == 0, done.stderr


def test_computing_leaves_the_users_keys_and_settings(tmp_path):
    done = run(
        BEFORE + COMPUTING, tmp_path, YOLO_OFFLINE="true"
    )  # in the environment from the start, changed by nobody
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_a_process_that_is_killed_leaves_nothing_once_the_one_that_started_it_ends(tmp_path):
    killed = "import os, signal; from yolop import quiet; print(quiet.PRIVATE, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    code = f"import subprocess, sys; from yolop import quiet; subprocess.run([sys.executable, '-c', {killed!r}])"
    for environment in ({}, {"YOLO_CONFIG_DIR": "/nowhere/yolop-gone"}, {"YOLO_CONFIG_DIR": str(tmp_path)}):
        place = tmp_path / str(len(environment.get("YOLO_CONFIG_DIR", "")))
        place.mkdir()
        done = run(code, place, **environment)
        assert done.returncode == 0 and done.stdout.startswith(str(place / "tmp" / "yolop-")), done.stderr


def test_no_room_for_temporary_files_is_said_with_the_way_out(tmp_path):
    code = "import tempfile\ndef full(**_): raise FileNotFoundError(2, 'No usable temporary directory found')\n"
    done = run(code + "tempfile.mkdtemp = full\nimport yolop.quiet", tmp_path)
    assert done.returncode == 1 and "make room in one of these, or name another folder in TMPDIR" in done.stderr
