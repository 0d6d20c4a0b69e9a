"""Waiting for an idle machine before something is timed: what else runs would stand in the times."""

from __future__ import annotations

import time

from yolop.files import StoreError

MOST_BUSY = 0.5  # cores that other programs may keep busy while we time
PATIENCE_S = 600
SAMPLE_S = 1.0


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
