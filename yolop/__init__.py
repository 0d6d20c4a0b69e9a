"""yolop: a reproducible study of shrinking and pruning YOLOv5.

One idea runs through the package: spec -> record -> table -> figure -> sentence.

    specs, settings   frozen descriptions of work and the identity of a run; named studies and what a reader may change
    store             records: read, verified, or computed once by the function that does the work
    shapes            the layers of YOLOv5 and their convolutions by arithmetic
    data              generated digits, anybody's data.yaml, public sets by name
    network           YOLOv5 v6: modules, head, weights, transfer of weights, removal of channels
    measure           mAP, paired timing, pruning by masks
    train             ultralytics' trainer, subclassed; resuming; zeros that come while a network trains
    study             the graph of a study: every piece of work as a node, from its settings alone
    paper             what the paper prints and claims, verdicts, an audit of its arithmetic, the search for its p
    report            what a notebook holds and shows: scores, tables, plots, sentences
    run               the notebooks in order, status, verify, publish, doctor
    speed             beyond the paper: a sparse engine, other runtimes

"p" is a YOLOv5 smaller than n, after the paper studied here. It is not the driving-perception network called YOLOP.
"""

import sys
from importlib import import_module

if sys.version_info < (3, 11):  # noqa: UP036 (said here, before anything that an older Python cannot read)
    sys.exit(f"yolop needs Python 3.11 to 3.14; this is {sys.version_info[0]}.{sys.version_info[1]}: {sys.executable}")

__version__ = "0.1.0"

_NAMES = {  # what notebooks use, found when first asked for, so that `import yolop` stays light
    "PruneSpec": "yolop.specs",
    "points": "yolop.specs",
    "open_study": "yolop.report.opened",
    "beyond": "yolop.study",
    "claims": "yolop.paper",
    "audit": "yolop.paper",
    "recipe": "yolop.paper",
    "further": "yolop.report",
    "headline": "yolop.report",
    "plots": "yolop.report",
    "show": "yolop.report",
    "tables": "yolop.report",
    "speed_tables": "yolop.report",
}
__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module 'yolop' has no attribute {name!r}: it has {', '.join(_NAMES)}")
    home = import_module(_NAMES[name])
    return getattr(home, name) if hasattr(home, name) else import_module(f"{_NAMES[name]}.{name}")


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]
