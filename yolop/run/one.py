"""One network timed in every runtime of this machine, or pruned and handed back."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch
from tabulate import tabulate

from yolop import idle
from yolop.measure import latency, pruning
from yolop.network import original, yolov5
from yolop.network.channels import remove_channels
from yolop.network.weights import load_network, save_weights
from yolop.report.scores import Ratio, Score, control_doubt
from yolop.run.chosen import Chosen, chosen
from yolop.run.export import new_folder
from yolop.specs import METHODS, PruneSpec, require
from yolop.speed import in_turns, runtimes
from yolop.speed.configurations import running
from yolop.speed.engine import CORES
from yolop.speed_specs import CALIBRATED, RUNTIMES, Configuration
from yolop.store import host
from yolop.study.names import RUNTIME_NAMES

STARTS, ROUNDS, CALLS = 3, 10, 5  # of all processes, turns in each of them, calls in a turn
PATIENCE_S = 270  # after which no further start begins
FIRST = ("pytorch", "sparse", "onnxruntime")  # whose table is printed as soon as it is there
NEEDS = {"sparse": ("numba",), "sparse-int8": ("numba",), "onnxruntime": ("onnx", "onnxruntime"), "ncnn": ("ncnn", "pnnx")}
NEEDS |= dict.fromkeys(("openvino", "openvino-bf16"), ("onnx", "openvino")) | {"openvino-int8": ("onnx", "openvino", "nncf")}
CHANNELS = "channels"  # the one way to prune that makes a smaller dense network


class Timed:
    """A network in one runtime: its files, times, and what its output differs by; `reason` says why there is none."""

    def __init__(self, own: Chosen, runtime: str, folder: Path, threads: int):
        self.own, self.runtime, self.threads, self.parts = own, runtime, threads, []
        self.setup = Configuration(own.network.spec, "", None, runtime, own.imgsz)
        self.weights = folder / "weights.safetensors"
        needs_files = runtime not in ("pytorch", "sparse")
        self.files = folder / runtime.replace("-bf16", "") if needs_files else None  # bfloat16 is a hint, not a file
        self.file_mb, self.difference, self.score, self.reason = None, None, None, ""

    @property
    def job(self) -> in_turns.Named:
        """What a process of its own is made from."""
        arguments = (self.setup, self.own.network.nc, self.weights, self.files, self.threads)
        return RUNTIME_NAMES[self.runtime], (running, *arguments)

    def attempt(self, step, *arguments) -> None:
        """Do one step; an error of a runtime ends it, not the others."""
        if not self.reason:
            try:
                step(*arguments)
            except Exception as error:  # runtimes raise nearly anything
                self.reason = " ".join(str(error).split())[:200] or type(error).__name__

    def prepare(self, network, image: torch.Tensor, expected: torch.Tensor) -> None:
        """Write its files, and compare its output with PyTorch's."""
        missing = [package for package in NEEDS.get(self.runtime, ()) if find_spec(package) is None]
        if missing:
            raise RuntimeError(f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}")
        if self.runtime == "openvino-bf16":
            import openvino

            if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise RuntimeError("this processor does not compute in bfloat16")
        if self.files:
            if not self.files.exists():
                self.files.mkdir()
                calibration = self.own.photographs() if self.runtime in CALIBRATED else None
                runtimes.export(network, self.runtime, self.own.imgsz, self.files, calibration)
            self.file_mb = runtimes.sizes(self.files)["file_mb"]
        difference = (self.call(network)(image) - expected).abs()[0]
        self.difference = [float(difference[:, part].max()) for part in (slice(4, None), slice(4))]

    def call(self, network):
        """Its call in this process."""
        return runtimes.load(self.runtime, self.files, network, self.own.imgsz, self.threads)

    def time(self, baseline: in_turns.Worker, start: int) -> None:
        """One start of its process, which takes turns with PyTorch's."""
        with in_turns.Worker(*self.job) as other:
            self.parts.append(in_turns.paired({"baseline": baseline, "other": other}, ROUNDS, CALLS, start))

    def evaluate(self, network) -> None:
        """Its mAP on the data set, in square frames as its fixed input asks for."""
        self.score = self.own.score(runtimes.OneByOne(self.call(network)), square=True)

    def row(self) -> list:
        """Its line of the table."""
        name = RUNTIME_NAMES[self.runtime]
        if self.reason or not self.parts:
            return [name, None, self.reason]
        timed = latency.pooled(self.parts, "baseline")[1]
        times = [f"{timed['latency_ms']:.2f}", str(Ratio.of(timed))]
        size = "" if self.file_mb is None else f"{self.file_mb:.1f}"
        return [name, *times, *(f"{difference:.2g}" for difference in self.difference), size, _mAP(self.score)]


