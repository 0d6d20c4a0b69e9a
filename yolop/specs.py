"""Frozen descriptions of work, and the identity of a run.

A spec says what to do. Its run id is a readable part and eight hex digits over everything in it that can change a number
(data digest, parent runs, seed, image size ...). What cannot change one (device, path of a data set, display names) is
either a field outside the identity or not in the spec at all.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

SCHEMA = 2  # raise it when code changes a number that a spec does not show: every id changes, nothing stale is reused

METHODS = ("l1-unstructured", "l1-structured", "l1-global", "random-unstructured", "random-structured")
READINGS = ("own", "any-conv")
ALLOCATIONS = ("global", "layer", "random")
RETRAINED = ("l1-unstructured", "l1-structured", "by-type", "even")  # ways to prune before training again


class SpecError(ValueError):
    """A value that a study cannot work with; the message names it, the allowed range and what to use instead."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message says all, a traceback would hide it."""
        return [f"{type(self).__name__}: {self}"]


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(spec: Any) -> Any:
    """A spec as plain values, without the fields outside its identity and those that came late and have their default."""
    if is_dataclass(spec):
        own = {item: getattr(spec, item.name) for item in fields(spec) if item.metadata.get("identity", True)}
        return {f.name: identity(v) for f, v in own.items() if not (f.metadata.get("late") and v == f.default)}
    return [identity(value) for value in spec] if isinstance(spec, (tuple, list)) else spec


def run_id(spec: Spec) -> str:
    """`<kind>-<readable part>-<8 hex of SHA-256>` of a spec; equal specs have equal ids on every machine."""
    return f"{spec.kind}-{spec.slug.format(**vars(spec))}-{content_hash(spec.kind, identity(spec))}"


def content_hash(kind: str, spec: dict) -> str:
    """The end of a run id: 8 hex digits over everything in the identity of a spec."""
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


def require_known(name: str, value: Any, known: Iterable[str], quote: str = '"') -> None:
    """Raise SpecError naming the nearest known word and all of them, unless the value is one."""
    known = list(known)
    close = difflib.get_close_matches(str(value), known, 1)
    nearest = f"{quote}{close[0]}{quote}, or " if close else ""
    require(value in known, name, value, nearest + "one of " + ", ".join(known))


def printable(text: Any, most: int = 300) -> str:
    """Text from someone else's file as one line that moves no cursor and draws no colour: escaped, and cut where long."""
    text = str(text)
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return line + " ..." * (len(text) > most)


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
GRID = tuple(ModelSpec(d, w) for d in (0.16, 0.20, 0.25, 0.33) for w in (0.125, 0.1875, 0.20, 0.25, 0.375, 0.50))


@dataclass(frozen=True)
class Spec:
    """A piece of work: `kind` names who does it (`store.COMPUTE`), `slug` is the readable part of its id."""

    kind: ClassVar[str]
    slug: ClassVar[str]  # a format string over the fields


def outside(default: Any) -> Any:
    """A field that cannot change a number and is no part of a spec's identity."""
    return field(default=default, compare=False, metadata={"identity": False})


@dataclass(frozen=True)
class DigitsSpec(Spec):
    """Handwritten digits on photographs: what the generator needs, and nothing else.

    Sizes and contrast are ranges from which each placed digit draws. `part` keeps a corpus for pretraining apart from
    the data set itself: it draws only from the handwriting and photographs of the train split.
    """

    kind, slug = "data", "{part}"
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
    material: int = 2  # raise it when the photographs or the cut of the handwriting change


@dataclass(frozen=True)
class FolderSpec(Spec):
    """A YOLO data set on disk; `digest` is over its content, so the path is not part of the identity."""

    kind, slug = "data", "{name}"
    name: str
    digest: str
    path: str = outside("")  # of its data.yaml; empty for the public sets, which are found by name


