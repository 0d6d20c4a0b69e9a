"""For maintainers: the evidence of a study, and every committed file that follows from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pandas as pd

from yolop import files, store
from yolop.files import StoreError, read_json, write_atomically
from yolop.paper import claims
from yolop.report import show
from yolop.report.opened import PARAMETERS, OpenStudy
from yolop.run.notebooks import as_text, ending_kernels, execute_all, notebooks
from yolop.run.page import page
from yolop.run.status import graph_of
from yolop.settings import DEFAULT, STUDIES, named_study
from yolop.specs import require
from yolop.study.plan import all_nodes

README_STUDY = "bccd"  # whose results stand in the READMEs and in the ledger over all studies
LEDGER_HEAD = """\
# Every claim of the paper, judged on every study

Written by `python -m yolop publish`, held by a test. The tables behind each estimate are named in `<study>/claims.json`.

"""
SECTION = re.compile(r"(<!-- results[^>]*-->\n).*?(<!-- /results -->)", re.DOTALL)


def publish(name: str) -> None:
    """Commit the records that the last run of a study used, and write everything that follows from them.

    All reports are written anew, this one first, because verdicts of one study stand in the reports of the others too. Committed
    records that no report needs any more are removed.

    Raises:
        SpecError: an unknown study.
        StoreError: a record is not as the last run used it; then none is taken.
    """
    study = named_study(name)
    texts = dict(_used(study.report))
    for path, text in texts.items():
        write_atomically(path, text)
    for each in (name, *show.published()):
        write(each, made(each))
    for path in unneeded():
        path.unlink()
    print(f"{name}: look at the records, reports, notebooks and READMEs, then commit")


def _used(name: str) -> Iterator[tuple[Path, str]]:
    """Path and text of each record that the manifest of a study names, all of them whole."""
    manifest = files.ROOT / "reports" / name / "manifest.json"
    if not manifest.exists():
        raise StoreError(f"nothing to publish: python -m yolop run {name} writes the list of records first")
    for run_id, checksum in read_json(manifest)["records"].items():
        read = store.read_computed if store.state(files.ROOT, run_id) == "computed" else store.read_committed
        record = read(files.ROOT, run_id)
        if record is None or record.checksum != checksum:
            raise StoreError(f"{run_id} is not as the last run used it: python -m yolop run {name}, then publish")
        yield store.committed_path(files.ROOT, run_id), record.to_json()


def unneeded() -> list[Path]:
    """Committed records that no report has used, no named study needs, and no used record names as what it starts from."""
    manifests = [read_json(path)["records"] for path in (files.ROOT / "reports").glob("*/manifest.json")]
    graphs = (graph_of(OpenStudy(study, store.Store("committed")), ("committed",)) for study in STUDIES.values())
    planned = {node.id for graph in graphs if graph for node in all_nodes(graph)}
    used = {store.committed_path(files.ROOT, run_id) for run_id in planned.union(*manifests)}
    named = "".join(path.read_text(encoding="utf-8") for path in used if path.exists())
    rest = set((files.ROOT / "data" / "records").glob("*.json")) - used
    return sorted(path for path in rest if path.stem not in named)


def made(name: str) -> dict[str, bytes]:
    """Every file that follows from the committed records of a study: path in the project -> content."""
    with TemporaryDirectory() as place:
        books, out = executed(name, Path(place))
        report = [path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        contents = {f"reports/{name}/{path.relative_to(out).as_posix()}": path.read_bytes() for path in report}
        texts = {f"reports/{name}/index.html": page(books, out, name)}
        texts |= _front_pages(books[-1], out) if name == README_STUDY else {}
    if name == DEFAULT:
        texts |= {f"notebooks/{path.name}": _in_place(book) for path, book in zip(notebooks(), books, strict=True)}
    return contents | {file: text.encode() for file, text in texts.items()}


def executed(name: str, place: Path) -> tuple[list[nbformat.NotebookNode], Path]:
    """The notebooks of a study, run on committed records in fresh kernels, and the folder in `place` that holds its report then."""
    out, paths = place / name, notebooks()  # `out` is named as in `reports`
    parameters = dict(zip(PARAMETERS, (name, "", "committed", str(out)), strict=True))
    with ending_kernels():
        execute_all(paths, place / "executed", parameters)
    return [nbformat.read(place / "executed" / path.name, as_version=4) for path in paths], out


def write(name: str, contents: dict[str, bytes]) -> None:
    """Write the files of a study, and remove what its report has beyond them."""
    for file, content in contents.items():
        write_atomically(files.ROOT / file, content)
    for path in extra(name, contents):
        path.unlink()


def extra(name: str, contents: dict[str, bytes]) -> list[Path]:
    """Files of a report that do not follow from its records; executed notebooks, which are not committed, may stay."""
    report = files.ROOT / "reports" / name
    paths = {path for path in report.rglob("*") if path.is_file() and not path.name.startswith(".")}
    return sorted(paths - {files.ROOT / file for file in contents} - set((report / "notebooks").glob("*")))


def _in_place(book: nbformat.NotebookNode) -> str:
    """A notebook as if it had been executed with its own default values."""
    book.cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        for item in (cell, *(output for output in cell.outputs if output.output_type == "execute_result")):
            item.execution_count = number
    return as_text(book)


def _front_pages(book: nbformat.NotebookNode, report: Path) -> dict[str, str]:
    """Both READMEs with their results written anew from the last notebook of a report, and the ledger of claims."""
    by_study = show.published_verdicts() | {report.name: show.verdicts(report)}
    counts = pd.DataFrame({study: claims.counts(verdicts) for study, verdicts in by_study.items()})
    table = show.to_markdown(counts.rename_axis("verdict").reset_index())
    texts = {"reports/ledger.md": LEDGER_HEAD + show.to_markdown(claims.ledger(by_study, estimates=True))}
    for file, tag in (("README.md", "readme"), ("README.ko.md", "readme-ko")):
        models = "|" + _tagged(book, "readme-table").partition("|")[2]  # without its caption
        section = "\n\n".join([models, _tagged(book, tag), table])
        old = (files.ROOT / file).read_text(encoding="utf-8")
        marks = len(SECTION.findall(old))
        require(marks == 1, f"sections of results in {file}", marks, "one, from <!-- results --> to <!-- /results -->")
        texts[file] = SECTION.sub(lambda found, section=section: f"{found[1]}\n{section}\n{found[2]}", old)
    return texts


def _tagged(book: nbformat.NotebookNode, tag: str) -> str:
    """The Markdown that the cell with a tag shows."""
    outputs = [output for cell in book.cells if tag in cell.metadata.get("tags", []) for output in cell.outputs]
    parts = [output.data["text/markdown"].strip() for output in outputs if "text/markdown" in output.get("data", {})]
    require(len(parts) == 1, f"cells tagged `{tag}` in the last notebook", len(parts), "one that shows Markdown")
    return parts[0]
