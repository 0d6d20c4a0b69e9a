"""One point of a pruning sweep (prune, fuse, evaluate) against ultralytics' own validator, with the same network and images.

    python benchmarks/sweep_point.py [rounds]

The network is our n with the weights of the digits study, if it has been computed here, and 30 % of each module zero: it sees
something nearly everywhere, as in a sweep. Images are held in memory by us, read again by ultralytics. Calls alternate. Nothing
else should be running.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from yolop.data import digits
from yolop.files import StoreError
from yolop.measure import pruning
from yolop.measure.evaluation import Validation, evaluate, with_confidences
from yolop.network import yolov5
from yolop.run.chosen import chosen
from yolop.specs import MODELS, DigitsSpec, PruneSpec

IMGSZ, IMAGES = 256, 150


class Theirs(nn.Module):
    """Our fused network with the output of ultralytics' heads, so that its validator takes it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.stride, self.names = network, network.stride, network.names

    def fuse(self, verbose: bool = False) -> nn.Module:
        """Itself: it is fused."""
        return self

    def forward(self, images: torch.Tensor, **_) -> torch.Tensor:
        return with_confidences(self.network(images))


def main(rounds: int) -> None:
    """Print seconds per point and mAP50 of both, and the ratio round by round."""
    from ultralytics.models.yolo.detect import DetectionValidator

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spec = DigitsSpec(imgsz=IMGSZ, train=16, val=IMAGES, test=16, size_px=(40, 100))
        data = digits.generate(spec, folder / "digits")
        validation = Validation(data, "val", IMGSZ)
        try:
            model = chosen("digits", [], "n").network
            print("weights of the digits study")
        except StoreError:
            model = yolov5.build(MODELS["n"], data.nc)
            print("random weights")
        settings = {"data": str(next(data.root.glob("*.yaml"))), "imgsz": IMGSZ, "device": "cpu", "mode": "val", "iou": 0.6}
        settings |= {"plots": False, "verbose": False, "project": str(folder), "exist_ok": True}
        ratios = []
        for number in range(rounds):
            torch.set_num_threads(threads)
            began = time.perf_counter()
            network = yolov5.fused(pruning.prune(model, PruneSpec(conv=0.3, c3=0.3, sppf=0.3)))
            ours, ours_s = evaluate(network, validation), time.perf_counter() - began
            began, validator = time.perf_counter(), DetectionValidator(args=settings)
            validator(model=Theirs(network))
            theirs, theirs_s = validator.metrics.box.map50, time.perf_counter() - began
            if number:  # the first call of each reads and compiles
                ratios.append(theirs_s / ours_s)
                print(f"ours {ours_s:.2f} s (mAP50 {ours['mAP50']:.4f}), ultralytics {theirs_s:.2f} s ({theirs:.4f})", flush=True)
    print(f"a point is {statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main((int(sys.argv[1]) if len(sys.argv) > 1 else 5) + 1)
