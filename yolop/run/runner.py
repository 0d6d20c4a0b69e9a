"""The notebooks of a study, run in order: everything that can be refused is refused before a kernel starts.

Also what goes with it: `status` of the records, `verify` of the reports, `publish` for maintainers.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from yolop import store
from yolop.run import doctor, drift
from yolop.specs import DATASETS, FORMATS, STUDIES, SpecError, Study, named_study, require
from yolop.store import DamagedRecord, Record, StoreError, sha256, way_out, write_atomically

# Percent of a first `digits` run on two cores; after a run its own seconds are used.
SHARES = {
    "01_architecture": 2,
    "02_model_scaling": 50,
    "03_custom_pretraining": 26,
    "04_pruning_sweeps": 17,
    "05_zeros_into_speed": 4,
    "06_results": 1,
}

# Errors whose message says what to do; a traceback would only hide it.
PLAIN = ("StoreError", "DamagedRecord", "SpecError", "DatasetError", "DownloadError", "TrainingError")


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message says which cell, why, and where it was kept."""


def notebooks(only: str = "") -> list[Path]:
    """The study's notebooks in order, or those whose numbers `only` lists ("02,04"); SpecError for other numbers."""
    folder = store.ROOT / "notebooks"
    root = str(store.ROOT)
    text = [root.encode(errors="ignore").decode()]
    require(root.splitlines() == text, "project folder", root, "one whose path is text on one line")
    found = {path.name[:2]: path for path in sorted(folder.glob("*.ipynb")) if re.fullmatch(r"\d\d_\w+", path.stem)}
    require(bool(found), "project folder", root, "a clone of the project, or name one in YOLOP_ROOT")
    numbers = [number.strip() for number in only.split(",")] if only else list(found)
    for number in numbers:
        require(number in found, "--only", number, "numbers out of " + ", ".join(found))
    return [path for number, path in found.items() if number in numbers]


