"""Cores of this machine: which we may use, and waiting until others leave them idle before something is timed."""

from __future__ import annotations

import os
import time

from yolop.files import StoreError

MOST_BUSY = 0.5  # cores that other programs may keep busy while we time
PATIENCE_S = 600
SAMPLE_S = 1.0


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; a process that works beside others has a part of them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def threads() -> int:
    """How many threads a computation here starts: one for each usable core, or fewer where OMP_NUM_THREADS says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(len(usable_cores()), int(asked) if asked.isdecimal() and int(asked) else 16, 16)


def busy_cores() -> float:
    """How many cores are at work at this moment, measured over a second in which this process sleeps."""
    import psutil

    return round(psutil.cpu_percent(interval=SAMPLE_S) / 100 * psutil.cpu_count(), 2)


def wait_until_idle() -> float:
    """Wait until at most MOST_BUSY cores are at work; how many are then.

    Raises:
        StoreError: still busy after PATIENCE_S.
    """
    end, busy = time.monotonic() + PATIENCE_S, busy_cores()
    while busy > MOST_BUSY:
        if time.monotonic() > end:
            raise StoreError(
                f"not timed: other programs have kept {busy:.1f} cores busy for {PATIENCE_S / 60:.0f} minutes (at most "
                f"{MOST_BUSY:g} is possible). End them and start again: what is computed is kept"
            )
        print(f"waiting for an idle machine: {busy:.1f} cores are busy, timing needs at most {MOST_BUSY:g}", flush=True)
        time.sleep(10)
        busy = busy_cores()
    return busy
