"""The same network in other runtimes: exported, quantised to 8 bits, loaded, and described for other programs."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolop.files import write_atomically
from yolop.measure import latency
from yolop.network.head import STRIDES, decode_arrays
from yolop.network.yolov5 import Wired
from yolop.specs import require
from yolop.speed_specs import CALIBRATED, RUNTIMES

FILES = {"onnxruntime": ("model.onnx",), "ncnn": ("model.ncnn.param", "model.ncnn.bin")}  # what a runtime reads
FILES["sparse-int8"] = ("network.safetensors", "network.json")
FILES |= dict.fromkeys(("openvino", "openvino-bf16", "openvino-int8"), ("model.xml", "model.bin"))
DECODING = r"/model\.24/(?!m\.).*"  # names of the operations that decode boxes, which stay in float32


def export(model: nn.Module, runtime: str, imgsz: int, folder: Path, calibration: np.ndarray | None = None) -> None:
    """Write the files that `runtime` reads into `folder`.

    Input "images" (ncnn: "in0") is (1, 3, imgsz, imgsz) float32 in 0..1. Output is (1, boxes, 5 + nc) as of `head.Detect`; for
    ncnn, which knows no more than four dimensions, it is the three maps before decoding, "out0" to "out2".

    Args:
        model: as of `yolov5.fused`.
        calibration: (n, 3, imgsz, imgsz) uint8 photographs of the train split; needed for 8 bits.
    """
    require(runtime in FILES, "runtime", runtime, "one of " + ", ".join(FILES))
    given = calibration is not None and len(calibration) > 0
    require(given or runtime not in CALIBRATED, "calibration", calibration, "images of train")
    if runtime == "sparse-int8":
        from yolop.speed.engine import sparsify

        how = {"threads": 1, "strict": True, "choose": False, "precision": "int8", "calibration": calibration}
        return sparsify(model, imgsz, **how).save(folder / FILES[runtime][0])
    if runtime == "ncnn":
        return _to_ncnn(model, imgsz, folder)
    _to_onnx(model, imgsz, folder / "model.onnx")
    if runtime != "onnxruntime":
        import openvino

        network = openvino.convert_model(folder / "model.onnx")
        if runtime == "openvino-int8":
            network = _quantised(network, calibration)
        openvino.save_model(network, folder / "model.xml", compress_to_fp16=False)
        (folder / "model.onnx").unlink()


def _to_onnx(model: nn.Module, imgsz: int, path: Path) -> None:
    with warnings.catch_warnings():  # the exporter of torch.export takes ten times as long and renames all layers
        warnings.simplefilter("ignore")
        names = {"input_names": ["images"], "output_names": ["predictions"]}
        torch.onnx.export(model, (torch.zeros(1, 3, imgsz, imgsz),), path, **names, opset_version=17, dynamo=False)


def _to_ncnn(model: nn.Module, imgsz: int, folder: Path) -> None:
    import pnnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Wired(model), torch.zeros(1, 3, imgsz, imgsz), check_trace=False).save(folder / "model.pt")
    # fp16=0: weights stay float32, as everywhere else here
    command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[1,3,{imgsz},{imgsz}]f32", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode or not all((folder / name).exists() for name in FILES["ncnn"]):
        raise RuntimeError(f"pnnx could not convert the model: {done.stderr[-500:] or done.stdout[-500:]}")
    for path in [*folder.glob("model*"), *folder.glob("*.py")]:
        if path.name not in FILES["ncnn"]:
            path.unlink(missing_ok=True)  # model_ncnn.py is found twice


def _quantised(network, calibration: np.ndarray):
    """Weights and activations in 8 bits by NNCF's post-training quantisation."""
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it imports that, which warns where no GPU is
    images = [image[None].astype(np.float32) / 255 for image in calibration]
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars, which its level of logging does not silence
        return nncf.quantize(network, nncf.Dataset(images), subset_size=len(images), **how_quantised())


def how_quantised() -> dict:
    """Options of NNCF that leave the arithmetic of decoding in float32."""
    import nncf

    return {"preset": nncf.QuantizationPreset.MIXED, "ignored_scope": nncf.IgnoredScope(patterns=[DECODING], validate=False)}