def declared(notebook: Path) -> dict:
    """Name and default of every parameter that a notebook declares in its one cell tagged `parameters`.

    Read from the syntax tree, because papermill only warns about a name that is not there. SpecError if the cell
    holds anything but assignments of literals.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    require(len(tagged) == 1, f"cells tagged `parameters` in {notebook.name}", len(tagged), "exactly one")
    try:
        lines = ast.parse(tagged[0]).body
        return {target.id: ast.literal_eval(line.value) for line in lines for target in line.targets}
    except (SyntaxError, ValueError, AttributeError):
        raise SpecError(f"{notebook.name}: the cell tagged `parameters` may hold only lines `name = literal`") from None


def prepare(name: str, settings: list[str], only: str = "") -> tuple[Study, dict, list[Path]]:
    """The study, the parameters that differ from it, and the notebooks to run, all checked.

    Args:
        name: of a study.
        settings: `field=value` each.
        only: numbers of notebooks, "02,04"; empty for all.

    Raises:
        SpecError: unknown study, field, value or notebook, or a data set that cannot be used.
    """
    named_study(name)
    chosen = notebooks(only)
    for setting in settings:
        require("=" in setting, "--set", setting, "field=value, e.g. epochs=10 or seeds=0,1")
    changes = dict(setting.split("=", 1) for setting in settings)
    for notebook in chosen:
        names = declared(notebook)
        for field in ("study", "records", "write_report", *changes):
            require(field in names, "parameter", field, f"one that {notebook.name} declares: " + ", ".join(names))
    study = named_study(name, **changes)
    if study.dataset not in DATASETS:
        changes["dataset"] = str(_checked_dataset(Path(study.dataset)))
        study = named_study(name, **changes)
    values = {field: getattr(study, field) for field in changes}
    return study, {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}, chosen


def _checked_dataset(path: Path) -> Path:
    """The absolute path of a data.yaml after reading all of it once; SpecError says what is wrong with it."""
    from yolop.data import datasets

    try:
        path = Path(os.path.realpath(os.path.expanduser(path)))
        str(path).encode()  # a notebook holds it as text
        datasets.read(path)
    except ValueError as error:  # with DatasetError: a NUL, or half a character
        raise SpecError(str(error)) from None
    return path


def _fetch(study: Study) -> None:
    """Have what the study needs from elsewhere, downloaded where no copy lies ready; SpecError says what is wrong."""
    from yolop.data import public
    from yolop.data.downloads import DownloadError

    try:
        if study.dataset in public.DATASETS:
            public.fetch(public.SOURCES[study.dataset])
        if study.pretraining == "coco":
            public.official_weights()
    except DownloadError as error:
        raise SpecError(str(error)) from None


def run(name: str, settings: list[str], only: str = "", records: str = "fresh") -> None:
    """Run a study's notebooks into `reports/<study>/` and index them there.

    Raises:
        SpecError: before anything has started.
        NotebookError: at the first notebook that fails; those after it are not run.
    """
    study, parameters, chosen = prepare(name, settings, only)
    if records == "fresh":
        doctor.require_no_conflicts()
        _fetch(study)
    parameters |= {"study": name, "records": records, "write_report": True}
    report = store.ROOT / "reports" / study.name
    timings = store.ROOT / "data" / "runs" / study.name / "timings.json"
    seconds = _known_seconds(timings)
    progress = Progress([path.stem for path in chosen], seconds)
    with _ending_kernels():
        for path in chosen:
            with progress.of(path.stem):
                execute(path, report / "notebooks" / path.name, parameters, progress)
            if records == "fresh":
                write_atomically(timings, json.dumps(seconds | progress.done, indent=1) + "\n")
    if all((report / "notebooks" / path.name).exists() for path in notebooks()):
        from yolop.report import reporting

        reporting.write_index(study, report, records)
        if records == "fresh":
            table = drift.drift(study)
            if len(table):
                write_atomically(timings.with_name("drift.csv"), table.to_csv(index=False))
            print(drift.summary(table))
        print(f"report: {report.relative_to(store.ROOT) / 'index.html'}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9  # of the largest kernel
    print(f"{_clock(sum(progress.done.values()))} in all, at most {peak_gb:.1f} GB of memory")


def _known_seconds(timings: Path) -> dict[str, float]:
    """Seconds of each notebook in earlier runs; none if the file is absent or damaged, since they only serve the estimate."""
    try:
        return {str(name): float(seconds) for name, seconds in json.loads(timings.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def execute(notebook: Path, output: Path, parameters: dict, progress: Progress) -> None:
    """Run one notebook in a fresh kernel of this Python and leave it executed, whole and without traces at `output`.

    Raises:
        NotebookError: a cell failed or the kernel died; what there is of it is kept as `NN_name.failed.ipynb`.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # we report errors ourselves
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")  # no other `python3` kernel comes first
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{notebook.stem}.{os.getpid()}.ipynb")
    failed = output.with_name(f"{notebook.stem}.failed.ipynb")
    for left in output.parent.glob(f".{notebook.stem}.*.ipynb"):  # of a run that was killed
        if not psutil.pid_exists(int(left.name.split(".")[-2])):
            left.unlink(missing_ok=True)
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, partial))  # no templates
    begun = []  # source of each cell so far; papermill's own marks are wrong after a kernel's death
    try:
        papermill.execute_notebook(
            source, target, parameters, kernel_name="python3", cwd=notebook.parent, progress_bar=False,
            stdout_file=progress, coalesce_streams=True, record_timing=False,
            extra_arguments=["--log-level=ERROR"], on_cell_execute=lambda cell, cell_index: begun.append(cell.source),
        )  # fmt: skip
        write_atomically(output, _clean(partial, parameters.get("dataset")))
        failed.unlink(missing_ok=True)
    except Exception as error:  # whatever it was, this notebook has failed and the next must not run
        message = _explain(notebook.stem, begun, error, output)
        with suppress(ValueError, OSError, StoreError):  # on a full disk there may be nothing whole to keep
            write_atomically(failed, _clean(partial, parameters.get("dataset")))
            message += f"\nkept as {failed}"
        raise NotebookError(message) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses that too
            partial.unlink(missing_ok=True)


def _explain(name: str, begun: list[str], error: Exception, output: Path) -> str:
    """What a reader needs to know about a failure: the cell, its first line, the end of the error; of one that says the
    way out itself, or that comes from the disk, that alone."""
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


def _clean(path: Path, dataset: str | None) -> str:
    """An executed notebook as text, without metadata of others, random ids, and folders of this machine."""
    import nbformat

    book = nbformat.read(path, as_version=4)
    book.metadata = {key: book.metadata[key] for key in ("language_info",) if key in book.metadata}
    book.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    for cell in book.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        elif "injected-parameters" in cell.metadata.tags:
            cell.id = "injected-parameters"
    text = nbformat.writes(book) + "\n"
    folders = {store.ROOT: ".", Path.home(): "~"}
    if dataset:
        folders = {Path(dataset).parent: Path(dataset).parent.name} | folders
    for folder, short in folders.items():
        if folder != Path(folder.anchor):
            old, new = (json.dumps(str(item), ensure_ascii=False)[1:-1] for item in (folder, short))
            text = re.sub(re.escape(old) + r"(?![\w.-])", new.replace("\\", r"\\"), text)
    return text


