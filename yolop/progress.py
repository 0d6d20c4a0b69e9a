"""Progress of long work: one line now and then, which reads well on a terminal and in a saved notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm


def progress(items: Iterable, label: str, every_s: float = 10.0) -> Iterator:
    """Yield the items; at most every ten seconds print how many are done and how long the rest will take."""
    items = list(items)
    layout = "{desc}: {n_fmt} of {total_fmt}, about {remaining} left\n"
    yield from tqdm(items, label, file=sys.stdout, mininterval=every_s, delay=every_s, bar_format=layout, leave=False)
