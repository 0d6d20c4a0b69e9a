"""Does OpenVINO in 8 bits gain from NNCF's accuracy control? A trained network quantised in four ways, scored and timed.

    python benchmarks/accuracy_control.py [bccd] [--model n-coco] [--starts 3]

The ways: as we quantise (decoding of boxes left in float32) and by NNCF's defaults, each without and with
`quantize_with_accuracy_control`, which turns layers back to float32 until mAP50-95 on val has dropped by one point at most. The
study must have run here (`make study STUDY=bccd`). Each network takes turns with PyTorch; nothing else should be running.
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import nncf
import numpy as np
import openvino
import torch
from sparse_int8 import in_openvino, on_a_picture
from sparse_networks import TIMES, compare
from tabulate import tabulate

from yolop.measure.evaluation import Validation, evaluate
from yolop.network import yolov5
from yolop.network.weights import save_weights
from yolop.run.chosen import Chosen, chosen
from yolop.speed import runtimes
from yolop.speed.configurations import running
from yolop.speed_specs import Configuration
from yolop.store import host

MOST_LOST = 0.01  # mAP50-95


def mAP50_95(call, split: Validation) -> float:
    """Of an OpenVINO network."""
    scored = runtimes.OneByOne(lambda image: torch.from_numpy(call(image.numpy())[0].copy()))
    return evaluate(scored, split)["mAP50_95"]


def ways(dense: openvino.Model, own: Chosen) -> dict[str, openvino.Model]:
    """The network in 8 bits, by how it was quantised."""
    images = [image[None].astype(np.float32) / 255 for image in own.photographs()]
    data, val = nncf.Dataset(images), Validation(own.dataset, "val", own.imgsz, square=True)
    found = {}
    for name, options in (("as ours", runtimes.how_quantised()), ("NNCF's defaults", {})):
        options = options | {"subset_size": len(images)}
        found[name] = nncf.quantize(dense.clone(), data, **options)
        found[f"{name}, accuracy control"] = nncf.quantize_with_accuracy_control(
            dense.clone(), data, nncf.Dataset([images[0]]), lambda network, _: (mAP50_95(network, val), None), max_drop=MOST_LOST,
            **options,
        )  # fmt: skip
    return found


def main() -> None:
    """Print the processor and two tables: accuracy, and time against PyTorch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", nargs="?", default="bccd")
    parser.add_argument("--model", default="n-coco")
    parser.add_argument("--starts", type=int, default=TIMES.starts)
    given = parser.parse_args()
    nncf.set_log_level(logging.ERROR)
    own = chosen(given.study, [], given.model)
    splits = {name: Validation(own.dataset, name, own.imgsz, square=True) for name in ("val", "test")}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "float32").mkdir()
        runtimes.export(yolov5.fused(own.network), "openvino", own.imgsz, folder / "float32")
        dense = openvino.Core().read_model(folder / "float32" / "model.xml")
        rows, jobs = [], []
        for name, network in {"float32": dense, **ways(dense, own)}.items():
            if network is not dense:  # whose file is read as long as it is there
                (folder / name).mkdir()
                openvino.save_model(network, folder / name / "model.xml", compress_to_fp16=False)
            compiled = openvino.Core().compile_model(network, "CPU")
            quantisers = sum(op.get_type_name() == "FakeQuantize" for op in network.get_ops())
            rows.append([name, quantisers, *(f"{mAP50_95(compiled, split):.4f}" for split in splits.values())])
            jobs.append((name, (on_a_picture, own.imgsz, in_openvino, folder / name, "f32")))
        print(f"{own.text}, {own.imgsz} px, {TIMES.threads} threads on {host()['cpu']}, nncf {nncf.__version__}")
        print(tabulate(rows, ["", "quantised maps and weights", "mAP50-95 val", "test"], disable_numparse=True), flush=True)
        save_weights(own.network, folder / "weights.safetensors")
        setup = Configuration(own.network.spec, "weights", None, "pytorch", own.imgsz)
        pytorch = running, setup, own.network.nc, folder / "weights.safetensors", None, TIMES.threads
        print(compare([("PyTorch", pytorch)], [[("PyTorch again", pytorch)], jobs], replace(TIMES, starts=given.starts)))


if __name__ == "__main__":
    main()
