"""What several test files share: a tiny data set, a spec to train on it, and a project that has run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from nbformat import v4
from PIL import Image
from torch import nn

from yolop import store
from yolop.data import SPLITS, Dataset, digits
from yolop.files import sha256
from yolop.network import yolov5
from yolop.specs import MODELS, CensusSpec, DigitsSpec, ModelSpec, TrainSpec
from yolop.speed import engine
from yolop.store import get_or_run

STANDSTILL_S = 600  # without a line or a file; a busy machine may be as slow as it likes
HERE = Path(__file__).resolve().parents[1]


def tiny_digits(folder: Path) -> Dataset:
    """20 / 6 / 6 images of digits at 96 px: three batches of eight an epoch."""
    return digits.generate(DigitsSpec(train=20, val=6, test=6, imgsz=96), folder / "digits")


def tiny_spec(data: Dataset, kind: type[TrainSpec] = TrainSpec, **changes) -> TrainSpec:
    """Two epochs of p at 64 px on a data set, with some fields changed."""
    own = {"model": MODELS["p"], "label": "p", "data": data.digest, "nc": data.nc, "imgsz": 64, "epochs": 2, "batch": 8}
    return kind(**own | {"val_every": 2} | changes)


class Trap:
    """Runs a command when a plain unpickler meets it."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def run_yolop(root: Path, *arguments: str) -> str:
    """What `python -m yolop` prints in a project folder; it must succeed, and is ended only where it comes to a standstill."""
    command = [sys.executable, "-m", "yolop", *arguments]
    environment = os.environ | {"YOLOP_ROOT": str(root), "PYTHONPATH": str(HERE)}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, cwd=root.parent, stdout=said, stderr=subprocess.STDOUT)
        seen, since = None, time.monotonic()
        while process.poll() is None and time.monotonic() - since < STANDSTILL_S:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            reached = os.fstat(said.fileno()).st_size, len(list((root / "data").rglob("*")))
            if reached != seen:
                seen, since = reached, time.monotonic()
        process.terminate()
        process.wait()
        said.seek(0)
        text = said.read()
    assert process.returncode == 0, text
    return text


def project_in(folder: Path) -> Path:
    """A project folder with the notebooks, and nothing computed or committed."""
    shutil.copytree(HERE / "notebooks", folder / "notebooks")
    return folder


def manifest_text(folder: Path, paths: list[str]) -> str:
    """What yolop/data/manifests/<name>.json holds of these paths below `folder`: sizes and digests, sorted, one a line."""
    entries = {path: [(folder / path).stat().st_size, sha256(folder / path)] for path in sorted(paths)}
    lines = ",\n".join(f"  {json.dumps(path)}: {json.dumps(entry)}" for path, entry in entries.items())
    return f'{{"files": {{\n{lines}\n}}}}\n'


def yolo_set(root: Path) -> Path:
    """A YOLO data set in `root`: three images of 20 x 16 px in train, one in val and test each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(256, size=(16, 20, 3), dtype=np.uint8)).save(root / f"images/{split}/{i}.png")
            (root / f"labels/{split}/{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.2 0.4\n1 0.25 0.25 0.1 0.1\n")
    configure(root)
    return root


def configure(root, drop=(), **changes):
    """Write its data.yaml, with some entries changed or left out."""
    config = {f: f"images/{f}" for f in SPLITS} | {"nc": 2, "names": ["cat", "dog"]} | changes
    (root / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in drop}))


PARAMETERS = """study: str = "digits"  # which
settings: str = ""  # what is changed
records: str = "committed"  # where from
out: str = ""  # where to"""
CENSUS = CensusSpec("toy", (("n", ModelSpec(0.33, 0.25)),), nc=3, imgsz=64)
# Writes a table, a figure and the manifest of the committed record, as the notebooks of the study do.
REPORTS = """import json, pathlib
from yolop.files import ROOT, write_atomically
from yolop.store import read_committed
(path,) = (ROOT / "data" / "records").glob("census-toy-*.json")
record = read_committed(ROOT, path.stem)
if out:
    folder = pathlib.Path(out)
    write_atomically(folder / "tables/toy.csv", f"params\\n{record.metrics['params']}\\n")
    write_atomically(folder / "figures/toy.svg", '<svg xmlns="http://www.w3.org/2000/svg"><text fill="red">toy</text></svg>')
    write_atomically(folder / "manifest.json", json.dumps({"study": study, "records": {path.stem: record.checksum}}))
record.metrics["params"]"""


