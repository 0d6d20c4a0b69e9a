"""One point of a pruning sweep (prune, fuse, evaluate) against ultralytics' `val` on the same images.

    python benchmarks/sweep_point.py [rounds]

Ours: the anchor-based n, pruned anew for every point, images held in memory; with the weights of the digits study, if it has been
computed here. Theirs: yolov5n (anchor-free) after a short training of its own, its validator with its defaults on the CPU. So
both have detections to sort out, as in a sweep. Calls alternate. Nothing else should be running.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from yolop import files
from yolop.data import digits
from yolop.measure import pruning
from yolop.measure.evaluation import Validation, evaluate
from yolop.network import weights, yolov5
from yolop.specs import MODELS, DigitsSpec, PruneSpec

IMGSZ, IMAGES = 256, 150


def main(rounds: int) -> None:
    """Print seconds per point of both, and the ratio round by round."""
    from ultralytics import YOLO

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spec = DigitsSpec(imgsz=IMGSZ, train=320, val=IMAGES, test=16, size_px=(40, 100))
        data = digits.generate(spec, folder / "digits")
        model, validation = yolov5.build(MODELS["n"], data.nc), Validation(data, "val", IMGSZ)
        trained = sorted(files.ROOT.glob("data/runs/train-n-e20-*/weights.safetensors"))
        if trained:
            weights.load_weights(model, trained[0])
        print("ours: " + ("weights of the digits study" if trained else "random weights"))
        theirs = YOLO("yolov5n.yaml")
        settings = {
            "data": str(data.root / "data.yaml"),
            "imgsz": IMGSZ,
            "device": "cpu",
            "plots": False,
            "verbose": False,
        }
        settings |= {"project": str(folder), "exist_ok": True}
        theirs.train(epochs=2, **settings)
        ratios = []
        for number in range(rounds):
            torch.set_num_threads(threads)
            began = time.perf_counter()
            evaluate(yolov5.fused(pruning.prune(model, PruneSpec(conv=0.3, c3=0.3, sppf=0.3))), validation)
            ours_s = time.perf_counter() - began
            began = time.perf_counter()
            theirs.val(**settings)
            theirs_s = time.perf_counter() - began
            if number:  # the first call of each reads and compiles
                ratios.append(theirs_s / ours_s)
                print(f"round {number}: ours {ours_s:.2f} s, ultralytics {theirs_s:.2f} s", flush=True)
    print(f"a point is {statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main((int(sys.argv[1]) if len(sys.argv) > 1 else 5) + 1)
