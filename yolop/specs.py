"""Frozen descriptions of work, and the identity of a run.

A spec says what to do; its run id is a readable part and eight hex digits over everything in it. What can change a
number is in a spec (data digest, parent runs, seed, image size ...). What cannot is not (device, folders, verbosity).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

SCHEMA = 2  # raise it when code changes a number that a spec does not show: every id changes, nothing stale is reused

METHODS = ("l1-unstructured", "l1-structured", "l1-global", "random-unstructured", "random-structured")
READINGS = ("own", "any-conv")
RUNTIMES = ("pytorch", "sparse", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8", "ncnn")
FORMATS = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "openvino-int8": "openvino-int8",
    "ncnn": "ncnn",
}  # -> runtime
ALLOCATIONS = ("global", "layer", "random")
DATASETS = ("digits", "bccd", "coco128")  # by name; any other by the path of its data.yaml
PRETRAININGS = ("corpus", "coco")


class SpecError(ValueError):
    """A value that a study cannot work with; the message names it, the allowed range and the way out."""


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(spec: Any) -> str:
    """`<kind>-<readable part>-<8 hex of SHA-256>` of a spec; equal specs have equal ids on every machine."""
    return f"{spec.kind}-{spec.slug}-{content_hash(spec.kind, asdict(spec))}"


def content_hash(kind: str, spec: dict) -> str:
    """The end of a run id: 8 hex digits over everything that a spec says."""
    text = canonical({"schema": SCHEMA, "kind": kind, "spec": spec})
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raise SpecError naming field, value and allowed range unless the condition holds."""
    if not condition:
        try:
            shown = repr(value)
        except ValueError:  # Python writes no number of more than 4,300 digits
            shown = "a number of thousands of digits"
        raise SpecError(f"{printable(name)} = {printable(shown, 1000)} is not possible: use {allowed}")


def printable(text: Any, most: int = 300) -> str:
    """What a stranger's file says, as one line that moves no cursor and draws no colour: escaped, and cut where long."""
    text = str(text)
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return line + " ..." * (len(text) > most)


def scaled_width(channels: int, width: float) -> int:
    """Channels after scaling: rounded *up* to a multiple of 8."""
    return math.ceil(channels * width / 8) * 8


def scaled_depth(repeats: int, depth: float) -> int:
    """Bottlenecks after scaling: rounded to nearest, at least 1; single modules stay single."""
    return max(round(repeats * depth), 1) if repeats > 1 else repeats


@dataclass(frozen=True)
class ModelSpec:
    """A YOLOv5 v6 by its two numbers. `depth` repeats the bottlenecks of C3, `width` scales every channel count."""

    depth: float
    width: float
    head: str = "anchor"  # "anchor": the v6 head of the paper; "anchor-free": ultralytics' YOLOv5u

    def __post_init__(self):
        require(0 < self.depth <= 2, "depth", self.depth, "a depth_multiple in (0, 2], e.g. 0.33")
        require(0 < self.width <= 2, "width", self.width, "a width_multiple in (0, 2], e.g. 0.25")
        require(self.head in ("anchor", "anchor-free"), "head", self.head, '"anchor" or "anchor-free"')


# n to x as in the original's YAML files; p is ours, because the paper does not print its two numbers (notebook 02).
MODELS = {
    "x": ModelSpec(1.33, 1.25),
    "l": ModelSpec(1.0, 1.0),
    "m": ModelSpec(0.67, 0.75),
    "s": ModelSpec(0.33, 0.50),
    "n": ModelSpec(0.33, 0.25),
    "p": ModelSpec(0.16, 0.20),
}


@dataclass(frozen=True)
class DigitsSpec:
    """Handwritten digits on photographs: what the generator of `datasets` needs, and nothing else.

    Sizes and contrast are ranges from which each placed digit draws. `part` keeps a corpus for pretraining apart from
    the data set itself: it draws only from the handwriting and photographs of the train split.
    """

    kind: ClassVar[str] = "data"
    classes: tuple[int, ...] = (0, 2, 3)  # at 8x8 a "one" is a bar, and photographs are full of bars
    train: int = 640  # images
    val: int = 160
    test: int = 240
    imgsz: int = 128  # px, square images
    size_px: tuple[int, int] = (24, 56)  # height of a digit before its turn
    contrast: tuple[float, float] = (0.6, 1.0)  # share of ink in the blend, 0..1
    turn_deg: float = 20.0
    per_image: tuple[int, int] = (1, 5)
    part: str = "digits"  # "digits" or "corpus"
    seed: int = 0

    @property
    def slug(self) -> str:
        return self.part


