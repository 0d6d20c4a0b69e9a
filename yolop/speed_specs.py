"""Specs of what goes beyond the paper: networks in other runtimes, by their non-zero weights, or with fewer channels."""

from __future__ import annotations

from dataclasses import dataclass

from yolop.specs import ModelSpec, Spec, Variant, require

RUNTIMES = ("pytorch", "sparse", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8", "ncnn", "sparse-int8")
CALIBRATED = ("openvino-int8", "sparse-int8")  # their files need photographs of the train split
FORMATS = {"onnx": "onnxruntime"} | {name: name for name in RUNTIMES[3:]}  # of `export` -> runtime


@dataclass(frozen=True)
class Configuration(Variant):
    """A network in a runtime, at a size of image."""

    runtime: str = "pytorch"
    imgsz: int = 320

    def __post_init__(self):
        require(self.runtime in RUNTIMES, "runtime", self.runtime, "one of " + ", ".join(RUNTIMES))

    @property
    def text(self) -> str:
        """As of Variant, with runtime and image size."""
        return f"{super().text}, {self.runtime}, {self.imgsz} px"


@dataclass(frozen=True)
class ExportSpec(Spec):
    """The files of a configuration for its runtime, and their sizes."""

    kind, slug = "export", "{configuration.runtime}-{configuration.imgsz}px"
    configuration: Configuration
    nc: int
    data: str  # digest of the data set whose train images calibrate the 8 bits


@dataclass(frozen=True)
class ConfigurationScoresSpec(Spec):
    """Configurations scored on one split, each in its own runtime and in square frames."""

    kind, slug = "configuration-scores", "{split}"
    configurations: tuple[Configuration, ...]
    nc: int
    data: str
    split: str = "test"


@dataclass(frozen=True)
class ConfigurationTimesSpec(Spec):
    """Configurations timed against the first of them, in processes that take turns."""

    kind, slug = "configuration-times", "{label}"
    label: str
    configurations: tuple[Configuration, ...]
    nc: int
    rounds: int = 10
    calls: int = 5  # per turn
    starts: int = 3  # of all processes: where memory happens to lie differs between them
    apart: bool = True  # each in a process of its own; False: all in this one, for a quick look only
    threads: int = 2


@dataclass(frozen=True)
class ChannelTimesSpec(Spec):
    """A model with more and more of its channels removed, untrained, timed against the whole one."""

    kind, slug = "narrowing-times", "{imgsz}px"  # ids keep the first version's word for removing channels
    model: ModelSpec
    nc: int
    imgsz: int
    removed: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    rounds: int = 30
    calls: int = 5
    threads: int = 2


@dataclass(frozen=True)
class AtlasSpec(Spec):
    """Every different convolution of some models at many sparsities: the engine against the dense one."""

    kind, slug = "atlas", "{imgsz}px"
    models: tuple[tuple[str, ModelSpec], ...]
    nc: int
    imgsz: int
    sparsities: tuple[float, ...]
    rounds: int = 15
    calls: int = 10  # of a layer in one run of the engine, whose start is no part of a layer's time
    threads: int = 2
    silu: bool = True  # after each convolution, as in the networks


@dataclass(frozen=True)
class SparseTensorSpec(Spec):
    """What PyTorch's own sparse tensors do for the convolutions of a model: which run, and how fast."""

    kind, slug = "sparse-tensors", "{imgsz}px"
    model: ModelSpec
    imgsz: int
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    rounds: int = 50
    calls: int = 2
    threads: int = 2
