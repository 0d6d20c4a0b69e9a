"""Files and folders that are whole or absent: killed, full, damaged, asked for twice at once."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from yolop import files
from yolop.files import MARKER, DamagedRecord, StoreError, made_once, read_json, write_atomically


def make(folder):
    (folder / "a").write_text("whole")
    (folder / MARKER).write_text("{}")


def check(folder):
    return folder if (folder / MARKER).exists() and (folder / "a").read_text() == "whole" else None


def left(folder):
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_made_once_even_if_two_ask_for_it(tmp_path):
    calls = []
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(made_once, tmp_path / "x/y", lambda f: calls.append(f) or make(f), check) for _ in range(8)
        ]
    assert {job.result() for job in asked} == {tmp_path / "x/y"} and len(calls) == 1
    assert calls[0] != tmp_path / "x/y" and left(tmp_path / "x") == {"y", ".y.lock"}


def test_what_check_refuses_is_made_anew_and_nothing_of_it_stays(tmp_path):
    made_once(tmp_path / "x", make, check)
    (tmp_path / "x/a").write_text("damaged")
    (tmp_path / "x/more").write_text("old")
    assert check(made_once(tmp_path / "x", make, check)) and left(tmp_path / "x") == {"a", MARKER}
    with pytest.raises(DamagedRecord, match="changed while it was made"):
        made_once(tmp_path / "x", make, lambda folder: None)


@pytest.mark.parametrize("last_act", [
    "make = lambda f: (f / 'a').write_text('whole') and kill()",
    "files.Path.rename = kill",
    "files.shutil.rmtree = lambda f, **_: (f / MARKER).exists() and ((f / MARKER).unlink(), kill())",
])  # fmt: skip
def test_what_a_killed_run_leaves_is_made_anew(tmp_path, last_act):
    """Killed where a damaged folder is to be replaced."""
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_files import *
kill = lambda *_, **__: os._exit(9)
files.made_once(Path("x"), make, check)
Path("x/a").write_text("damaged")
{last_act}
files.made_once(Path("x"), make, check)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 9
    assert "rmtree" in last_act or check(tmp_path / "x") is None
    assert made_once(tmp_path / "x", make, check) and left(tmp_path) <= {"x", ".x.lock", ".x.old"}


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    def full(folder):
        make(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=f"could not write {tmp_path}/x: No space left on device; free some space"):
        made_once(tmp_path / "x", full, check)
    assert left(tmp_path) == {".x.lock"}


def test_a_folder_that_was_not_made_here_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("four years of work")
    with pytest.raises(StoreError, match="was not made here: name another folder"):
        made_once(tmp_path, make, check)
    assert (tmp_path / "thesis.txt").read_text() == "four years of work"
    with pytest.raises(StoreError, match="could not write .*; move away what lies where a folder"):
        made_once(tmp_path / "thesis.txt/x", make, lambda folder: None)


def test_a_damaged_file_is_named_with_the_way_out(tmp_path):
    write_atomically(tmp_path / "x/a.json", json.dumps({"é": [1]}))
    assert read_json(tmp_path / "x/a.json") == {"é": [1]} and left(tmp_path / "x") == {"a.json"}
    for text in ('{"a": ', "[" * 100_000, "\ud800"):
        (tmp_path / "x/a.json").write_bytes(text.encode(errors="surrogatepass"))
        with pytest.raises(DamagedRecord, match="a.json is damaged .*git checkout"):
            read_json(tmp_path / "x/a.json")


@pytest.mark.parametrize("given", ["here", "~/here", "./a/../here", ""])
def test_folders_of_the_user_mean_the_same_place_whatever_folder_a_notebook_runs_in(tmp_path, given):
    code = "import os; os.chdir('/'); from yolop import files; print(files.ROOT, files.DATA)"
    code = code.replace("os.chdir('/'); from yolop import files", "from yolop import files; os.chdir('/')")
    package = str(Path(files.__file__).parents[1])
    environment = os.environ | {"HOME": str(tmp_path), "YOLOP_ROOT": given, "YOLOP_DATA": given, "PYTHONPATH": package}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == (f"{tmp_path}/here {tmp_path}/here\n" if given else f"{package} None\n")
