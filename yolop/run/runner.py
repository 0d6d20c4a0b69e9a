"""The notebooks of a study, run in order: everything that can be refused is refused before a kernel starts."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import nbformat

from yolop import files, packages
from yolop.files import StoreError, write_atomically
from yolop.report.opened import PARAMETERS, OpenStudy
from yolop.run import estimate, processes
from yolop.run.cluster import compute as on_workers
from yolop.run.cluster import connected, require_safe
from yolop.run.notebooks import ending_kernels, execute, execute_all, notebooks, require_parameters
from yolop.run.progress import Progress
from yolop.run.schedule import makespan
from yolop.run.status import expected_seconds, graph_of, missing_of, opened, recalled, remember
from yolop.settings import Study, parse
from yolop.specs import SpecError
from yolop.study.graph import OTHER, Node
from yolop.study.plan import all_nodes, with_parents


def prepare(name: str, settings: list[str], only: str = "") -> tuple[OpenStudy, str, list[Path]]:
    """The study, its changed settings as text, and the notebooks to run, all checked; its data set is read once.

    Args:
        name: of a study, or of its report where it has run here.
        settings: `name=value` each.
        only: numbers of notebooks, "02,04"; empty for all.

    Raises:
        SpecError: unknown study, setting, value or notebook, a notebook with other parameters, or an unusable data set.
    """
    chosen = notebooks(only)
    for notebook in chosen:
        require_parameters(notebook)
    name, settings = recalled(name, settings)
    study, changes = opened(name, settings), parse(shlex.join(settings))
    for setting in {"dataset", "corpus"} & set(changes):
        changes[setting] = getattr(study.settings, setting)  # its absolute path: a notebook runs in another folder
    return study, shlex.join(f"{setting}={value}" for setting, value in changes.items()), chosen


def _fetch(study: Study) -> None:
    """Have what the study needs from elsewhere, downloaded where no copy lies ready; SpecError says what is wrong."""
    from yolop.data import public
    from yolop.data.downloads import DownloadError

    try:
        for name in {study.dataset, study.corpus or OTHER.get(study.dataset)} & set(public.DATASETS):
            public.fetch(public.SOURCES[name])
        if study.pretraining == "coco":
            public.official_weights()
    except DownloadError as error:
        raise SpecError(str(error)) from None


def run(
    name: str, settings: list[str], only: str = "", records: str = "fresh",
    jobs: str = "1", cluster: str = "", plan: bool = False,
) -> None:  # fmt: skip
    """Run the notebooks of a study; tables, figures, verdicts and `index.html` go to `reports/<study>/`.

    Args:
        name, settings, only: as of `prepare`.
        records: "fresh" computes what is missing, in order; "committed" only reads, side by side.
        jobs: how many nodes are computed side by side before the notebooks run, as of `processes.workers`; with 1 each
            notebook computes what it needs.
        cluster: address of a Dask scheduler whose workers compute instead, or "local"; empty for none.
        plan: only say what there is to compute, and how long it takes.

    Raises:
        SpecError: before anything has started.
        StoreError: nodes that could not be computed; no notebook runs then.
        NotebookError: at the first notebook that fails; with "fresh" records those after it are not run.
    """
    study, text, chosen = prepare(name, settings, only)
    if plan:
        return show_plan(study, [path.name[:2] for path in chosen])
    processes.workers(jobs, {})  # what is impossible is refused before anything starts
    if cluster:
        require_safe(cluster)
    if records == "fresh":
        packages.require_no_conflicts()
        _fetch(study.settings)
        remember(study, shlex.split(text))
    report = files.ROOT / "reports" / study.settings.report
    parameters = dict(zip(PARAMETERS, (study.settings.name, text, records, str(report)), strict=True))
    executed = report / "notebooks"
    if chosen == notebooks():
        _forget(report)
    progress, graph = Progress(), None
    with ending_kernels():
        if records == "committed":
            with progress.of("notebooks", {"notebooks": 3.0 * len(chosen)}):  # seconds, on two cores
                execute_all(chosen, executed, parameters)
        elif jobs != "1" or cluster:
            _compute(study, [path.name[:2] for path in chosen], jobs, cluster, progress)
        for number, path in enumerate(chosen if records == "fresh" else []):
            graph = graph or graph_of(study)  # there is none before its data record
            left = expected_seconds(graph, [item.stem for item in chosen[number:]])
            with progress.of(path.stem, left):
                began = time.monotonic()
                execute(path, executed / path.name, parameters, progress)
                if not graph and (graph := graph_of(study)):  # first run of its data
                    left |= expected_seconds(graph, list(left)) | {path.stem: time.monotonic() - began}
    if all((executed / path.name).exists() for path in notebooks()):
        from yolop.run.page import page

        books = [nbformat.read(executed / path.name, as_version=4) for path in notebooks()]
        write_atomically(report / "index.html", page(books, report, report.name))
        if records == "fresh":
            _compare(study)
        print(f"report: {report.relative_to(files.ROOT) / 'index.html'}")
    progress.conclude()


def _compute(study: OpenStudy, numbers: list[str], jobs: str, cluster: str, progress: Progress) -> None:
    """Compute what some notebooks will ask for and is missing; first, here, the data sets, whose content makes the graph."""
    _side_by_side(missing_of(study.sources), jobs, progress)
    nodes = missing_of(all_nodes(graph_of(study, ("computed",)), numbers))
    if cluster:
        took = estimate.seconds(nodes)
        with connected(cluster) as client, progress.of("cluster", {"cluster": max(took.values(), default=0)}):
            nodes = on_workers(client, nodes, took, progress)
    _side_by_side(nodes, jobs, progress)


def _side_by_side(nodes: dict[str, Node], jobs: str, progress: Progress) -> None:
    count, took, name = processes.workers(jobs, nodes), estimate.seconds(nodes), f"{len(nodes)} records"
    if nodes and count > 1:
        with progress.of(name, {name: makespan(nodes, took, count)}):
            processes.compute(nodes, count, took, progress)


def show_plan(study: OpenStudy, numbers: list[str]) -> None:
    """Print what some notebooks of a study ask for: see `estimate.plan`."""
    graph = graph_of(study)
    if graph is None:
        raise StoreError("no record says what the data set holds: python -m yolop run --only 01 computes it")
    nodes = with_parents(all_nodes(graph, numbers))
    estimate.plan(nodes, set(nodes) - set(missing_of(list(nodes.values()))))


def _forget(report: Path) -> None:
    """Empty the lists that the notebooks of a report add to: what an earlier run had used or judged is no part of this one."""
    for file, empty in (("manifest.json", {"study": report.name, "records": {}}), ("claims.json", [])):
        if (report / file).exists():
            write_atomically(report / file, json.dumps(empty) + "\n")


def _compare(study: OpenStudy) -> None:
    from yolop.run import drift

    table = drift.drift(study)
    if len(table):
        write_atomically(files.ROOT / "data" / "runs" / f"drift-{study.settings.report}.csv", table.to_csv(index=False))
    print(drift.summary(table))