def load(runtime: str, folder: Path | None, model: nn.Module, imgsz: int, threads: int) -> Callable:
    """A call (1, 3, imgsz, imgsz) float32 tensor -> predictions (1, boxes, 5 + nc), with that many threads.

    Args:
        runtime: "pytorch" (the faster of its two memory layouts), "sparse" (ours, float32), or one that reads files of `export`.
        model: as of `yolov5.fused`; what "pytorch" and "sparse" run, and what decodes for ncnn.
    """
    require(runtime in RUNTIMES, "runtime", runtime, "one of " + ", ".join(RUNTIMES))
    torch.set_num_threads(threads)
    if runtime == "pytorch":
        last = latency.baseline_layout(model, imgsz) == "channels_last"
        model = model.to(memory_format=torch.channels_last if last else torch.contiguous_format)
        return torch.inference_mode()(lambda image: model(image))
    if runtime == "sparse":
        from yolop.speed.engine import sparsify

        return sparsify(model, imgsz, threads)
    if runtime == "sparse-int8":
        from yolop.speed import engine

        return engine.load(folder / FILES[runtime][0], threads)
    loader = {"onnxruntime": _in_onnxruntime, "ncnn": _in_ncnn}.get(runtime, _in_openvino)
    return loader(folder, model, threads, runtime)


def _in_onnxruntime(folder: Path, model: nn.Module, threads: int, runtime: str) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"images": image.numpy()})[0])


def _in_openvino(folder: Path, model: nn.Module, threads: int, runtime: str) -> Callable:
    import openvino

    precision = "bf16" if runtime == "openvino-bf16" else "f32"
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    network = openvino.Core().compile_model(folder / "model.xml", "CPU", options)
    return lambda image: torch.from_numpy(network(image.numpy())[0].copy())


def _in_ncnn(folder: Path, model: nn.Module, threads: int, runtime: str) -> Callable:
    import ncnn

    net, detect = ncnn.Net(), model.model[-1]
    net.opt.num_threads, net.opt.use_vulkan_compute = threads, False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))

    def call(image: torch.Tensor) -> torch.Tensor:
        extractor = net.create_extractor()
        pixels = np.ascontiguousarray(image[0].numpy())  # has a name, as the Mat does not keep it from being freed
        extractor.input("in0", ncnn.Mat(pixels).clone())
        maps = [np.array(extractor.extract(f"out{i}")[1]) for i in range(3)]
        return torch.from_numpy(decode_arrays(detect, maps))

    return call


class OneByOne(nn.Module):
    """A call of `load` as a module that `evaluation.evaluate` can score."""

    def __init__(self, call: Callable):
        super().__init__()
        self.call, self.nothing = call, nn.Parameter(torch.zeros(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Predictions of a batch, one image at a time."""
        return torch.cat([self.call(image[None].contiguous()) for image in images])


def sizes(folder: Path) -> dict[str, float]:
    """MB (10^6 bytes) of the files in a folder, as they are and compressed (zlib, level 9)."""
    files = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".json"]
    compressed = sum(len(zlib.compress(data, 9)) for data in files)
    return {"file_mb": sum(map(len, files)) / 1e6, "compressed_mb": compressed / 1e6}


def describe(folder: Path, runtime: str, names: tuple[str, ...], imgsz: int, anchors: list) -> None:
    """Beside exported files: all that a program needs to know to feed them and to read what they give."""
    boxes = 3 * sum((imgsz // stride) ** 2 for stride in STRIDES)
    content = {
        "files": list(FILES[runtime]),
        "names": list(names),
        "input": {"shape": [1, 3, imgsz, imgsz], "type": "float32", "colours": "RGB", "range": [0, 1]},
        "preprocessing": "scale the picture to fit, keeping its shape; pad with grey 114; divide by 255; channels first",
        "output": {"shape": [1, boxes, 5 + len(names)], "columns": ["x", "y", "w", "h", "objectness", *names]},
        "postprocessing": "x, y, w, h: centre and sides in pixels of the padded picture; confidence of a class is objectness times "
        "its column; keep those above 0.25, then NMS per class at IoU 0.45; take off the padding, divide by the scale",
    }
    if runtime == "openvino-bf16":
        hint = 'compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})'
        content["precision"] = f"the files are those of float32, bfloat16 is asked for when they are loaded: {hint}"
    if runtime == "ncnn":
        content["output"] = {
            "maps": "out0, out1, out2: (3 * (5 + classes), imgsz / s, imgsz / s) at strides s = 8, 16, 32",
            "decoding": "with t the sigmoid of the values of anchor a at column i, row j: x = (2 t0 - 0.5 + i) s, "
            "y = (2 t1 - 0.5 + j) s, w = (2 t2)^2 aw, h = (2 t3)^2 ah, objectness t4, classes t5 ...",
            "anchors": anchors,
        }
    write_atomically(folder / "model.json", json.dumps(content, indent=1) + "\n")
