"""What a study has and what is missing, notebook by notebook, by the ids of its records; and how long the rest will take."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from contextlib import suppress

from yolop import files, store
from yolop.files import StoreError, write_atomically
from yolop.report.opened import OpenStudy
from yolop.run import estimate
from yolop.settings import DATASETS, STUDIES, named_study, parse
from yolop.specs import SpecError, SweepSpec
from yolop.store import Store
from yolop.study.graph import Graph, Node
from yolop.study.plan import by_notebook, with_parents

STATES = ("computed", "committed", "missing", "started", "damaged")
MEMORY = "data/runs/study-{}.json"  # of a report's name


def opened(name: str, settings: list[str]) -> OpenStudy:
    """The named study, or the one of a report's name, with some settings changed; its data set is read if it is a folder.

    Raises:
        SpecError: an unknown study, setting or value, or a data set that cannot be used.
    """
    name, settings = recalled(name, settings)
    study = named_study(name, **parse(shlex.join(settings)))
    try:
        for setting in ("dataset", "corpus"):
            place = getattr(study, setting)
            if place and place not in DATASETS:
                study = study.changed(**{setting: os.path.realpath(os.path.expanduser(place))})
                getattr(study, setting).encode()  # a notebook holds it as text
        return OpenStudy(study, Store("committed"))
    except ValueError as error:  # with DatasetError: a NUL, or half a character
        raise SpecError(str(error)) from None


def remember(study: OpenStudy, settings: list[str]) -> None:
    """Keep which study and settings the name of a report stands for: `opened` takes that name, too."""
    if study.settings.report not in STUDIES:
        content = {"study": study.settings.name, "settings": settings}
        write_atomically(files.ROOT / MEMORY.format(study.settings.report), json.dumps(content) + "\n")


def recalled(name: str, settings: list[str]) -> tuple[str, list[str]]:
    """Study and settings that a name stands for: of a report, those that `remember` kept, and further ones; else itself."""
    path = files.ROOT / MEMORY.format(name)
    if name in STUDIES or not name.replace("-", "").isalnum() or not path.exists():
        return name, settings
    kept = files.read_json(path)
    return kept["study"], [*kept["settings"], *settings]


def graph_of(study: OpenStudy, records: tuple[str, ...] = ("committed", "computed")) -> Graph | None:
    """The graph of a study whose data record exists; None if it does not. Nothing is computed."""
    for kind in records:
        study.store = Store(kind)
        with suppress(StoreError):
            return study.graph
    return None


def status(name: str, settings: list[str]) -> None:
    """Print how many records of each notebook are computed here, committed, or missing, and which are damaged or unfinished."""
    study = opened(name, settings)
    graph = graph_of(study)
    if graph is None:
        print(f"no record says what the data set of {study.settings.report} holds: python -m yolop run {name} --only 01")
        return
    for stem, nodes in _by_stem(graph).items():
        states = {node.id: state(node) for node in nodes}
        counts = Counter(states.values())
        print(f"{stem:24}" + ", ".join(f"{kind} {counts[kind]}" for kind in STATES if counts[kind]))
        for run_id, found in states.items():
            if found in ("started", "damaged"):
                print(f"    {found}: {run_id}")


def _by_stem(graph: Graph) -> dict[str, list[Node]]:
    """Name of a notebook -> the nodes that it is the first to need."""
    stems = {path.stem[:2]: path.stem for path in sorted((files.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    return {stems.get(number, number): nodes for number, nodes in by_notebook(graph).items()}


def state(node: Node) -> str:
    """As `store.state`; a sweep also counts as there if other records have all of its points."""
    found = store.state(files.ROOT, node.id)
    for records in ("computed", "committed") if found == "missing" and isinstance(node.spec, SweepSpec) else ():
        if Store(records).missing(node) is None:
            return records
    return found


def expected_seconds(graph: Graph | None, names: list[str]) -> dict[str, float]:
    """Seconds that notebooks will take, by `estimate.seconds` of what they are the first to need; None: nothing is computed."""
    expected, seen = dict.fromkeys(names, estimate.UNKNOWN_S), set()
    for name, nodes in _by_stem(graph).items() if graph else ():
        if name in expected:
            missing = {run_id: node for run_id, node in missing_of(nodes).items() if run_id not in seen}
            expected[name] += sum(estimate.seconds(missing).values())
            seen |= set(missing)
    return expected


def missing_of(nodes: list[Node]) -> dict[str, Node]:
    """Run id -> node of those that are not computed here, and of all that they need and that is not either."""
    here = Store("computed")
    rest = filter(None, map(here.missing, nodes))
    return {run_id: node for run_id, node in with_parents(rest).items() if here.missing(node)}
