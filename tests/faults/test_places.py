"""Full disks, read-only folders, users without a home, odd paths, other locales: it works, or one clear error says what to do.

Each run is the real one, `python -m yolop run` on a tiny project in a process of its own. Old results stay as they were, and
when the trouble is over the same command gives what an undisturbed project gives.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import toy

import yolop

SMALL = """from pathlib import Path
from yolop import store
from yolop.files import ROOT, write_atomically
from yolop.specs import CensusSpec, ModelSpec

def compute(spec, parents, folder):
    (folder / "weights.bin").write_bytes(bytes(300_000))
    return {"params": 7}

store.COMPUTE["census"] = "__main__:compute"
record = store.get_or_run(ROOT, CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64), {})
write_atomically(Path(out) / "tables" / "small.csv", f"parameters\\n{record.metrics['params']}\\n")
print("é 표 →", Path.cwd())"""
DATA = """from yolop import open_study, show, tables

study = open_study(study, settings, records, out)
show.table(tables.dataset(study.data, study.corpus), name="dataset")"""
NEVER = "1 / 0"  # as it is never run, the whole report, which needs every record of a study, is not asked for
RUN = ("run", "smoke", "--jobs", "1", "--only")
NAMELESS = ("unshare", "--user", "--map-user=12345")  # the rights of this user's files, but no name, no home, not root
MIB = 2**20
TIMED = ("manifest.json", ".lock")  # it has checksums of records, in which seconds stand


def may(*command: str) -> bool:
    """Whether this user may do that on this machine."""
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True).returncode == 0


needs_nameless = pytest.mark.skipif(not may(*NAMELESS, "true"), reason="needs Linux with user namespaces")


def a_project(root: Path) -> Path:
    """Write a project of three tiny notebooks."""
    for name, source in {"01_small": SMALL, "02_data": DATA, "03_never": NEVER}.items():
        toy(root, name, source)
    return root


def run(
    root: Path | str, *arguments: str, before=(), cwd="/", limit=resource.RLIM_INFINITY, **environment: str
) -> subprocess.CompletedProcess:
    """`python -m yolop ...` on the project `root` in another process, with nothing of our environment but PATH."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(yolop.__file__).parents[1])}
    environment = own | {"YOLOP_ROOT": str(root)} | environment
    command = [*before, sys.executable, "-m", "yolop", *arguments]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, errors="backslashreplace",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def side_by_side(function, cases) -> list:
    """One result for each case, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, cases))


def results(root: Path) -> dict[str, str]:
    """What a run leaves for people, by content: tables, executed notebooks."""
    files = [path for path in (root / "reports").rglob("*") if path.is_file() and path.name not in TIMED]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def everything(root: Path) -> dict[str, str]:
    """All that a later run may rely on: results and records with their files."""
    files = [path for record in root.glob("data/runs/*/record.json") for path in record.parent.iterdir()]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    return results(root) | {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def of(number: str, found: dict[str, str]) -> dict[str, str]:
    """The results of one of the notebooks."""
    table = {"01": "small", "02": "dataset"}[number]
    return {name: digest for name, digest in found.items() if f"/{number}_" in name or f"/{table}." in name}


def lost(before: dict[str, str], root: Path) -> int:
    """How many of the files that were there are gone or changed."""
    return sum(everything(root).get(name) != digest for name, digest in before.items())


def is_refused(done: subprocess.CompletedProcess, *patterns: str, root: Path | None = None) -> None:
    """It stopped with one error that says all of that, without a traceback and leaving nothing half-written."""
    lines = done.stderr.splitlines()
    assert done.returncode in (1, 2) and lines[0].startswith("yolop: ") and "Traceback" not in done.stderr, done.stderr
    assert len(lines) <= 3, done.stderr  # which cell, what and the way out, where the notebook was kept
    assert all(re.search(pattern, done.stderr) for pattern in patterns), done.stderr
    if root:
        rests = [path for path in (root / "reports").rglob(".*") if path.name != ".lock"] + [*root.rglob("*.tmp")]
        assert not rests and not list(root.glob("data/runs/*/.*.tmp"))


def works(done: subprocess.CompletedProcess) -> None:
    """It ended well and had nothing to say, but for what a kernel may say when it is told to end."""
    said = [line for line in done.stderr.splitlines() if not line.startswith("[IPKernelApp]")]
    assert done.returncode == 0 and not said, done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    """The results of a project where nothing goes wrong."""
    root = a_project(tmp_path_factory.mktemp("undisturbed"))
    works(run(root, *RUN, "01,02"))
    return results(root)


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 16 MiB with a project on it."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or not may("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)):
        pytest.skip("this user may not mount; the limit on the size of files stands in")
    yield a_project(place / "project")
    subprocess.run(["umount", "--lazy", place], check=True)


def test_full_disk(small_disk, undisturbed, seen):
    root, filler = small_disk, small_disk.parent / "filler"
    home = {"HOME": str(root.parent)}  # as it may be, on the same disk
    works(run(root, *RUN, "01", **home))
    before, gone, tries = everything(root), 0, 0
    for only, left in (("01", 0), ("02", MIB // 8), ("02", 2 * MIB)):
        filler.write_bytes(bytes(shutil.disk_usage(root).free - left))
        done = run(root, *RUN, only, **home)
        is_refused(done, re.escape(str(root)), "No space left on device; (free some space|make room)", root=root)
        gone, tries = gone + lost(before, root), tries + 1
        filler.unlink()
        for begun in root.glob("data/runs/data-*"):
            shutil.rmtree(begun)
    works(run(root, *RUN, "01,02", **home))
    assert results(root) == undisturbed and not gone
    seen(
        "disk full (a real one of 16 MiB)",
        tries,
        "one error naming file and way out; with space, the same results",
        gone,
    )


def test_limit_on_the_size_of_files(tmp_path, undisturbed, seen):
    root, limits = a_project(tmp_path), (0, 4000)
    works(run(root, *RUN, "01"))
    before, gone = everything(root), 0
    for limit in limits:
        is_refused(run(root, *RUN, "01,02", limit=limit), "free some space|make room", root=root)
        gone += lost(before, root)
    works(run(root, *RUN, "01,02"))
    assert results(root) == undisturbed and not gone
    seen("files may grow to 0 or 4 kB (quota)", len(limits), "one error; without the limit, the same results", gone)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_goes_to_a_full_disk(tmp_path, seen):
    done = run(a_project(tmp_path), *RUN, "01", before=("sh", "-c", 'exec "$@" > /dev/full', "sh"))
    is_refused(done, "No space left on device; free some space", root=tmp_path)
    seen("log file on a full disk", 1, "one error")


def test_read_only_disk(small_disk, undisturbed, seen):
    root, disk = small_disk, small_disk.parent
    works(run(root, *RUN, "01"))
    before = everything(root)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    is_refused(run(root, *RUN, "01,02"), re.escape(str(root)), "Read-only file system; check that folder", root=root)
    works(run(root, "status", "smoke"))  # what only reads goes on
    gone = lost(before, root)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    works(run(root, *RUN, "01,02"))
    assert results(root) == undisturbed and not gone
    seen("read-only disk", 1, "one error naming file and way out; what only reads works; later, the same results", gone)


@needs_nameless
def test_no_permission(tmp_path, undisturbed, seen):
    root = a_project(tmp_path)
    works(run(root, *RUN, "01"))
    before = everything(root)
    (record,) = root.glob("data/runs/census-*/record.json")
    forbidden = {"folders": [root / "reports", *(root / "reports").rglob("*/")], "record": [record]}
    for paths in forbidden.values():
        modes = {path: path.stat().st_mode for path in paths}
        for path, mode in modes.items():
            path.chmod(0 if path == record else mode & ~0o222)
        done = run(root, *RUN, "01", before=NAMELESS)
        for path, mode in modes.items():
            path.chmod(mode)
        is_refused(done, re.escape(str(root)), "Permission denied.*; check that folder", root=root)
    gone = lost(before, root)
    works(run(root, *RUN, "01", before=NAMELESS))
    assert results(root) == of("01", undisturbed) and not gone
    seen(
        "report or record of another user",
        len(forbidden),
        "one error naming file and way out; later, the same results",
        gone,
    )


@needs_nameless
def test_no_home(tmp_path, undisturbed, seen):
    (tmp_path / "file").touch()
    places = [
        {},
        {"HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere"},
        {"HOME": "relative"},
        {"HOME": str(tmp_path / "file")},
    ]

    def tried(case: tuple[int, dict]) -> bool:
        root = a_project(tmp_path / str(case[0]))
        works(run(root, *RUN, "01", before=NAMELESS, **case[1]))
        return results(root) == of("01", undisturbed)

    assert all(side_by_side(tried, enumerate(places)))
    seen("no name, no home, a home or TMPDIR that is not there", len(places), "works, same results")


@needs_nameless
def test_no_home_and_a_package_that_cannot_be_written(tmp_path, seen):
    shutil.copytree(Path(yolop.__file__).parent, tmp_path / "yolop", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "yolop").chmod(0o555)
    place = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": "/proc/nowhere"}
    script = "import yolop.speed.kernels; print(yolop.__file__)"  # Numba refuses functions that it can keep nowhere
    command = [*NAMELESS, sys.executable, "-c", script]
    done = subprocess.run(command, env=place, capture_output=True, text=True, cwd=tmp_path)
    (tmp_path / "yolop").chmod(0o755)
    assert done.stdout.strip() == str(tmp_path / "yolop" / "__init__.py"), done.stderr
    seen("package installed read-only, no home", 1, "works")


NO_TEMPORARY = """for place in /tmp /var/tmp /usr/tmp
do test ! -d $place || { mount --bind $place $place && mount -o remount,bind,ro $place; } || exit 1
done
exec "$@" """
NO_TEMPORARY = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", NO_TEMPORARY, "sh")


@pytest.mark.skipif(not may(*NO_TEMPORARY, "true"), reason="needs Linux with user namespaces")
def test_no_temporary_folder(tmp_path, seen):
    done = run(a_project(tmp_path), *RUN, "01", before=NO_TEMPORARY, cwd="/proc")
    is_refused(done, "/tmp", "make room in one of these, or name another folder in TMPDIR", root=tmp_path)
    seen("no folder for temporary files can be written", 1, "one error naming the way out")


def test_odd_paths(tmp_path, undisturbed, seen):
    long = "/".join(["n" * 200] * 4)
    names = [
        "two  spaces {and} {{braces}}",
        "für 'us' 표 \N{NABLA}",
        '$HOME `x` %s; #?&<b>"\\',
        "-r",
        long,
    ]

    def tried(name: str) -> bool:
        root = a_project(tmp_path / name)
        works(run(root, *RUN, "01"))
        return results(root) == of("01", undisturbed)

    assert all(side_by_side(tried, names))
    seen("spaces, braces, quotes, any script in paths; 1,000 characters", len(names), "works, same results")


def test_impossible_paths(tmp_path, seen):
    names = ("\udcff\udcfe", "new\nline")
    for name in names:
        is_refused(run(a_project(tmp_path / name), *RUN, "01"), "whose path is text on one line")
    too_long, length = tmp_path, 4040  # of 4,095: its notebooks can be written and read, its records cannot
    while (rest := length - len(str(too_long)) - 1) > 0:
        too_long /= "n" * (rest if rest < 200 else 150)
    is_refused(run(a_project(too_long), *RUN, "01"), "File name too long; move the project", root=too_long)
    seen(
        "path that is no text, has line ends, or is too long for its records",
        len(names) + 1,
        "one error naming the way out",
    )


def test_other_working_directory_locale_and_zone(tmp_path, undisturbed, seen):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    cases = [  # how the project is named, where from, what is set
        (".", "project", {}),
        ("..", "project/notebooks", {}),
        ("~/project", ".", {"HOME": True}),
        (None, ".", ascii_only | {"TZ": "Pacific/Kiritimati"}),
        (None, ".", {"LC_ALL": "tr_TR.UTF-8", "TZ": "America/St_Johns"}),
    ]

    def tried(case: tuple) -> bool:
        number, (name, cwd, places) = case
        home = tmp_path / str(number)
        root = a_project(home / "project")
        places = places | ({"HOME": str(home)} if "HOME" in places else {})
        works(run(name or root, *RUN, "01", cwd=home / cwd, **places))
        assert sorted(path.name for path in root.iterdir()) == ["data", "notebooks", "reports"]
        assert len(list((root / "notebooks").iterdir())) == 3  # nothing is written where a notebook runs
        return results(root) == of("01", undisturbed)

    assert all(side_by_side(tried, enumerate(cases)))
    seen(
        "relative project folder, other folder, locale (ASCII only; Turkish, installed or not), zone",
        len(cases),
        "works, same results",
    )