@dataclass(frozen=True)
class FolderSpec:
    """A YOLO data set on disk; `digest` is over its content, so the path is not part of the identity."""

    kind: ClassVar[str] = "data"
    name: str
    digest: str

    @property
    def slug(self) -> str:
        return self.name


@dataclass(frozen=True)
class TrainSpec:
    """One training run. `init` is "random" or `<how>:<run id>` of the parent whose weights it starts from."""

    kind: ClassVar[str] = "train"
    model: ModelSpec
    label: str  # readable name of the run: "n", "p", "p-best" ...
    data: str  # digest of the data set
    nc: int
    imgsz: int
    epochs: int
    batch: int = 16
    seed: int = 0
    init: str = "random"  # random | matching:<run> | largest-l1:<run> | narrowed-<ratio>:<run>
    optimizer: str = "AdamW"
    lr0: float = 0.002
    lrf: float = 0.01  # the last learning rate is lr0 * lrf
    momentum: float = 0.9
    weight_decay: float = 0.0005
    warmup_epochs: float = 1.0
    cos_lr: bool = True
    mosaic: float = 0.0
    hsv: tuple[float, float, float] = (0.0, 0.2, 0.2)  # the generator varies colour already
    translate: float = 0.1
    scale: float = 0.2
    fliplr: float = 0.0
    box: float = 0.05  # loss gains of YOLOv5's hyp.scratch-low
    obj: float = 1.0
    cls: float = 0.5
    val_every: int = 5  # epochs between validations
    precision: str = "bfloat16"  # autocast of the forward pass; weights stay float32
    nominal_batch: int = 0  # images whose gradients make one step, 64 in the original; 0: as `batch`
    warmup_bias_lr: float = 0.0  # 0.1 in the original

    @property
    def slug(self) -> str:
        return f"{self.label}-e{self.epochs}-s{self.seed}"


@dataclass(frozen=True)
class SparseTrainSpec(TrainSpec):
    """A training that ends with zeros: pruned gradually, and taught by the model it starts from."""

    sparsity: float = 0.0  # share of convolution weights that end as zeros
    allocation: str = (
        "global"  # "global": the smallest of all weights; "layer": of each convolution; "random": any of each
    )
    pruned_by: float = 0.6  # share of the training after which all zeros are in place
    distill: float = 1.0  # weight of the teacher beside the labels; 0: no teacher

    def __post_init__(self):
        require(0 <= self.sparsity < 1, "sparsity", self.sparsity, "a share from 0 to below 1 (90 % is 0.9)")
        require(self.allocation in ALLOCATIONS, "allocation", self.allocation, "one of " + ", ".join(ALLOCATIONS))
        require(0 < self.pruned_by <= 1, "pruned_by", self.pruned_by, "a share above 0 up to 1")
        require(0 <= self.distill <= 100, "distill", self.distill, "0 to 100")


@dataclass(frozen=True)
class OfficialSpec:
    """Official weights of the original, by the digest of their file."""

    kind: ClassVar[str] = "official"
    model: ModelSpec
    nc: int
    name: str
    sha256: str

    @property
    def slug(self) -> str:
        return self.name


# What photographs are trained with: YOLOv5's own augmentation (hyp.scratch-low), without mosaic, which needs more epochs
# than a CPU affords (n on bccd, 30 epochs, one seed: val mAP50 0.884 without and 0.868 with it).
PHOTOGRAPHS = {"hsv": (0.015, 0.7, 0.4), "scale": 0.5, "fliplr": 0.5}
# The original's train.py in full. From official weights; from random ones it takes hundreds of epochs.
ORIGINAL_RECIPE = PHOTOGRAPHS | {
    "mosaic": 1.0,
    "val_every": 1,
    "optimizer": "SGD",
    "lr0": 0.01,
    "momentum": 0.937,
    "warmup_bias_lr": 0.1,
    "cos_lr": False,
    "nominal_batch": 64,
}