@dataclass(frozen=True)
class TrainSpec(Spec):
    """One training run. `init` is "random" or `<how>:<run id>` of the parent whose weights it starts from."""

    kind, slug = "train", "{label}-e{epochs}-s{seed}"
    model: ModelSpec
    label: str  # key of the model in a study: "n", "p", "p-best" ...
    data: str  # digest of the data set
    nc: int
    imgsz: int
    epochs: int
    batch: int = 16
    seed: int = 0
    # random | matching:<run> | largest-l1:<run> | narrowed-<share of channels removed>:<run> | pruned-<way>-<ratio>:<run>
    init: str = "random"
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
    device: str = outside("cpu")  # or the number of a GPU


@dataclass(frozen=True)
class SparseTrainSpec(TrainSpec):
    """Further training that ends with zeros: pruned gradually, and distilled from the model it starts from."""

    sparsity: float = 0.0  # share of convolution weights that end as zeros
    allocation: str = "global"  # zeros are the smallest of all weights; "layer": of each convolution; "random": any of each
    pruned_by: float = 0.6  # share of the training after which all zeros are in place
    distill: float = 1.0  # weight of the teacher beside the labels; 0: no teacher
    block: int = field(default=1, metadata={"late": True})  # input channels that become zero together

    def __post_init__(self):
        require(0 <= self.sparsity < 1, "sparsity", self.sparsity, "a share from 0 to below 1 (90 % is 0.9)")
        require(self.allocation in ALLOCATIONS, "allocation", self.allocation, "one of " + ", ".join(ALLOCATIONS))
        require(0 < self.pruned_by <= 1, "pruned_by", self.pruned_by, "a share above 0 up to 1")
        require(0 <= self.distill <= 100, "distill", self.distill, "0 to 100")
        require(self.block in (1, 2, 4, 8), "block", self.block, "1, 2, 4 or 8 input channels")


@dataclass(frozen=True)
class OfficialSpec(Spec):
    """Official weights of the original, by the digest of their file."""

    kind, slug = "official", "{name}"
    model: ModelSpec
    nc: int
    name: str
    sha256: str


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


MODULES = {  # what a sweep's one ratio is asked of -> the ratios of PruneSpec
    "all": ("conv", "c3", "sppf"),
    "all + Detect": ("conv", "c3", "sppf", "detect"),
    "Conv": ("conv",),
    "C3": ("c3",),
    "SPPF": ("sppf",),
    "Detect": ("detect",),
}
RANDOM_SEEDS = (0, 1, 2)  # of random pruning, in every sweep


def points(methods: str | Iterable[str], ratios: Iterable[float], modules: str = "all") -> tuple[PruneSpec, ...]:
    """Points of a sweep: every method at every ratio, asked of the modules that a key of MODULES names.

    Random methods have a point for each of RANDOM_SEEDS.
    """
    require(modules in MODULES, "modules", modules, "one of " + ", ".join(MODULES))
    ratios = tuple(ratios)
    return tuple(
        PruneSpec(method, seed=seed, **dict.fromkeys(MODULES[modules], ratio))
        for method in ((methods,) if isinstance(methods, str) else methods)
        for seed in (RANDOM_SEEDS if method.startswith("random") else (0,))
        for ratio in ratios
    )


def even_point(ratio: float, none: float, most: float, goal: float) -> PruneSpec:
    """The one ratio for all modules that gives the sparsity `goal`, from what it is at a ratio of 0 and at `ratio`: a line."""
    even = round(ratio * (goal - none) / (most - none), 6)
    return PruneSpec(conv=even, c3=even, sppf=even)


@dataclass(frozen=True)
class SweepSpec(Spec):
    """Many prunings of one trained model, each evaluated on one split without any retraining.

    `label` is the method, or "figures": the paper's rows, scored on resampled images too.
    """

    kind, slug = "sweep", "{label}"
    label: str
    parent: str  # run id of the training
    data: str
    points: tuple[PruneSpec, ...]
    split: str = "test"


