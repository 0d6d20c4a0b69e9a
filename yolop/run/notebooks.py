"""The notebooks of the project, and one executed: in a kernel of its own, whole or not at all, without traces of the machine."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TextIO

import nbformat
import psutil

from yolop import files
from yolop.files import PLAIN, NotebookError, StoreError, way_out, write_atomically
from yolop.idle import usable_cores
from yolop.report.opened import PARAMETERS
from yolop.settings import parse
from yolop.specs import require


def notebooks(only: str = "") -> list[Path]:
    """The notebooks of the project in order, or those whose numbers `only` lists ("02,04"); SpecError for other numbers."""
    root = str(files.ROOT)
    text = [root.encode(errors="ignore").decode()]
    require(root.splitlines() == text, "project folder", root, "a folder whose path is text on one line")
    paths = sorted((files.ROOT / "notebooks").glob("*.ipynb"))
    by_number = {path.name[:2]: path for path in paths if re.fullmatch(r"\d\d_\w+", path.stem)}
    require(bool(by_number), "project folder", root, "a clone of the project, or name one in YOLOP_ROOT")
    numbers = [number.strip() for number in only.split(",")] if only else list(by_number)
    for number in numbers:
        require(number in by_number, "--only", number, "numbers out of " + ", ".join(by_number))
    return [path for number, path in by_number.items() if number in numbers]


def require_parameters(notebook: Path) -> None:
    """SpecError unless a notebook declares the parameters that every notebook has, each with a comment on it, and no other."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # we report errors ourselves
    try:
        comments = {name: about["help"] for name, about in papermill.inspect_notebook(_no_template(notebook)).items()}
    except (ValueError, KeyError) as error:  # no notebook at all, or one in another language
        require(False, notebook.name, str(error), "a notebook of this project, e.g. git checkout notebooks")
    require(tuple(comments) == PARAMETERS, f"parameters of {notebook.name}", list(comments), ", ".join(PARAMETERS))
    for name, comment in comments.items():
        require(bool(comment), f"comment on {name} in {notebook.name}", comment, "a few words after its value")


def execute(notebook: Path, output: Path, parameters: dict, stream: TextIO | None = None) -> None:
    """Run one notebook in a fresh kernel of this Python and leave it executed, whole and without traces at `output`.

    Raises:
        NotebookError: a cell failed or the kernel died; what there is of it is kept as `NN_name.failed.ipynb`.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # we report errors ourselves
    # No other `python3` kernel comes first, and the kernel works in the same project, wherever it is started.
    os.environ |= {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter"), "YOLOP_ROOT": str(files.ROOT)}
    os.environ |= {"YOLOP_DATA": str(files.DATA)} if files.DATA else {}  # absolute, like the project: a kernel runs elsewhere
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{notebook.stem}.{os.getpid()}.ipynb")
    failed = output.with_name(f"{notebook.stem}.failed.ipynb")
    for left in output.parent.glob(f".{notebook.stem}.*.ipynb"):  # of a run that was killed
        if not psutil.pid_exists(int(left.name.split(".")[-2])):
            left.unlink(missing_ok=True)
    begun = []  # source of each cell so far; papermill's own marks are wrong after a kernel's death
    try:
        papermill.execute_notebook(
            _no_template(notebook), _no_template(partial), parameters, kernel_name="python3", cwd=notebook.parent,
            progress_bar=False, stdout_file=stream, coalesce_streams=True, record_timing=False,
            extra_arguments=["--log-level=CRITICAL"], on_cell_execute=lambda cell, cell_index: begun.append(cell.source),
        )  # fmt: skip
        write_atomically(output, _without_traces(partial, parameters))
        failed.unlink(missing_ok=True)
    except Exception as error:  # whatever it was, this notebook has failed and the next must not run
        message = _explain(notebook.stem, begun, error, output)
        with suppress(ValueError, OSError, StoreError):  # on a full disk there may be nothing whole to keep
            write_atomically(failed, _without_traces(partial, parameters))
            message += f"\nkept as {failed}"
        raise NotebookError(message) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses that too
            partial.unlink(missing_ok=True)


def execute_all(paths: list[Path], folder: Path, parameters: dict) -> None:
    """As `execute`, for notebooks that only read records: side by side but for the last, which sums up the others."""
    # In processes, since papermill changes the working folder of its own.
    with ProcessPoolExecutor(len(usable_cores()), get_context("spawn")) as pool:
        for some in (paths[:-1], paths[-1:]):
            for done in [pool.submit(execute, path, folder / path.name, parameters) for path in some]:
                done.result()


def _no_template(path: Path) -> str:
    """A path as papermill takes it: it fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _explain(name: str, begun: list[str], error: Exception, output: Path) -> str:
    """Which cell failed, its first line, and why: the last lines of the traceback, or only the message if it says what to do."""
    kind, message = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    text = "\n".join(getattr(error, "traceback", [])) or f"{kind}: {message}"
    number = re.search(r"\[Errno (\d+)\]|\(os error (\d+)\)", message)
    if isinstance(error, OSError):  # ours, not the kernel's
        text = f"{error.filename or output}: {error.strerror or error}; {way_out(error.errno)}"
    elif number:
        text = f"{kind}: {message}; {way_out(int(number[1] or number[2]))}"
    elif kind in PLAIN:
        text = f"{kind}: {message}"
    elif kind == "DeadKernelError" or "Kernel died" in message:  # while it worked, or before it was ready
        text = "the kernel died: out of memory, or killed from outside. Start again: finished records are kept"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    where = f"In [{len(begun)}]: {begun[-1].strip().splitlines()[0]}" if begun else "its start"
    return "\n  ".join([f"{name} failed at {where}", *[line for line in lines if line.strip()][-8:]])


def _without_traces(path: Path, parameters: dict) -> str:
    """An executed notebook as text, without metadata of others, random ids, and folders of this machine."""
    out, settings = Path(parameters["out"]), parse(parameters["settings"])
    sets = (Path(settings.get(name, "")).parent for name in ("dataset", "corpus"))
    folders = {folder: folder.name for folder in sets} | {out: f"./reports/{out.name}", files.ROOT: ".", Path.home(): "~"}
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):  # where papermill escapes what is not ASCII
            lines = (f"{name} = {json.dumps(_shorter(value, folders), ensure_ascii=False)}" for name, value in parameters.items())
            cell.source = "\n".join(["# Parameters", *lines])
    return _shorter(as_text(book), {json.dumps(str(item), ensure_ascii=False)[1:-1]: short for item, short in folders.items()})


def _shorter(text: str, folders: dict) -> str:
    """A text with the short name of each folder in place of its path; the first may lie in those after it."""
    for folder, short in folders.items():
        if Path(folder).is_absolute() and Path(folder) != Path(Path(folder).anchor):
            text = re.sub(re.escape(str(folder)) + r"(?![\w.-])", short.replace("\\", r"\\"), text)
    return text


def as_text(book: nbformat.NotebookNode) -> str:
    """A notebook in the one form in which it is committed: of its metadata only the language and tags, no random ids."""
    book.metadata = nbformat.from_dict({"language_info": {"name": "python"}})
    book.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    for cell in book.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
    return nbformat.writes(book) + "\n"


@contextmanager
def ending_kernels() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP end every kernel at once and leave with 128 + the signal's number.

    Killing is safe: a record counts only when it is whole.
    """

    def end(number, frame):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                # it ends with us, and complains otherwise
                if "multiprocessing.resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()
        os.write(2, b"\nstopped: finished records are kept, start again to go on\n")
        raise SystemExit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    signals = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]  # e.g. under nohup
    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