@dataclass(frozen=True)
class PruneSpec:
    """What is asked of pruning: a ratio 0..1 for each kind of module. `l1-global` uses `conv` as its one ratio."""

    method: str = "l1-unstructured"
    conv: float = 0.0
    c3: float = 0.0
    sppf: float = 0.0
    reading: str = "own"  # which ratio a Conv inside C3 or SPPF gets: its layer's ("own") or Conv's ("any-conv")
    detect: float = 0.0  # ratio for the 1x1 convolutions of Detect; the paper leaves it alone
    seed: int = 0  # used by random methods only

    def __post_init__(self):
        require(self.method in METHODS, "method", self.method, "one of " + ", ".join(METHODS))
        require(self.reading in READINGS, "reading", self.reading, "one of " + ", ".join(READINGS))
        for name in ("conv", "c3", "sppf", "detect"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"ratio {name}", value, "a share from 0 to 1 (30 % is 0.3)")


@dataclass(frozen=True)
class SweepSpec:
    """Many prunings of one trained model, each evaluated on one split without any retraining."""

    kind: ClassVar[str] = "sweep"
    label: str
    parent: str  # run id of the training
    data: str
    points: tuple[PruneSpec, ...]
    split: str = "test"

    @property
    def slug(self) -> str:
        return self.label


@dataclass(frozen=True)
class EvaluationSpec:
    """Weights as they are, evaluated on one split."""

    kind: ClassVar[str] = "evaluation"
    parent: str  # run id of the weights
    data: str
    imgsz: int
    split: str

    @property
    def slug(self) -> str:
        return f"{self.split}-{self.imgsz}px"


@dataclass(frozen=True)
class SensitivitySpec:
    """Prune one convolution at a time, all others left dense."""

    kind: ClassVar[str] = "sensitivity"
    parent: str
    data: str
    method: str = "l1-unstructured"
    ratio: float = 0.5
    split: str = "val"

    @property
    def slug(self) -> str:
        return f"{self.method}-{self.ratio:g}"


@dataclass(frozen=True)
class Variant:
    """One thing to time: a model, optionally with trained weights and pruning."""

    label: str
    model: ModelSpec
    weights: str = ""  # run id of a training; empty: random weights
    prune: PruneSpec | None = None


@dataclass(frozen=True)
class LatencySpec:
    """Paired timing of variants, batch 1, against `variants[0]`; the first is timed twice as an A/A control."""

    kind: ClassVar[str] = "latency"
    label: str
    variants: tuple[Variant, ...]
    nc: int
    imgsz: int
    rounds: int = 500  # variants take turns in every round, so that what slows the machine meets them all
    calls: int = 1  # per turn; one gives the narrowest intervals on a machine that others use too
    threads: int = 2
    whole_path: bool = False  # also letterbox + forward + NMS
    processes: int = 5  # that share the rounds, one after the other: intervals hold from one start to the next

    @property
    def slug(self) -> str:
        return f"{self.label}-{self.imgsz}px"


@dataclass(frozen=True)
class Deployment(Variant):
    """A model in a runtime, at a size of image."""

    runtime: str = "pytorch"
    imgsz: int = 320

    def __post_init__(self):
        require(self.runtime in RUNTIMES, "runtime", self.runtime, "one of " + ", ".join(RUNTIMES))


@dataclass(frozen=True)
class ExportSpec:
    """The files of a deployment, and how far what they compute is from PyTorch."""

    kind: ClassVar[str] = "export"
    deployment: Deployment
    nc: int
    data: str  # digest of what calibrates the 8 bits, and of the picture that is compared on

    @property
    def slug(self) -> str:
        return f"{self.deployment.runtime}-{self.deployment.imgsz}px"


@dataclass(frozen=True)
class RoadScoresSpec:
    """Deployments scored on one split, each in its own runtime and in square frames."""

    kind: ClassVar[str] = "road-scores"
    deployments: tuple[Deployment, ...]
    nc: int
    data: str
    split: str = "test"
    threads: int = 2

    @property
    def slug(self) -> str:
        return self.split


@dataclass(frozen=True)
class RoadTimesSpec:
    """Deployments timed against the first of them, in processes that take turns."""

    kind: ClassVar[str] = "road-times"
    label: str
    deployments: tuple[Deployment, ...]
    nc: int
    rounds: int = 10
    calls: int = 5  # per turn
    starts: int = 3  # of all processes: where memory happens to lie differs between them
    apart: bool = True  # each in a process of its own; False: all in this one, for a quick look only
    threads: int = 2

    @property
    def slug(self) -> str:
        return self.label