@contextmanager
def _ending_kernels() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP end every kernel at once and leave with 128 + the signal's number.

    Killing is safe: a record counts only when it is whole.
    """

    def end(number, frame):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
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


class Progress:
    """One line for each notebook with its time and an estimate of what is left; above it what the kernel prints.

    On a terminal the line is rewritten every second, elsewhere it is printed when a notebook begins and when it ends.
    """

    def __init__(self, names: list[str], seconds: dict, stream=None):
        self.names, self.stream = names, stream or sys.stdout
        self.known = set(names) <= set(seconds)  # then weights are seconds, otherwise only shares of the whole
        self.weights = seconds if self.known else SHARES
        self.done: dict[str, float] = {}
        self.live = self.stream.isatty()
        self.lock = threading.Lock()
        self.line = self.pending = ""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time one notebook and show it; a notebook that fails is not counted."""
        began, ended = time.monotonic(), threading.Event()

        def tick():
            while not ended.wait(1):
                self.show(name, time.monotonic() - began)

        clock = threading.Thread(target=tick, daemon=True)
        if self.live:
            clock.start()
        else:
            self.put(f"{name} ...\n")
        try:
            yield
            self.done[name] = round(time.monotonic() - began, 1)
        finally:
            ended.set()
            if self.live:
                clock.join()
            self.line = ""
            self.write("\n" if self.pending else "")
        self.put(self.text(name, self.done[name], self.time_left()) + "\n")

    def show(self, name: str, elapsed: float) -> None:
        """Rewrite the line of the notebook that is running."""
        self.line = self.text(name, elapsed, self.time_left(name, elapsed))
        self.put("")

    @staticmethod
    def text(name: str, elapsed: float, left: float | None) -> str:
        return f"{name}  {_clock(elapsed)}" + (f", about {_clock(left)} left" if left else "")

    def time_left(self, running: str = "", elapsed: float = 0.0) -> float | None:
        """Seconds left, scaled by how long the finished notebooks took; None while nothing is known."""
        expected = sum(self.weights.get(name, 1) for name in self.done)
        rate = sum(self.done.values()) / expected if self.done else 1.0
        if not self.done and not self.known:
            return None
        waiting = sum(self.weights.get(name, 1) for name in self.names if name not in self.done and name != running)
        now = max(self.weights.get(running, 1) * rate - elapsed, 0) if running else 0
        return waiting * rate + now

    def write(self, text: str) -> None:
        """What the kernel prints, indented, whole lines only (papermill calls this)."""
        *lines, self.pending = (self.pending + text).split("\n")
        self.put("".join(f"    {line}\n" for line in lines))

    def flush(self) -> None:
        """Nothing: every write is flushed."""

    def put(self, text: str) -> None:
        with self.lock:
            self.stream.write(f"\r\x1b[K{text}{self.line}" if self.live else text)
            self.stream.flush()


