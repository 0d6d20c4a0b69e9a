"""For processes that others start: they end when the one that started them does, which may be killed and cannot say so."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait

import psutil


def follow() -> None:
    """From now on end this process, and all that it has started, when its parent is gone. To ask twice changes nothing."""
    if not any(thread.name == _end_with_parent.__name__ for thread in threading.enumerate()):
        threading.Thread(target=_end_with_parent, name=_end_with_parent.__name__, daemon=True).start()


def _end_with_parent() -> None:
    wait([parent_process().sentinel])
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)
