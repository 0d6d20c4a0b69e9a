"""Checks of the machine and its packages: each says what is wrong and what to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from yolop import packages
from yolop.__main__ import main
from yolop.run import doctor
from yolop.specs import SpecError


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"opencv-python": "4.12.0.88"}, "pip uninstall -y opencv-python opencv-python-headless"),
        ({"thop": "0.1.1.post2209072238"}, "pip uninstall -y thop"),
        ({"ultralyticsheadless": "8.3.33"}, "pip uninstall -y ultralyticsheadless"),
        ({"ultralytics": "8.4.190"}, "pip uninstall -y ultralytics"),
    ],
)
def test_packages_that_overwrite_or_impersonate_are_refused(monkeypatch, extra, named):
    there = packages.installed()
    assert [level for level, _ in packages.conflicts()] == ["ok"]
    monkeypatch.setattr(packages, "installed", lambda: there | extra)
    (level, message), *more = packages.conflicts()
    assert level == "FAIL" and named in message and "--force-reinstall" in message and not more
    with pytest.raises(SpecError, match=named):
        packages.require_no_conflicts()


def test_it_fails_when_one_check_does(monkeypatch, capsys):
    def conflicts():
        yield from [("FAIL", "thop"), ("WARN", "more")]

    assert doctor.examine() and "FAIL" not in capsys.readouterr().out
    monkeypatch.setattr(doctor, "conflicts", conflicts)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL  conflicts: thop" in lines and "WARN  conflicts: more" in lines


def test_versions_are_those_of_the_lock(monkeypatch):
    wanted = doctor.locked()
    monkeypatch.setattr(doctor, "installed", lambda: wanted | {"torch": wanted["torch"] + "+cpu"})
    assert [level for level, _ in doctor.versions()] == ["ok"]
    monkeypatch.setattr(doctor, "installed", lambda: wanted | {"torch": "2.0.0", "jupyterlab": "4.0.0"})
    (bad, torch_message), (warned, lab_message) = doctor.versions()
    assert (bad, warned) == ("FAIL", "WARN")
    assert "torch 2.0.0 instead of" in torch_message and "jupyterlab 4.0.0" in lab_message
    monkeypatch.setattr(doctor, "installed", lambda: {k: v for k, v in wanted.items() if k != "ruff"})
    assert [(level, message.split(" instead")[0]) for level, message in doctor.versions()] == [("WARN", "ruff absent")]


def test_it_names_what_is_short(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9))
    monkeypatch.setattr(doctor.sys, "version_info", (3, 12, 0))
    assert next(doctor.python())[0] == "WARN"
    monkeypatch.setattr(doctor.sys, "version_info", (3, 15, 0))
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: range(4))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    levels = {check.__name__: next(check()) for check in (doctor.python, doctor.cores, doctor.memory, doctor.disk)}
    assert {name: level for name, (level, _) in levels.items()} == {
        "python": "FAIL", "cores": "WARN", "memory": "WARN", "disk": "FAIL",
    }  # fmt: skip
    assert "unset OMP_NUM_THREADS, or" in levels["cores"][1] and "1.0 GB free, a run may need 2" in levels["disk"][1]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert next(doctor.cores()) == ("ok", "4 cores")
