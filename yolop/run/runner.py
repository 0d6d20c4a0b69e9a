"""The notebooks of a study, run in order: everything that can be refused is refused before a kernel starts."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import nbformat

from yolop import files, packages
from yolop.files import write_atomically
from yolop.report.opened import PARAMETERS, OpenStudy
from yolop.run.notebooks import ending_kernels, execute, notebooks, require_parameters
from yolop.run.progress import Progress
from yolop.run.status import expected_seconds, graph_of, opened
from yolop.settings import Study, parse
from yolop.specs import SpecError
from yolop.study.graph import OTHER


def prepare(name: str, settings: list[str], only: str = "") -> tuple[OpenStudy, str, list[Path]]:
    """The study, its changed settings as text, and the notebooks to run, all checked; its data set is read once.

    Args:
        name: of a study.
        settings: `name=value` each.
        only: numbers of notebooks, "02,04"; empty for all.

    Raises:
        SpecError: unknown study, setting, value or notebook, a notebook with other parameters, or an unusable data set.
    """
    chosen = notebooks(only)
    for notebook in chosen:
        require_parameters(notebook)
    study, changes = opened(name, settings), parse(shlex.join(settings))
    if "dataset" in changes:
        changes["dataset"] = study.settings.dataset  # its absolute path: a notebook runs in another folder
    return study, shlex.join(f"{setting}={value}" for setting, value in changes.items()), chosen


def _fetch(study: Study) -> None:
    """Have what the study needs from elsewhere, downloaded where no copy lies ready; SpecError says what is wrong."""
    from yolop.data import public
    from yolop.data.downloads import DownloadError

    try:
        for name in {study.dataset, OTHER.get(study.dataset)} & set(public.DATASETS):
            public.fetch(public.SOURCES[name])
        if study.pretraining == "coco":
            public.official_weights()
    except DownloadError as error:
        raise SpecError(str(error)) from None


def run(name: str, settings: list[str], only: str = "", records: str = "fresh") -> None:
    """Run the notebooks of a study; tables, figures, verdicts and `index.html` go to `reports/<study>/`.

    Raises:
        SpecError: before anything has started.
        NotebookError: at the first notebook that fails; those after it are not run.
    """
    study, text, chosen = prepare(name, settings, only)
    if records == "fresh":
        packages.require_no_conflicts()
        _fetch(study.settings)
    report = files.ROOT / "reports" / study.settings.report
    parameters = dict(zip(PARAMETERS, (name, text, records, str(report)), strict=True))
    executed = report / "notebooks"
    if chosen == notebooks():
        _forget(report)
    progress, graph = Progress(), None
    with ending_kernels():
        for number, path in enumerate(chosen):
            graph = graph or (graph_of(study) if records == "fresh" else None)  # there is none before its data record
            left = expected_seconds(graph, [item.stem for item in chosen[number:]])
            with progress.of(path.stem, left):
                began = time.monotonic()
                execute(path, executed / path.name, parameters, progress)
                if not graph and records == "fresh" and (graph := graph_of(study)):  # first run of its data
                    left |= expected_seconds(graph, list(left)) | {path.stem: time.monotonic() - began}
    if all((executed / path.name).exists() for path in notebooks()):
        from yolop.run.page import page

        books = [nbformat.read(executed / path.name, as_version=4) for path in notebooks()]
        write_atomically(report / "index.html", page(books, report / "figures", report.name))
        if records == "fresh":
            _compare(study)
        print(f"report: {report.relative_to(files.ROOT) / 'index.html'}")
    progress.conclude()


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
