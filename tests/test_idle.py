"""A timing waits for an idle machine, and is refused on one that stays busy."""

import pytest

from yolop import idle
from yolop.files import StoreError


def test_waiting_ends_when_the_machine_is_idle(monkeypatch, capsys):
    loads, slept = iter([1.9, 0.6, 0.4]), []
    monkeypatch.setattr(idle, "busy_cores", lambda: next(loads))
    monkeypatch.setattr(idle.time, "sleep", slept.append)
    assert idle.wait_until_idle() == 0.4 and len(slept) == 2
    assert "1.9 cores are busy, timing needs at most 0.5" in capsys.readouterr().out


def test_a_machine_that_stays_busy_is_refused(monkeypatch):
    clock = iter(range(0, 10_000, 200))
    monkeypatch.setattr(idle, "busy_cores", lambda: 1.3)
    monkeypatch.setattr(idle.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle.time, "monotonic", lambda: next(clock))
    with pytest.raises(StoreError, match=r"1\.3 cores busy for 10 minutes .*start again: what is computed is kept"):
        idle.wait_until_idle()


def test_load_is_measured_while_this_process_sleeps(monkeypatch):
    monkeypatch.setattr(idle, "SAMPLE_S", 0.05)
    assert 0 <= idle.busy_cores() < 1000