@dataclass(frozen=True)
class NarrowingTimesSpec:
    """A model with more and more of its channels removed, untrained, timed against the whole one."""

    kind: ClassVar[str] = "narrowing-times"
    model: ModelSpec
    nc: int
    imgsz: int
    removed: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    rounds: int = 30
    calls: int = 5
    threads: int = 2

    @property
    def slug(self) -> str:
        return f"{self.imgsz}px"


@dataclass(frozen=True)
class AtlasSpec:
    """Every different convolution of some models at many sparsities: the engine against the dense one."""

    kind: ClassVar[str] = "atlas"
    models: tuple[tuple[str, ModelSpec], ...]
    nc: int
    imgsz: int
    sparsities: tuple[float, ...]
    rounds: int = 15
    calls: int = 10  # of a layer in one run of the engine, whose start is no part of a layer's time
    threads: int = 2
    silu: bool = True  # after each convolution, as in the networks

    @property
    def slug(self) -> str:
        return f"{self.imgsz}px"


@dataclass(frozen=True)
class StemSpec:
    """Focus and the 6x6 convolution that replaced it in v6.0: the same linear map, timed against each other."""

    kind: ClassVar[str] = "stem"
    channels: int
    imgsz: int
    rounds: int = 500
    calls: int = 2
    threads: int = 2

    @property
    def slug(self) -> str:
        return f"focus-{self.imgsz}px"


@dataclass(frozen=True)
class SparseTensorSpec:
    """What PyTorch's own sparse tensors do for the convolutions of a model: which run, and how fast."""

    kind: ClassVar[str] = "sparse-tensors"
    model: ModelSpec
    imgsz: int
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    rounds: int = 50
    calls: int = 2
    threads: int = 2

    @property
    def slug(self) -> str:
        return f"{self.imgsz}px"


@dataclass(frozen=True)
class PicturesSpec:
    """Detections of several models on the same few pictures of a split, kept with the pictures for drawing."""

    kind: ClassVar[str] = "pictures"
    variants: tuple[Variant, ...]
    data: str
    imgsz: int
    images: int = 4
    split: str = "test"

    @property
    def slug(self) -> str:
        return self.split


@dataclass(frozen=True)
class CensusSpec:
    """Parameters and FLOPs of models, layer by layer; no data, no weights."""

    kind: ClassVar[str] = "census"
    label: str
    models: tuple[tuple[str, ModelSpec], ...]
    nc: int
    imgsz: int

    @property
    def slug(self) -> str:
        return f"{self.label}-{self.imgsz}px"


