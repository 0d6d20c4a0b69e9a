"""Whole n in 8 bits against PyTorch and against other runtimes at their best, each alone in a process that takes turns.

    python benchmarks/sparse_int8.py [--starts 5] [--imgsz 320] [--pytorch-imgsz 320] [--rounds 10]

Ratios are to the fused float32 model in PyTorch, in the faster of its two memory layouts, and to OpenVINO in 8 bits; all three
processes take turns. The others: torch.compile (with freezing), ONNX Runtime in 8 bits, OpenVINO in float32, bfloat16 and 8 bits
(latency hint, threads pinned; 8 bits as we quantise and by NNCF's defaults), and our engine in 8 bits without zeros, with zeros in
blocks of four input channels, and with single zeros. Two threads, batch 1, random weights, stem and Detect included. "Again" is an
A/A control. What is quantised and compiled is so once, and kept on disk for all starts; the first start compiles for torch.compile.
The interval is a bootstrap over starts and rounds. Nothing else should be running.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sparse_networks import TIMES, asked, compare, job
from torch import nn

from yolop.network import yolov5
from yolop.specs import MODELS
from yolop.speed import engine, runtimes
from yolop.speed.in_turns import Job, Named
from yolop.speed.quantised import FEWEST
from yolop.store import host

ZEROS = ((0.0, 1), (0.5, 4), (0.7, 4), (0.8, 4), (0.9, 4), (0.95, 4), (0.8, 1), (0.9, 1))  # share, channels in a block
PACKAGES = ("torch", "openvino", "nncf", "onnxruntime", "numba", "llvmlite")
OPENVINO = {  # what it reads and in which precision it computes what is not in 8 bits: "" is its own choice
    "OpenVINO float32": ("openvino", "f32"),
    "OpenVINO bfloat16": ("openvino", "bf16"),
    "OpenVINO int8": ("openvino-int8", ""),
    "OpenVINO int8, NNCF's defaults": ("defaults", ""),
}


def network(share: float = 0.0, block: int = 1) -> nn.Module:
    """The fused n with random weights and zeros in blocks of input channels (single ones where these do not fit)."""
    torch.manual_seed(0)
    model, stream = yolov5.fused(yolov5.build(MODELS["n"], TIMES.nc)), torch.Generator().manual_seed(0)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        filters, channels, *kernel = conv.weight.shape
        own = block if channels % block == 0 else 1
        kept = torch.rand(filters, channels // own, 1, *kernel, generator=stream) >= share
        conv.weight.data.mul_(kept.expand(-1, -1, own, -1, -1).reshape(conv.weight.shape))
    return model


def prepare(folder: Path, imgsz: int) -> None:
    """Write the files of all networks and runtimes, a folder each."""
    # random pictures: time does not depend on them
    photographs = np.random.default_rng(0).integers(0, 256, (FEWEST, 3, imgsz, imgsz), np.uint8)
    models = dict.fromkeys(("onnxruntime", "openvino", "openvino-int8"), network())
    models |= {f"sparse-int8 {share} {block}": network(share, block) for share, block in ZEROS}
    for name, model in models.items():
        (folder / name).mkdir()
        runtimes.export(model, name.split()[0], imgsz, folder / name, photographs)
    images = [image[None].astype(np.float32) / 255 for image in photographs]
    _with_nncfs_defaults(folder, images)
    _in_8_bits_for_onnxruntime(folder / "onnxruntime", images)


def _with_nncfs_defaults(folder: Path, images: list[np.ndarray]) -> None:
    import nncf
    import openvino

    dense = openvino.Core().read_model(folder / "openvino" / "model.xml")
    openvino.save_model(nncf.quantize(dense, nncf.Dataset(images)), folder / "defaults" / "model.xml")


def _in_8_bits_for_onnxruntime(folder: Path, images: list[np.ndarray]) -> None:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        rest = iter(images)

        def get_next(self):
            image = next(self.rest, None)
            return None if image is None else {"images": image}

    quantization.quantize_static(folder / "model.onnx", folder / "int8.onnx", Reader(), per_channel=True)
    (folder / "int8.onnx").replace(folder / "model.onnx")


def on_a_picture(imgsz: int, load: Callable, *arguments) -> Callable[[], object]:
    """A call without arguments of what `load` gives, on one fixed random picture."""
    image, call = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0)), load(*arguments)
    return lambda: call(image)


def compiled() -> Callable:
    """By torch.compile."""
    import torch._inductor.config as inductor

    torch.set_num_threads(TIMES.threads)
    inductor.freezing = True
    return torch.inference_mode()(torch.compile(network().to(memory_format=torch.channels_last)))


def in_openvino(folder: Path, precision: str) -> Callable:
    """By OpenVINO with its best settings for one picture a call."""
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": TIMES.threads}
    options |= {"ENABLE_CPU_PINNING": True} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
    network = openvino.Core().compile_model(folder / "model.xml", "CPU", options)
    return lambda image: network(image.numpy())[0].copy()


def _openvino(folder: Path, imgsz: int, where: str, precision: str) -> Job:
    return on_a_picture, imgsz, in_openvino, folder / where, precision


def _ours(folder: Path, imgsz: int, share: float, block: int) -> Named:
    file = folder / f"sparse-int8 {share} {block}" / runtimes.FILES["sparse-int8"][0]
    label = f"ours, {share:.0%} zeros" + (", in blocks" if block > 1 else "")
    return label, (on_a_picture, imgsz, engine.load, file, TIMES.threads)


def contenders(folder: Path, imgsz: int, *again: Named) -> list[list[Named]]:
    """All that is timed, in groups of one process each; the baselines once more."""
    onnx = on_a_picture, imgsz, runtimes.load, "onnxruntime", folder / "onnxruntime", None, imgsz, TIMES.threads
    alone = [("torch.compile", (on_a_picture, imgsz, compiled)), ("ONNX Runtime int8", onnx)]
    alone = [*((f"{name}, again", own) for name, own in again), *alone]
    known = {name for name, _ in again}
    theirs = [(name, _openvino(folder, imgsz, *how)) for name, how in OPENVINO.items() if name not in known]
    return [*([item] for item in alone), theirs, [_ours(folder, imgsz, *zeros) for zeros in ZEROS]]


def main() -> None:
    """Print the processor, versions, and a table."""
    spec, imgsz, dense_imgsz = asked(starts=5)
    logging.disable(logging.WARNING)  # ONNX Runtime's quantisation has much to say
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        prepare(folder, imgsz)
        best = "OpenVINO int8"
        baselines = [("PyTorch", job("n", dense_imgsz, "pytorch")), (best, _openvino(folder, imgsz, *OPENVINO[best]))]
        table = compare(baselines, contenders(folder, imgsz, *baselines), spec)
    print(f"n, {imgsz} px, PyTorch {dense_imgsz} px, {spec.starts} starts, {spec.threads} threads on {host()['cpu']}")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    print(table)


if __name__ == "__main__":
    main()
