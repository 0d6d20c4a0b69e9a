"""Whole n in 8 bits against PyTorch and against other runtimes at their best, each alone in a process that takes turns.

    python benchmarks/sparse_int8.py [starts] [imgsz]

Baseline: the fused float32 model in PyTorch, the faster of its two memory layouts. The others: torch.compile (with freezing),
ONNX Runtime and OpenVINO in 8 bits (static quantisation of the same photographs; OpenVINO with the latency hint and its threads
pinned), and our engine in 8 bits without zeros, with zeros in blocks of four input channels, and with single zeros. Two threads,
batch 1, random weights; "PyTorch again" is the A/A control. The interval is a bootstrap over starts and rounds.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolop.measure import latency
from yolop.network import yolov5
from yolop.specs import MODELS
from yolop.speed import in_turns, runtimes
from yolop.speed.engine import sparsify
from yolop.speed_specs import ConfigurationTimesSpec

TIMES = ConfigurationTimesSpec("8 bits", (), nc=3)
ZEROS = ((0.0, 1), (0.7, 4), (0.8, 4), (0.9, 4), (0.9, 1))  # share, input channels in a block


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


def photographs(imgsz: int) -> np.ndarray:
    """Random pictures to calibrate with: time does not depend on them."""
    return np.random.default_rng(0).integers(0, 256, (16, 3, imgsz, imgsz), np.uint8)


def make(which: str, imgsz: int, share: float = 0.0, block: int = 1):
    """A call without arguments that runs one of them on one fixed random image."""
    threads, model = TIMES.threads, network(share, block)
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if which == "ours":
            call = sparsify(model, imgsz, threads, strict=True, precision="int8", calibration=photographs(imgsz))
        elif which == "torch.compile":
            call = _compiled(model, threads)
        elif which == "onnxruntime-int8":
            call = _in_onnxruntime(model, imgsz, folder, threads)
        elif which == "openvino-int8":
            call = _in_openvino(model, imgsz, folder, threads)
        else:
            call = runtimes.load("pytorch", None, model, imgsz, threads)
    return lambda: call(image)


def _compiled(model: nn.Module, threads: int):
    import torch._inductor.config as inductor

    torch.set_num_threads(threads)
    inductor.freezing = True
    return torch.inference_mode()(torch.compile(model.to(memory_format=torch.channels_last)))


def _in_onnxruntime(model: nn.Module, imgsz: int, folder: Path, threads: int):
    import onnxruntime
    from onnxruntime import quantization

    runtimes.export(model, "onnxruntime", imgsz, folder)

    class Reader(quantization.CalibrationDataReader):
        rest = iter(photographs(imgsz))

        def get_next(self):
            image = next(self.rest, None)
            return None if image is None else {"images": image[None].astype(np.float32) / 255}

    quantization.quantize_static(folder / "model.onnx", folder / "int8.onnx", Reader(), per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image.numpy()})[0]


def _in_openvino(model: nn.Module, imgsz: int, folder: Path, threads: int):
    import openvino

    runtimes.export(model, "openvino-int8", imgsz, folder, photographs(imgsz))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": True,
        "NUM_STREAMS": 1,
    }
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", options)
    return lambda image: compiled(image.numpy())[0].copy()


def main(starts: int, imgsz: int) -> None:
    """Print a line for each: speed-up over PyTorch, 95 % interval, slowest and fastest start, milliseconds."""
    jobs = {"PyTorch again": (make, "pytorch", imgsz)}
    jobs |= {name: (make, name, imgsz) for name in ("torch.compile", "onnxruntime-int8", "openvino-int8")}
    for share, block in ZEROS:
        jobs[f"ours, {share:.0%} zeros" + (", blocks" if block > 1 else "")] = (make, "ours", imgsz, share, block)
    parts = {label: [] for label in jobs}
    for start in range(starts):
        baseline = ("PyTorch", jobs["PyTorch again"])
        for label, job in jobs.items():
            parts[label] += in_turns.apart(baseline, [[(label, job)]], TIMES, start)
            print(".", end="", flush=True)
    print(f"\nn, {imgsz} px, {starts} starts")
    for label, times in parts.items():
        row = latency.pooled(times, "baseline")[1]
        each = [np.median(np.median(t["baseline"], axis=1) / np.median(t["other"], axis=1)) for t in times]
        interval = f"({1 / row['ratio_high']:.2f} to {1 / row['ratio_low']:.2f})"
        extremes = f"slowest {min(each):.2f}, fastest {max(each):.2f}"
        print(
            f"  {label:<24} {1 / row['ratio']:5.2f}x {interval}   {extremes}   {row['latency_ms']:.2f} ms", flush=True
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, int(sys.argv[2]) if len(sys.argv) > 2 else 320)