def time(threads: int | None, *which) -> None:
    """Print how long one image takes in each runtime that this machine has, against PyTorch, and what outputs differ by.

    Args:
        threads: of each runtime; None: one for each core.
        which: as of `chosen.chosen`. With a data set also mAP.
    """
    require(threads is None or 1 <= threads <= len(CORES), "threads", threads, f"1 to {len(CORES)}, the cores of this machine")
    own, threads = chosen(*which), threads or len(CORES)
    print(f"{own.text}, {own.imgsz} px, {threads} threads on {host()['cpu']}")
    print("One picture a call: network and decoding, without NMS. Each runtime takes turns with PyTorch.", flush=True)
    if (busy := idle.busy_cores()) > idle.MOST_BUSY:
        print(f"Other programs keep {busy:.1f} cores busy: times are longer, intervals wider than on an idle machine.", flush=True)
    network, image = yolov5.fused(own.network), own.picture()
    with torch.inference_mode():
        expected = network(image)
    with TemporaryDirectory() as folder:
        save_weights(own.network, Path(folder, "weights.safetensors"))
        timed = [Timed(own, runtime, Path(folder), threads) for runtime in RUNTIMES]
        began, last, done = monotonic(), 0.0, 0
        while done < STARTS and monotonic() - began + last < PATIENCE_S:
            last, start = monotonic(), done
            with in_turns.Worker(*timed[0].job) as baseline:
                for item in timed:
                    if not start:
                        item.attempt(item.prepare, network, image, expected)
                    item.attempt(item.time, baseline, start)
                    if not start and item.runtime == FIRST[-1]:
                        _show(timed[: len(FIRST)], "from one start of each process; the rest is being measured")
            last, done = monotonic() - last, done + 1
        _show(timed, f"from {done} start{'s' * (done > 1)} of each process")
        if own.dataset:
            for item in timed:
                item.attempt(item.evaluate, network)
            images = f"{len(own.dataset.splits['test'].images)} test images of {own.dataset.name}, in squares"
            _show(timed, f"mAP50 with its 95 % interval on {images}")


def _show(timed: list[Timed], what: str) -> None:
    heads = ["runtime", "ms", "over PyTorch (95 %)", "differs: scores", "boxes, px", "MB", "mAP50"]
    rows = [item.row() for item in timed]
    rows[0][0] += " (again: A/A control)"
    used = len(heads) if any(item.score for item in timed) else len(heads) - 1
    doubt = control_doubt(latency.pooled(timed[0].parts, "baseline")[1]) if timed[0].parts else ""
    print(f"\n{what}:\n{tabulate([row[:used] for row in rows], heads[:used], disable_numparse=True)}", flush=True)
    if doubt:
        print(f"{doubt}: smaller differences than that mean nothing", flush=True)


def _mAP(score: Score | None) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(score.mAP50, *score.interval()) if score else ""


def prune(ratio: float, method: str, out: str, *which) -> None:
    """Prune a network and write it as safetensors and for the original YOLOv5; with a data set, mAP before and after.

    Args:
        ratio: share of the weights (filters, channels) of each convolution but Detect's.
        method: one of specs.METHODS, or "channels".
        out: a folder that is new or empty.
        which: as of `chosen.chosen`.
    """
    known = (*METHODS, CHANNELS)
    require(method in known, "method", method, "one of " + ", ".join(known))
    require(0 < ratio < 1, "ratio", ratio, "a share above 0 and below 1 (30 % is 0.3)")
    folder, own = new_folder(out), chosen(*which)
    whole = own.network
    unfused = any(name.endswith("bn.weight") for name in whole.state_dict())
    require(unfused, "network", "fused", "a file from before fuse(): folded batch norm changes which weights are the smallest")
    if method == CHANNELS:
        pruned = remove_channels(whole, ratio)
        before, after = (sum(p.numel() for p in network.parameters()) for network in (whole, pruned))
        print(f"{own.text}: {before:,} parameters, {after:,} left ({after / before:.1%})")
    else:
        pruned = pruning.prune(whole, PruneSpec(method, ratio, ratio, ratio))
        achieved = pruning.achieved(pruned)
        print(f"{own.text}: sparsity {achieved['sparsity']:.1%} of all parameters, {achieved['weight_sparsity']:.1%} of weights")
    if own.dataset:
        before, after = (own.score(yolov5.fused(network)) for network in (whole, pruned))
        images = f"{len(own.dataset.splits['test'].images)} test images of {own.dataset.name}, {own.imgsz} px"
        difference = after - before
        doubt = f"; undecided: {difference.doubt}" if difference.doubt else ""
        print(f"mAP50 on {images}: {_mAP(before)} before, {_mAP(after)} after: {difference} points{doubt}")
        print(f"mAP50-95: {before.mAP50_95:.3f} before, {after.mAP50_95:.3f} after; nothing was trained again")
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(pruned, folder / "pruned.safetensors", own.names)
    print(f"{folder / 'pruned.safetensors'}: for python -m yolop time, export and prune")
    if own.source and own.source.suffix != ".safetensors" and method != CHANNELS:
        original.with_zeros(own.source, pruned, folder / "pruned.pt")
        print(f"{folder / 'pruned.pt'}: {own.source.name} with these zeros, else unchanged: YOLOv5 takes it wherever it takes that")
    else:
        pruned, _ = load_network(folder / "pruned.safetensors")  # says whether some width gives its shapes
        original.as_state_dict(pruned, folder / "pruned.pt")
        how = "Model('pruned.yaml').load_state_dict(torch.load('pruned.pt')) with YOLOv5's models.yolo.Model"
        no_way = "YOLOv5's own code cannot build it: no configuration says the widths of a network whose channels were removed"
        print(f"{folder / 'pruned.pt'}: a state dict; {no_way if hasattr(pruned, 'own_widths') else how}")
