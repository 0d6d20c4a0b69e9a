"""Training throughput of n at 256 px, batch 16: ours, ultralytics' own trainer, and the bare forward + backward.

    python benchmarks/training_throughput.py [rounds]

Epochs of the trainers alternate, on the same generated images; the first epoch of each run (reading, warm-up) is left out,
validation is not in it. ultralytics runs its yolov5n (anchor-free) with its defaults on the CPU; ours runs the anchor-based n
as the study does, and once more with mosaic, ultralytics' most expensive default. Nothing else should be running.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from yolop.data import digits
from yolop.network import yolov5
from yolop.specs import MODELS, DigitsSpec, TrainSpec
from yolop.train import trainer

IMGSZ, IMAGES, BATCH = 256, 320, 16


def timed_epochs(trainer) -> float:
    """Images per second of the last epoch of a run of two."""
    begun, seconds = [], []
    trainer.add_callback("on_train_epoch_start", lambda _: begun.append(time.perf_counter()))
    trainer.add_callback("on_train_epoch_end", lambda _: seconds.append(time.perf_counter() - begun[-1]))
    trainer.train()
    return IMAGES / seconds[-1]


def ours(data, folder: Path, mosaic: float) -> float:
    """Our trainer, as the study uses it."""
    spec = TrainSpec(MODELS["n"], "n", data.digest, data.nc, IMGSZ, 2, mosaic=mosaic, val_every=1000)
    model = trainer.initial_model(spec, data, None)
    return timed_epochs(trainer.Trainer(spec, model, data, folder, torch.get_num_threads()))


def theirs(data, folder: Path) -> float:
    """ultralytics' trainer with its defaults; only what it needs to run offline and quietly is set."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    settings = {"model": "yolov5n.yaml", "data": str(data.root / "data.yaml"), "imgsz": IMGSZ, "batch": BATCH}
    settings |= {
        "epochs": 2,
        "device": "cpu",
        "project": str(folder),
        "plots": False,
        "verbose": False,
        "exist_ok": True,
    }
    return timed_epochs(DetectionTrainer(overrides=settings))


def bare() -> float:
    """Forward, loss and backward on one batch in memory: what no trainer can be faster than."""
    model = yolov5.build(MODELS["n"], 3).train().to(memory_format=torch.channels_last)
    model.bfloat16 = True
    image = torch.rand(BATCH, 3, IMGSZ, IMGSZ).contiguous(memory_format=torch.channels_last)
    boxes = torch.rand(3 * BATCH, 4) * 0.2 + 0.3
    batch = {
        "img": image,
        "batch_idx": torch.arange(3 * BATCH) % BATCH,
        "cls": torch.zeros(3 * BATCH, 1),
        "bboxes": boxes,
    }
    seconds = []
    for _ in range(12):
        began = time.perf_counter()
        model(batch)[0].backward()
        seconds.append(time.perf_counter() - began)
    return BATCH / statistics.median(seconds[2:])


def main(rounds: int) -> None:
    """Print images per second of each, and the ratios round by round."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = digits.generate(
            DigitsSpec(imgsz=IMGSZ, train=IMAGES, val=32, test=16, size_px=(40, 100)), folder / "digits"
        )
        rows = []
        for number in range(rounds):
            torch.set_num_threads(threads)  # ultralytics leaves one fewer behind
            row = {"bare": bare(), "ours": ours(data, folder, 0.0), "ours, mosaic": ours(data, folder, 1.0)}
            row["ultralytics"] = theirs(data, folder)
            rows.append(row)
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {value:.1f} images/s" for name, value in row.items()),
                flush=True,
            )
    for name in ("ours", "ours, mosaic"):
        ratios = [row[name] / row["ultralytics"] for row in rows]
        print(f"{name}: {np.median(ratios):.2f} times ultralytics ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"ours reaches {np.median([row['ours'] / row['bare'] for row in rows]):.0%} of the bare forward + backward")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