@dataclass(frozen=True)
class EvaluationSpec(Spec):
    """Weights as they are, evaluated on one split."""

    kind, slug = "evaluation", "{split}-{imgsz}px"
    parent: str  # run id of the weights
    data: str
    imgsz: int
    split: str


@dataclass(frozen=True)
class TieOrdersSpec(EvaluationSpec):
    """The same, but images of equal shape, which may share a batch in any order, in several drawn orders."""

    kind = "tie-orders"
    seeds: tuple[int, ...] = (0, 1, 2, 3)


@dataclass(frozen=True)
class SensitivitySpec(Spec):
    """Prune one convolution at a time, all others left dense."""

    kind, slug = "sensitivity", "{method}-{ratio:g}"
    parent: str
    data: str
    method: str = "l1-unstructured"
    ratio: float = 0.5
    split: str = "val"


@dataclass(frozen=True)
class Variant:
    """One thing to time: a model, optionally with trained weights and pruning."""

    model: ModelSpec
    weights: str = ""  # run id of a training; empty: random weights
    prune: PruneSpec | None = None

    @property
    def text(self) -> str:
        """What it is, in a few words, for progress lines and for people who read a record; nothing is looked up by it."""
        what = self.weights or f"depth {self.model.depth:g}, width {self.model.width:g}"
        return what + (f", {self.prune.method} {max(self.prune.conv, self.prune.c3):g}" if self.prune else "")


@dataclass(frozen=True)
class LatencySpec(Spec):
    """Paired timing of variants, batch 1, against `variants[0]`; the first is timed twice as an A/A control."""

    kind, slug = "latency", "{label}-{imgsz}px"
    label: str
    variants: tuple[Variant, ...]
    nc: int
    imgsz: int
    rounds: int = 500  # variants take turns in every round, so that what slows the machine meets them all
    calls: int = 1  # per turn; one gives the narrowest intervals on a machine that others use too
    threads: int = 2
    whole_path: bool = False  # also letterbox + forward + NMS
    processes: int = 5  # that share the rounds, one after the other: intervals hold from one start to the next


@dataclass(frozen=True)
class StemSpec(Spec):
    """Focus and the 6x6 convolution that replaced it in v6.0: the same linear map, timed against each other."""

    kind, slug = "stem", "focus-{imgsz}px"
    channels: int
    imgsz: int
    rounds: int = 500
    calls: int = 2
    threads: int = 2


@dataclass(frozen=True)
class PicturesSpec(Spec):
    """Detections of several models on the same few pictures of a split, kept with the pictures for drawing."""

    kind, slug = "pictures", "{split}"
    variants: tuple[Variant, ...]
    data: str
    imgsz: int
    images: int = 4
    split: str = "test"


@dataclass(frozen=True)
class CensusSpec(Spec):
    """Parameters and FLOPs of models, layer by layer; no data, no weights."""

    kind, slug = "census", "{label}-{imgsz}px"
    label: str
    models: tuple[tuple[str, ModelSpec], ...]
    nc: int
    imgsz: int


@dataclass(frozen=True)
class RecipeSpec(Spec):
    """The candidates that are searched for the paper's p, and the pseudo-papers that show what chance gives."""

    kind, slug = "recipe", "nc{nc_max}"
    depth_max: float = 1.34  # every depth and width multiple up to these
    width_max: float = 0.5
    nc_max: int = 100
    named: tuple[tuple[float, float], ...] = ((0.16, 0.20), (0.16, 0.245), (0.16, 0.125))  # to report in any case
    papers: int = 1000
    seed: int = 0

    def __post_init__(self):
        require(0.001 <= self.depth_max <= 2, "depth_max", self.depth_max, "a depth_multiple from 0.001 to 2")
        require(1 / 128 <= self.width_max <= 1, "width_max", self.width_max, "a width_multiple from 1/128 to 1")
        require(1 <= self.nc_max <= 200, "nc_max", self.nc_max, "1 to 200 classes")
        require(1 <= self.papers <= 10000, "papers", self.papers, "1 to 10000")
