"""Memory and seconds against the number of images: a data set is checked, then p trains one epoch on it and is scored.

    python benchmarks/memory_by_images.py [--images 1000 5000 20000] [--kept-mb 4096 0] [--out memory.svg]

The images are small (32 x 32 px, made here once, the same in every set), nine tenths for training and one for validation.
Every run is a process of its own; its peak is the kernel's high-water mark of its resident memory (Linux only). `--kept-mb`
bounds the images that stay in memory, per split: what is beyond is read again, as in sets that are larger than memory.
"""

import argparse
import contextlib
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from yolop.data import images as pictures
from yolop.data.folder import read
from yolop.specs import MODELS, TrainSpec
from yolop.train import trainer

IMGSZ, TOGETHER, BATCH = 32, 1000, 256  # px; images in a folder; images
COLUMNS = "images,kept_mb,checks_s,checks_peak_mb,epoch_s,peak_mb"


def make(folder: Path, images: int) -> None:
    """Folders of 1,000 small images, each a bright box on noise: 900 below train/images, 100 below val/images."""
    rng = np.random.default_rng(0)
    for number in range(images):
        part, index = divmod(number, TOGETHER)
        split = "val" if index % 10 == 9 else "train"
        pixels = rng.integers(0, 160, (IMGSZ, IMGSZ, 3), np.uint8)
        x, y, w, h = rng.integers(8, 16, 4)
        pixels[y : y + h, x : x + w] = 250
        image = folder / f"{split}/images/{part}/{index}.jpg"
        label = folder / f"{split}/labels/{part}/{index}.txt"
        for file in (image, label):
            file.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        label.write_text(f"0 {(x + w / 2) / IMGSZ} {(y + h / 2) / IMGSZ} {w / IMGSZ} {h / IMGSZ}\n")


def described(folder: Path, images: int) -> Path:
    """A data.yaml of the first so many of them."""
    lines = [f"{s}: [{', '.join(f'{s}/images/{i}' for i in range(images // TOGETHER))}]" for s in ("train", "val")]
    path = folder / f"first-{images}.yaml"
    path.write_text("\n".join([*lines, "names: [box]", ""]))
    return path


def peak_mb() -> float:
    """The most memory that this process has had so far."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000


def measured(data_yaml: Path, folder: Path, images: int, kept_mb: int) -> str:
    """One line of the CSV."""
    pictures.KEPT_BYTES = kept_mb * 10**6
    began = time.perf_counter()
    data = read(data_yaml)
    checked, checks_peak = time.perf_counter(), peak_mb()
    spec = TrainSpec(MODELS["p"], "p", data.digest, data.nc, IMGSZ, epochs=1, batch=BATCH, warmup_epochs=0.1)
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train(spec, data, folder)
    seconds = checked - began, time.perf_counter() - checked
    return f"{images},{kept_mb},{seconds[0]:.1f},{checks_peak:.0f},{seconds[1]:.1f},{peak_mb():.0f}"


def draw(lines: list[str], path: Path) -> None:
    """Peak memory against images, one line for each bound."""
    from matplotlib.figure import Figure  # here, since the processes that are measured import this module

    from yolop import store
    from yolop.report import plots

    rows = np.array([line.split(",") for line in lines], float)
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    for kept in dict.fromkeys(rows[:, 1]):
        part = rows[rows[:, 1] == kept]
        label = f"up to {kept:,.0f} MB of a split's images kept" if kept else "no image kept"
        ax.plot(part[:, 0], part[:, 5], "o-", label=label)
    ax.set(xlabel="images of 32 x 32 px", ylabel="peak memory, checks and one epoch (MB)")
    ax.set_ylim(0, 1.1 * rows[:, 5].max())
    ax.legend(loc="lower right")
    store.write_atomically(path, plots.to_svg(figure))


def main(arguments: list[str]) -> None:
    """Print a line of CSV for every number of images and every bound; draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20000], help="multiples of 1,000")
    parser.add_argument("--kept-mb", type=int, nargs="+", default=[pictures.KEPT_BYTES // 10**6, 0])
    parser.add_argument("--out", type=Path, help="SVG file of the plot")
    asked = parser.parse_args(arguments)
    lines = []
    print(COLUMNS, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), max(asked.images))
        runs = [(images, kept) for kept in asked.kept_mb for images in asked.images]
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for images, kept in runs:
                task = pool.submit(measured, described(Path(folder), images), Path(folder), images, kept)
                lines.append(task.result())
                print(lines[-1], flush=True)
    if asked.out:
        draw(lines, asked.out)


if __name__ == "__main__":
    main(sys.argv[1:])
