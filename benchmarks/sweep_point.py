"""One point of a pruning sweep (prune, fuse, evaluate) against ultralytics' `val` on the same images.

    python benchmarks/sweep_point.py [rounds]

Ours: the anchor-based n, pruned anew for every point, images held in memory. Theirs: yolov5n (anchor-free), its validator with its
defaults on the CPU. Both have random weights with the class scores raised, so that both have detections to sort out.
Calls alternate. Nothing else should be running.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from yolop import datasets, models, pruning
from yolop.evaluation import Validation, evaluate
from yolop.specs import MODELS, DigitsSpec, PruneSpec

IMGSZ, IMAGES = 256, 150


def main(rounds: int) -> None:
    """Print seconds per point of both, and the ratio round by round."""
    from ultralytics import YOLO

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spec = DigitsSpec(imgsz=IMGSZ, train=16, val=IMAGES, test=16, size_px=(40, 100))
        data = datasets.generate(spec, folder / "digits")
        model, validation = models.build(MODELS["n"], data.nc), Validation(data, "val", IMGSZ)
        with torch.no_grad():
            for conv in model.model[-1].m:
                conv.bias.view(3, -1)[:, 4:] += 3.0
        theirs = YOLO("yolov5n.yaml")
        with torch.no_grad():
            for branch in theirs.model.model[-1].cv3:
                branch[-1].bias += 3.0
        ratios = []
        for number in range(rounds):
            torch.set_num_threads(threads)
            began = time.perf_counter()
            evaluate(models.fused(pruning.prune(model, PruneSpec(conv=0.3, c3=0.3, sppf=0.3))), validation)
            ours_s = time.perf_counter() - began
            began = time.perf_counter()
            theirs.val(data=str(data.root / "data.yaml"), imgsz=IMGSZ, device="cpu", plots=False, verbose=False,
                       project=str(folder), exist_ok=True)  # fmt: skip
            theirs_s = time.perf_counter() - began
            if number:  # the first call of each reads and compiles
                ratios.append(theirs_s / ours_s)
                print(f"round {number}: ours {ours_s:.2f} s, ultralytics {theirs_s:.2f} s", flush=True)
    print(f"a point is {statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main((int(sys.argv[1]) if len(sys.argv) > 1 else 5) + 1)
