"""What all tests share: no network, no display, reproducible examples, and a project folder of their own."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import settings
from support import data, made, parents  # noqa: F401 (fixtures)

from yolop import files, quiet  # noqa: F401 (quiet before any test imports ultralytics)

os.environ["MPLBACKEND"] = "agg"
settings.register_profile("yolop", deadline=None, derandomize=True, database=None)
settings.load_profile("yolop")


def pytest_collection_modifyitems(items):
    """The file that runs a whole study comes first: it takes longest, so that of two processes neither waits for it at the end."""
    items.sort(key=lambda item: item.path.stem != "test_smoke")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every connection to another machine is refused, so that a test which needs one fails everywhere."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, with characters in its name that templates and shells stumble over."""
    root = tmp_path / "a {study} für 'us'"
    (root / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(files, "ROOT", root)
    monkeypatch.setenv("YOLOP_ROOT", str(root))  # for processes that a test starts
    return root
