"""The runner refuses before a kernel starts, stops at the first failure, and leaves nothing half-written."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from support import PARAMETERS, toy

from yolop.__main__ import main
from yolop.run import runner
from yolop.run.progress import Progress, clock_time
from yolop.settings import named_study

REFUSED = """nope|--only 07|--only 02,,|--set epochs|--set epoch=3|--set epochs=many|--set epochs=2.5|--set epochs=0|--set epochs=|
--set epochs=nan|--set imgsz=100|--set models=n,q|--set models=|--set ratios=0.1,30|--set seeds=-1|--set device=gpu|
--set dataset=pictures|--set dataset=absent/data.yaml|--set dataset=a\0.yaml|--set records=fresh|--set name=mine|--set self=1|
--set epochs=3 imgsz=31|--set x;open('canary','w')=1"""


@pytest.mark.parametrize("arguments", [line.strip().split(" ") for line in REFUSED.split("|")])
def test_refused_before_a_kernel_starts(project, monkeypatch, capsys, arguments):
    toy(project, "01_first")
    toy(project, "02_second")
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    monkeypatch.chdir(project)
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("yolop: ") and "Traceback" not in error
    assert sorted(path.name for path in project.iterdir()) == ["notebooks"]


@pytest.mark.parametrize(
    "change", [("records", "record"), ("  # where to", ""), ("out: str", "epochs = 3  # more\nout: str"), ("out: str = ", "#")]
)
def test_notebook_must_declare_the_four_parameters_with_comments(project, monkeypatch, capsys, change):
    toy(project, "01_first", parameters=PARAMETERS.replace(*change))
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    assert main(["run"]) == 2
    assert "01_first" in capsys.readouterr().err


def test_run_leaves_whole_notebooks_without_traces(project, monkeypatch, capsys):
    look = "import os, sys\nprint(study, settings, records, out)\nprint(os.getcwd())"
    toy(project, "01_first", look, f"assert sys.executable == {sys.executable!r}\nprint('half', end='')")
    toy(project, "02_second", "from yolop import files\nprint(files.ROOT)\n1 + 1")
    other = project / "data" / "kernels" / "python3"  # another Python that calls itself python3
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_PATH"):
        monkeypatch.setenv(name, str(project / "data"))
    monkeypatch.setenv("YOLOP_ROOT", os.path.relpath(project))  # as a user may have set it

    assert main(["run", "smoke", "--jobs", "1", "--set", "epochs=3", "seeds=0,1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    report = project / "reports" / named_study("smoke", epochs=3, seeds=(0, 1)).report
    assert f"    smoke epochs=3 seeds=0,1 fresh {report}" in printed and "    half" in printed
    assert f"    {project / 'notebooks'}" in printed and f"    {project}" in printed
    executed = sorted((report / "notebooks").iterdir())
    assert [path.name for path in executed] == ["01_first.ipynb", "02_second.ipynb"]
    text = executed[0].read_text(encoding="utf-8")
    book = nbformat.reads(text, as_version=4)
    assert "papermill" not in text and str(project) not in text
    assert book.cells[3].outputs[0].text == f"smoke epochs=3 seeds=0,1 fresh ./reports/{report.name}\n./notebooks\n"
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert "01 Toy" in (report / "index.html").read_text(encoding="utf-8")

    assert main(["run", "smoke", "--only", "1,01", "--set", "epochs=3"]) == 2  # numbers have two digits
    assert main(["run", "smoke", "--jobs", "1", "--only", "01", "--set", "epochs=3", "seeds=0,1"]) == 0
    assert executed[0].read_text(encoding="utf-8") == text  # the same run leaves the same bytes


def test_a_whole_run_forgets_what_an_earlier_one_had_used(project):
    toy(project, "01_first", "1")
    report = project / "reports" / "smoke"
    report.mkdir(parents=True)
    (report / "manifest.json").write_text('{"study": "smoke", "records": {"census-old-64px-00000000": "0"}}')
    (report / "claims.json").write_text('[{"id": "old"}]')
    runner.run("smoke", [], records="committed")
    assert json.loads((report / "manifest.json").read_text()) == {"study": "smoke", "records": {}}
    assert json.loads((report / "claims.json").read_text()) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [("raise ValueError('no luck')", "ValueError: no luck"), ("import os\nos.kill(os.getpid(), 9)", "the kernel died")],
)
def test_first_failure_stops_and_is_kept(project, capsys, source, reason):
    toy(project, "01_bad", "before = 1\nprint('so far')", source, "after = 1")
    toy(project, "02_next", "import pathlib; pathlib.Path('canary').touch()")
    earlier = project / "reports" / "smoke" / "notebooks" / "01_bad.ipynb"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("an earlier whole one")
    assert main(["run", "smoke", "--jobs", "1"]) == 1
    error = capsys.readouterr().err
    failed = earlier.with_name("01_bad.failed.ipynb")
    assert f"01_bad failed at In [4]: {source.splitlines()[0]}" in error and reason in error and str(failed) in error
    assert "so far" in failed.read_text(encoding="utf-8") and earlier.read_text() == "an earlier whole one"
    assert sorted(path.name for path in earlier.parent.iterdir()) == ["01_bad.failed.ipynb", "01_bad.ipynb"]
    assert not (project / "notebooks" / "canary").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopping_ends_the_kernel(project, number, status):
    work = "import os, signal\nfor name in ('SIGINT', 'SIGTERM'): signal.signal(getattr(signal, name), signal.SIG_IGN)"
    toy(project, "01_long", work, "import time; print('kernel', os.getpid(), flush=True); time.sleep(3600)")
    process = subprocess.Popen(
        [sys.executable, "-m", "yolop", "run", "smoke", "--jobs", "1"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    kernel = next(int(line.split()[1]) for line in process.stdout if "kernel" in line)
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode == status
    assert "finished records are kept" in error and "Traceback" not in error
    assert not psutil.pid_exists(kernel)
    assert list((project / "reports" / "smoke" / "notebooks").iterdir()) == []


def test_progress_on_a_terminal_and_in_a_log(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    for stream in (terminal, io.StringIO()):
        progress = Progress(stream)
        with progress.of("01_a", {"01_a": 10.0, "02_b": 30.0, "03_c": 60.0}):
            progress.write("epoch 1\nep")
            progress.write("och 2\nlast")
            now[0] += 20
        assert progress.bar.disable != stream.isatty() and (progress.bar.disable or progress.bar.total == 100)
        lines = stream.getvalue().replace("\r", "\n").splitlines()
        assert [line for line in lines if line.startswith("    ep") or "last" in line] == ["    epoch 1", "    epoch 2", "    last"]
        assert "01_a  0:20, about 3:00 left" in lines  # twice as slow as expected
        assert ("01_a ..." in lines) != stream.isatty()
    assert [clock_time(s) for s in (8.4, 125, 3725)] == ["0:08", "2:05", "1:02:05"]