@dataclass(frozen=True)
class Study:
    """All that a run of everything needs. Each field but `name` is a parameter of every notebook and of `yolop run`.

    Custom pretraining (`pretraining`) is one of two: "corpus" trains p on a larger set of generated digits; "coco" trains
    n from its official COCO weights on the data set, by the original's recipe, and carries the result over to p.
    """

    name: str
    dataset: str = "digits"  # "digits", "bccd", "coco128", or the path of anybody's data.yaml
    imgsz: int = 128  # px, a multiple of 32
    models: tuple[str, ...] = ("s", "n", "p")
    p: tuple[float, ...] = (0.16, 0.20)  # depth and width of p; why these: notebook 02
    epochs: int = 25  # for each model on the data set
    batch: int = 16  # images
    pretraining: str = "corpus"  # "corpus" or "coco"
    pretrain_epochs: int = 6
    seeds: tuple[int, ...] = (0,)
    ratios: tuple[float, ...] = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    sparsities: tuple[float, ...] = ()  # of n with trained zeros; 0 is the control without; none: no such part
    narrowed_to: tuple[float, ...] = ()  # shares of n's time, down to which its channels are really removed
    timing_rounds: int = 500  # calls per timed variant, taken in turns
    device: str = "cpu"  # not part of any identity

    def __post_init__(self):
        for item in fields(self):
            object.__setattr__(self, item.name, _typed(item.name, getattr(self, item.name), item.default))
        require(
            self.dataset in DATASETS or self.dataset.endswith((".yaml", ".yml")),
            "dataset",
            self.dataset,
            ", ".join(f'"{name}"' for name in DATASETS) + " or the path of a data.yaml",
        )
        require(len(self.p) == 2, "p", self.p, "two numbers, depth and width, e.g. 0.16,0.20")
        ModelSpec(*self.p)
        require(1 <= self.batch <= 256, "batch", self.batch, "1 to 256")
        require(self.pretraining in PRETRAININGS, "pretraining", self.pretraining, " or ".join(PRETRAININGS))
        require(32 <= self.imgsz <= 1280 and self.imgsz % 32 == 0, "imgsz", self.imgsz, "a multiple of 32 up to 1280")
        for model in self.models:
            require(model in MODELS, "models", model, "names out of " + ", ".join(MODELS))
        require({"n", "p"} <= set(self.models), "models", self.models, 'a list with at least "n" and "p"')
        require(1 <= self.epochs <= 1000, "epochs", self.epochs, "1 to 1000")
        require(1 <= self.pretrain_epochs <= 1000, "pretrain_epochs", self.pretrain_epochs, "1 to 1000")
        require(len(self.seeds) > 0 and min(self.seeds) >= 0, "seeds", self.seeds, "one or more integers from 0")
        require(
            len(self.ratios) > 0 and all(0 <= r <= 1 for r in self.ratios),
            "ratios",
            self.ratios,
            "shares from 0 to 1 (30 % is 0.3)",
        )
        require(
            all(0 <= share < 1 for share in self.sparsities),
            "sparsities",
            self.sparsities,
            "shares from 0 to below 1 (90 % is 0.9)",
        )
        wrong = bool(self.sparsities or self.narrowed_to) and not any(self.sparsities)
        require(not wrong, "sparsities", self.sparsities, "at least one above 0, or none and no narrowed_to")
        require(
            all(0 < share < 1 for share in self.narrowed_to),
            "narrowed_to",
            self.narrowed_to,
            "shares above 0 and below 1",
        )
        require(5 <= self.timing_rounds <= 10000, "timing_rounds", self.timing_rounds, "5 to 10000")
        numbered = self.device.isascii() and self.device.isdecimal() and len(self.device) < 4
        require(self.device == "cpu" or numbered, "device", self.device, '"cpu" or the number of a GPU')

    def changed(self, /, **overrides: Any) -> Study:
        """This study with some fields changed; None leaves a field as it is, an unknown name raises SpecError.

        A study that differs in more than its device gets a name of its own, so that it never overwrites the evidence
        and the reports of the named one.
        """
        known = [item.name for item in fields(self) if item.name != "name"]
        for name in overrides:
            require(name in known, "parameter", name, "one of " + ", ".join(known))
        study = replace(self, **{k: v for k, v in overrides.items() if v is not None})
        if replace(study, device=self.device) == self:
            return study
        content = canonical({k: v for k, v in asdict(study).items() if k not in ("name", "device")})
        return replace(study, name=f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}")


def _typed(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of the field's default: numbers and text as they are, lists and "a,b" text as tuples."""
    if isinstance(default, tuple):
        items = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        items = [item.strip() if isinstance(item, str) else item for item in items]
        return tuple(_typed(name, item, (default or (0.5,))[0]) for item in items if items != [""])
    if isinstance(default, str) or name == "name":
        require(isinstance(value, (str, int)) and not isinstance(value, bool), name, value, "text")
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    good = not isinstance(value, bool) and number == number and abs(number) < 1e12
    good = good and (isinstance(default, float) or number == int(number))
    require(good, name, value, "a whole number" if isinstance(default, int) else "a number")
    return number if isinstance(default, float) else int(number)


STUDIES = {
    "digits": Study("digits", sparsities=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95), narrowed_to=(0.75, 0.5)),
    "smoke": Study(
        "smoke",
        imgsz=96,
        epochs=2,
        pretrain_epochs=1,
        ratios=(0.1, 0.5),
        sparsities=(0.0, 0.9),
        narrowed_to=(0.7,),
        timing_rounds=10,
    ),
    "bccd": Study(
        "bccd",
        "bccd",
        imgsz=320,
        epochs=30,
        batch=8,
        pretraining="coco",
        pretrain_epochs=60,
        seeds=(0, 1, 2),
        ratios=(0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        sparsities=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95),
        narrowed_to=(0.75, 0.53, 0.5),
    ),
    "coco128": Study("coco128", "coco128", imgsz=256, epochs=120, batch=8, pretraining="coco", pretrain_epochs=60),
    "paper": Study(
        "paper", "bccd", imgsz=640, epochs=300, pretraining="coco", pretrain_epochs=300, seeds=(0, 1, 2), device="0"
    ),
}


def named_study(name: str, /, **overrides: Any) -> Study:
    """The named study with some fields changed; SpecError for an unknown name, field, type or range."""
    require(name in STUDIES, "study", name, "one of " + ", ".join(STUDIES))
    return STUDIES[name].changed(**overrides)