def toy(root: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook: title, parameters, then the given code cells."""
    cells = [v4.new_markdown_cell(f"# {name[:2]} Toy"), v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    book = v4.new_notebook(cells=cells + [v4.new_code_cell(source) for source in sources])
    for number, cell in enumerate(book.cells):
        cell.id = f"{name[:2]}-{number}"
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def compute(spec, parents, folder) -> dict:
    """Work that leaves one file; `store.COMPUTE` finds it as support:compute."""
    (folder / "weights.bin").write_bytes(b"1234")
    return {"params": 7}


def committed(root: Path, record: store.Record) -> Path:
    """Commit a record."""
    path = store.committed_path(root, record.run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.to_json(), encoding="utf-8")
    return path


def used(root: Path, study: str, *records: store.Record) -> Path:
    """Write the manifest that a run of a study would have left."""
    path = root / "reports" / study / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"study": study, "records": {record.run_id: record.checksum for record in records}}))
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A project folder for records, in which tests that ask for the same thing find it done."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def parents(made) -> dict:
    """Records of the tiny data set and of p trained on it, by role."""
    from yolop.data.load import dataset_of

    data = get_or_run(made, DigitsSpec(train=20, val=6, test=6, imgsz=96), {})
    return {"data": data, "weights": get_or_run(made, tiny_spec(dataset_of(data)), {"data": data})}


@pytest.fixture(scope="session")
def data(parents):
    """The tiny data set: three batches of digits an epoch."""
    from yolop.data.load import dataset_of

    return dataset_of(parents["data"])


def trained(data, folder: Path, kind: type = TrainSpec, parent=None, **changes) -> dict:
    """Metrics of a training of `tiny_spec`, whose weights are in the folder."""
    from yolop.train.trainer import train

    folder.mkdir(exist_ok=True)
    return train(tiny_spec(data, kind, **changes), data, folder, parent)


class InThisProcess:
    """In place of an `in_turns.Worker`, whose process takes seconds to start."""

    def __init__(self, label, job):
        self.make(label, job)

    def make(self, label, job):
        from yolop.measure import latency

        make, *arguments = job
        try:
            self.call = make(*arguments)
        except Exception as error:
            raise RuntimeError(f"{label} could not be timed: {error}") from None
        self.block = lambda calls: latency.block(self.call, calls)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def zeroed(model: nn.Module, sparsity: float) -> nn.Module:
    """Zeros at random in every convolution."""
    stream = torch.Generator().manual_seed(0)
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        conv.weight.data.mul_(torch.rand(conv.weight.shape, generator=stream) >= sparsity)
    return model


def network(name: str = "n", sparsity: float = 0.0) -> nn.Module:
    """A fused YOLOv5 for three classes with the same random weights every time."""
    torch.manual_seed(0)
    return zeroed(yolov5.fused(yolov5.build(MODELS[name], 3)), sparsity)


def prefer(monkeypatch, size: int) -> None:
    """As if running all convolutions in groups of `size` filters, 1 or 4, were the faster way everywhere."""
    monkeypatch.setattr(engine.SparseNetwork, "_time_ms", lambda self, program, *_: abs(program["size"][0] - size))


def agree(model: nn.Module, imgsz: int, **options) -> engine.SparseNetwork:
    """The engine's network, once it has given what PyTorch gives for a random image."""
    fast = engine.sparsify(model, imgsz, **options)
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both = model(image), fast(image)
    for expected, given in zip(*((x if isinstance(x, list) else [x]) for x in both), strict=True):
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-4 * max(float(expected.abs().max()), 1.0))
    return fast