def _clock(seconds: float) -> str:
    """A duration as people say it: 8 s, 2:05 min, 1:02:05 h."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def status(name: str) -> None:
    """Print what a study has: its records, finished or not, and its executed notebooks, current or not."""
    names = {*STUDIES, *(folder.name for folder in (store.ROOT / "data" / "runs").glob("*/"))}
    require(name in names, "study", name, "one of " + ", ".join(sorted(names)))
    runs, committed = (store.ROOT / "data" / kind / name for kind in ("runs", "records"))
    states = {folder.name: _state(folder) for folder in sorted(runs.glob("*/"))}
    for run_id, found in states.items():
        print(f"{found:20} {run_id}")
    finished = list(states.values()).count("done")
    print(f"{finished} of {len(states)} records done, {len(list(committed.glob('*.json')))} committed")
    newest = max((path.stat().st_mtime for path in runs.glob("*/record.json")), default=0)
    for path in notebooks():
        executed = store.ROOT / "reports" / name / "notebooks" / path.name
        if executed.with_suffix(".failed.ipynb").exists():
            found = "failed"
        elif not executed.exists():
            found = "not run"
        else:
            found = "stale" if executed.stat().st_mtime < newest else "done"
        print(f"{found:20} {path.stem}")


def _state(folder: Path) -> str:
    """Of the folder of one record: done, damaged, or started, not finished."""
    path = folder / "record.json"
    if not path.exists():
        return "damaged" if path.with_name("record.damaged").exists() else "started, not finished"
    try:
        record = Record.read(path, folder)
        return "done" if all(sha256(folder / file) == digest for file, digest in record.files.items()) else "damaged"
    except (DamagedRecord, UnicodeDecodeError, OSError):
        return "damaged"


def verify(name: str = "") -> bool:
    """Recompute every table and claim from committed records and compare with `reports/<study>/`, byte for byte.

    Of one study, or of all that are published. Prints each file that differs and returns whether none does.
    """
    if not name:
        return all([verify(study) for study in store.published()])
    study = named_study(name)
    print(f"{study.name}:")
    from yolop.report import reporting

    report, texts = store.ROOT / "reports" / study.name, reporting.texts(study)
    wrong = []
    for file, text in sorted(texts.items()):
        found = (report / file).read_bytes() if (report / file).exists() else None
        if found is None:
            wrong.append(f"missing  {file}")
        elif found != text.encode():
            wrong.append(f"differs  {file}: {_first_difference(found.decode(errors='replace'), text)}")
    for folder in {Path(file).parent for file in texts} - {Path()}:  # the top folder holds more than texts
        files = {path.relative_to(report).as_posix() for path in (report / folder).glob("*") if path.is_file()}
        wrong += [f"extra    {file}" for file in sorted(files - set(texts))]
    print("\n".join([*wrong, f"{len(texts) - sum(not line.startswith('extra') for line in wrong)} files equal"]))
    return not wrong


def _first_difference(found: str, expected: str) -> str:
    """The first line in which two texts differ."""
    pairs = zip([*found.splitlines(), "<end>"], [*expected.splitlines(), "<end>"], strict=False)
    for number, (left, right) in enumerate(pairs, start=1):
        if left != right:
            return f"line {number} is {left!r}, the records give {right!r}"
    return "line ends differ"


def export(study: str, model: str, sparsity: float, seed: int | None, form: str, out: str) -> None:
    """Write a model that this machine has trained, and `model.json`, which says how to feed it and read what it gives.

    Args:
        model: label of a training of the study; with a `sparsity` above 0, n with so many trained zeros instead.
        form: one of specs.FORMATS.
        out: a folder that is new or empty.

    Raises:
        SpecError: an unknown name or value, or a folder in use.
        StoreError: the model was not trained here yet.
    """
    from yolop.network import yolov5
    from yolop.speed import runtimes
    from yolop.study.graph import Evidence

    settings = named_study(study)
    e, folder = Evidence(settings, True, store.Store(study, True, store.ROOT, finished=True)), Path(out)
    seed = settings.seeds[0] if seed is None else seed
    require(model in e.trainings, "model", model, "one of " + ", ".join(e.trainings))
    require(seed in settings.seeds, "seed", seed, "one of " + ", ".join(map(str, settings.seeds)))
    require(sparsity == 0 or sparsity in e.trained_zeros, "sparsity", sparsity, f"0 or one of {e.trained_zeros}")
    require(not folder.exists() or not any(folder.iterdir()), "out", out, "a folder that is new or empty")
    record = e.shrunk(sparsity, seed=seed) if sparsity else e.trained(model, seed)
    network, runtime, imgsz = yolov5.fused(e.load(record)), FORMATS[form], settings.imgsz
    folder.mkdir(parents=True, exist_ok=True)
    runtimes.export(network, runtime, imgsz, folder, e.calibration(imgsz) if form == "openvino-int8" else None)
    names, anchors = tuple(e.data().metrics["names"]), network.model[-1].anchors.tolist()
    runtimes.describe(folder, runtime, names, imgsz, anchors)
    print(f"{record.run_id}: {', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}")


def publish(name: str) -> None:
    """For maintainers: commit the records of the last fresh run as evidence and execute the notebooks upon them.

    Takes the records that `reports/<study>/manifest.json` lists, and none unless all of them are whole.
    """
    study = named_study(name)
    report, runs, committed = (store.ROOT / part / study.name for part in ("reports", "data/runs", "data/records"))
    manifest = report / "manifest.json"
    if not manifest.exists():
        raise StoreError(f"nothing to publish: python -m yolop run {study.name} writes the list of records first")
    records = store.read_json(manifest)["records"]
    texts = {}
    for run_id, checksum in records.items():
        path = runs / run_id / "record.json"
        if _state(runs / run_id) != "done" or json.loads(path.read_text(encoding="utf-8"))["checksum"] != checksum:
            raise StoreError(f"{run_id} is not as the last run used it: python -m yolop run {study.name}, then publish")
        texts[committed / f"{run_id}.json"] = Record.read(path).to_json()
    for path, text in texts.items():
        write_atomically(path, text)
    for path in set(committed.glob("*.json")) - set(texts):
        path.unlink()
    from yolop.report import reporting

    if reporting.README_STUDY in store.published():
        chosen = notebooks()
        progress = Progress([path.stem for path in chosen], {})
        with _ending_kernels():
            for path in chosen:
                with progress.of(path.stem):
                    execute(path, path, {}, progress)
        for file, content in reporting.front_pages().items():
            write_atomically(store.ROOT / file, content)
    print(f"{len(texts)} records published: look at them, the notebooks and the READMEs, then commit")
