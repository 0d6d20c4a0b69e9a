"""Named studies and their settings: everything that a reader may change, with its range."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from yolop.specs import GRID, MODELS, ModelSpec, canonical, require, require_known

DATASETS = ("digits", "bccd", "raccoon", "coco128")  # by name; any other by the path of its data.yaml
PRETRAININGS = ("corpus", "coco")
OUTSIDE = ("name", "device", "digest", "corpus", "corpus_digest")  # of what a report's name is made from as it stands
DEFAULT = "digits"  # the study of notebooks, `open_study` and `make study`


def setting(default: Any, allowed: str, check: Callable[[Any], bool], meaning: str) -> Any:
    """A field of Study: its default, which values it takes, and what it means; `yolop run --help` lists all of them."""
    return field(default=default, metadata={"allowed": allowed, "check": check, "meaning": meaning})


def _shares(least: float, below: float) -> Callable[[tuple], bool]:
    return lambda values: all(least <= value < below for value in values)


def _dataset(value: str) -> bool:
    return value in DATASETS or value.endswith((".yaml", ".yml"))


@dataclass(frozen=True)
class Study:
    """All that a run of everything needs; each field but `name` and `digest` is a setting.

    Custom pretraining (`pretraining`) is one of two: "corpus" trains p on a larger set of generated digits; "coco" trains
    n from its official COCO weights on the data set, by the original's recipe, and carries the result over to p.
    """

    name: str
    dataset: str = setting(
        "digits", ", ".join(f'"{name}"' for name in DATASETS) + " or the path of a data.yaml", _dataset, "the data set"
    )
    imgsz: int = setting(128, "a multiple of 32 up to 1280", lambda v: 32 <= v <= 1280 and v % 32 == 0, "image size, px")
    models: tuple[str, ...] = setting(
        ("s", "n", "p"), 'a list with "n" and "p", out of ' + ", ".join(MODELS),
        lambda v: {"n", "p"} <= set(v) <= set(MODELS), "sizes that are trained",
    )  # fmt: skip
    p: tuple[float, ...] = setting(
        (0.16, 0.20), "two numbers, depth and width, e.g. 0.16,0.20", lambda v: len(v) == 2, "depth and width of p"
    )
    epochs: int = setting(16, "1 to 1000", lambda v: 1 <= v <= 1000, "epochs of each model on the data set")
    batch: int = setting(16, "1 to 256", lambda v: 1 <= v <= 256, "images of a training step")
    pretraining: str = setting("corpus", " or ".join(PRETRAININGS), lambda v: v in PRETRAININGS, "custom pretraining")
    pretrain_epochs: int = setting(6, "1 to 1000", lambda v: 1 <= v <= 1000, "epochs of custom pretraining")
    corpus: str = setting(
        "", "the path of a data.yaml, or " + ", ".join(f'"{name}"' for name in DATASETS[1:]),
        lambda v: not v or v != "digits" and _dataset(v),
        "the set to pretrain on, of any classes and sizes; none: generated digits, or with pretraining=coco what the data set has",
    )  # fmt: skip
    seeds: tuple[int, ...] = setting(
        (0,), "one or more integers from 0", lambda v: len(v) > 0 and min(v) >= 0, "training seeds; results are their means"
    )
    ratios: tuple[float, ...] = setting(
        (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9), "shares from 0 to 1 (30 % is 0.3)",
        lambda v: len(v) > 0 and all(0 <= ratio <= 1 for ratio in v), "pruning ratios of the sweeps",
    )  # fmt: skip
    sparsities: tuple[float, ...] = setting(
        (), "shares from 0 to below 1 (90 % is 0.9)", _shares(0, 1), "zeros that n is trained with; 0 is the control"
    )
    allocations: tuple[str, ...] = setting(
        (), 'a list out of "layer" and "random"', lambda v: set(v) <= {"layer", "random"},
        "other zeros than the smallest of all weights: the smallest of each layer, random ones of each",
    )  # fmt: skip
    channels_removed: tuple[float, ...] = setting(
        (), "shares above 0 and below 1", _shares(1e-9, 1), "shares of n's channels that are removed before more training"
    )
    blocks: tuple[float, ...] = setting(
        (), "shares above 0 and below 1", _shares(1e-9, 1),
        "zeros in blocks of four input channels that n is trained with, for 8 bits; then networks and runtimes are crossed in full",
    )  # fmt: skip
    shapes: tuple[str, ...] = setting(
        (), "a list of DEPTHxWIDTH out of notebook 02's grid, e.g. 0.2x0.2,0.33x0.1875",
        lambda v: set(v) <= {f"{m.depth:g}x{m.width:g}" for m in GRID}, "other shapes than n and p that are trained from scratch",
    )  # fmt: skip
    longer: int = setting(
        0, "0 or 2 to 100", lambda v: v == 0 or 2 <= v <= 100, "how many times the epochs s, n and p are trained for too; 0: not"
    )
    retrained: tuple[float, ...] = setting(
        (), "shares from 0 to below 1 (30 % is 0.3)", _shares(0, 1), "ratios at which p (best) is pruned and then trained again"
    )
    uniform_imgsz: tuple[int, ...] = setting(
        (0,), "multiples of 32 up to 1280; 0: imgsz", lambda v: all(0 <= size <= 1280 and size % 32 == 0 for size in v),
        "image sizes at which whole networks with evenly spread zeros are timed, px",
    )  # fmt: skip
    timing_rounds: int = setting(500, "5 to 10000", lambda v: 5 <= v <= 10000, "calls per timed network, taken in turns")
    small: bool = setting(
        False, "true or false", lambda v: True, "few images, candidates and points: everything runs, nothing is to be believed"
    )
    device: str = setting(
        "cpu", '"cpu" or the number of a GPU', lambda v: v == "cpu" or v.isascii() and v.isdecimal() and len(v) < 4,
        "where to train; no part of any identity",
    )  # fmt: skip
    digest: str = ""  # content of the data set behind a path, where it is known
    corpus_digest: str = ""  # the same of `corpus`

    def __post_init__(self):
        for item in fields(self):
            default = "" if item.name == "name" else item.default
            if default == ():
                default = ("",) if item.type == "tuple[str, ...]" else (0.5,)
            object.__setattr__(self, item.name, _typed(item.name, getattr(self, item.name), default))
            if "check" in item.metadata:
                value = getattr(self, item.name)
                require(item.metadata["check"](value), item.name, value, item.metadata["allowed"])
        ModelSpec(*self.p)
        fits = self.pretraining != "corpus" or self.corpus or self.imgsz >= 96
        require(fits, "imgsz", self.imgsz, "96 or more with generated digits for pretraining: they are up to 56 px high")
        others = self.allocations or self.channels_removed or self.blocks
        wrong = bool(self.sparsities or others) and not any(self.sparsities)
        way_out = "at least one above 0, or none, nor channels_removed, allocations or blocks"
        require(not wrong, "sparsities", self.sparsities, way_out)

    def changed(self, /, **overrides: Any) -> Study:
        """This study with some settings changed; None leaves one as it is, an unknown name raises SpecError."""
        for name in overrides:
            require_known("setting", name, setting_names(), quote="")
        return replace(self, **{name: value for name, value in overrides.items() if value is not None})

    @property
    def report(self) -> str:
        """Name of the study's report: its own, or with a hash where settings differ in more than the device.

        A data set counts by its content: the same files at another path give the same report.
        """
        named = STUDIES.get(self.name)
        if named and replace(self, device=named.device, digest="", corpus_digest="") == named:
            return self.name
        content = {name: value for name, value in asdict(self).items() if name not in OUTSIDE}
        content["dataset"] = self.digest or self.dataset
        content |= {"corpus": self.corpus_digest or self.corpus} if self.corpus else {}
        return f"{self.name}-{hashlib.sha256(canonical(content).encode()).hexdigest()[:6]}"

    @property
    def trained_zeros(self) -> tuple[float, ...]:
        """The sparsities above 0 that n is trained with."""
        return tuple(share for share in self.sparsities if share)

    @property
    def control_sparsity(self) -> float:
        """The sparsity at which other ways to choose the zeros are trained, and other runtimes are given zeros: near 0.9."""
        return _nearest_90_percent(self.trained_zeros)

    @property
    def shown_zeros(self) -> float:
        """The sparsity, in blocks where the study trains these, whose network runs where nothing skips zeros, too: near 0.9."""
        return _nearest_90_percent(self.blocks or self.trained_zeros)


def _nearest_90_percent(shares: tuple[float, ...]) -> float:
    return min(shares, key=lambda share: abs(share - 0.9))


def setting_names() -> list[str]:
    """Names of the settings, in order."""
    return [item.name for item in fields(Study) if "check" in item.metadata]


def _typed(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of the field's default: numbers and text as they are, lists and "a,b" text as tuples."""
    if isinstance(default, tuple):
        items = value.strip("[]()").split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        items = [item.strip() if isinstance(item, str) else item for item in items]
        return tuple(_typed(name, item, default[0]) for item in items if items != [""])
    if isinstance(default, bool):
        words = {"true": True, "false": False, "1": True, "0": False}
        require(str(value).lower() in words, name, value, "true or false")
        return words[str(value).lower()]
    if isinstance(default, str):
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
    "digits": Study("digits", sparsities=(0.0, 0.9), channels_removed=(0.5,)),
    "smoke": Study(
        "smoke", imgsz=96, epochs=2, pretrain_epochs=1, ratios=(0.1, 0.5), sparsities=(0.0, 0.9), channels_removed=(0.3,),
        timing_rounds=5, small=True,
    ),
    "bccd": Study(
        "bccd", "bccd", imgsz=320, epochs=30, batch=8, pretraining="coco", pretrain_epochs=60, seeds=(0, 1, 2),
        sparsities=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95), allocations=("layer", "random"), channels_removed=(0.2, 0.5, 0.8),
        blocks=(0.5, 0.7, 0.8, 0.9, 0.95), uniform_imgsz=(320, 640),
        shapes=("0.2x0.2", "0.16x0.25", "0.25x0.2", "0.33x0.2", "0.2x0.25", "0.33x0.1875"), longer=4, retrained=(0.3, 0.6, 0.9),
    ),
    "raccoon": Study(
        "raccoon", "raccoon", imgsz=320, models=("n", "p"), epochs=60, batch=8, pretraining="coco", pretrain_epochs=60,
        seeds=(0, 1, 2),
    ),
    "coco128": Study(
        "coco128", "coco128", imgsz=256, epochs=120, batch=8, pretraining="coco", pretrain_epochs=60,
        ratios=(0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    ),
    "paper": Study(
        "paper", "bccd", imgsz=640, epochs=300, pretraining="coco", pretrain_epochs=300, seeds=(0, 1, 2), device="0"
    ),
}  # fmt: skip

COSTS = {  # on two cores
    "digits": "handwriting on photographs, generated: 20 minutes",
    "smoke": "everything once, with meaningless numbers: 3 minutes",
    "bccd": "blood cells, three training seeds: 8 hours",
    "raccoon": "n and p on raccoons, three training seeds: 1.5 hours",
    "coco128": "COCO's first 128 images: 1 hour",
    "paper": "blood cells as the paper trains them, on a GPU: hours",
}


def parse(text: str) -> dict[str, str]:
    """Settings as on the command line, "ratios=0.1,0.25 seeds=0" -> {"ratios": "0.1,0.25", "seeds": "0"}.

    A value with spaces is quoted as in a shell. SpecError for anything that is not `name=value`.
    """
    require(isinstance(text, str), "settings", text, 'text such as "ratios=0.1,0.25 seeds=0", or "" for none')
    try:
        parts = shlex.split(text)
    except ValueError as error:
        require(False, "settings", text, f"name=value pairs ({error})")
    for part in parts:
        require("=" in part, "settings", part, "name=value, e.g. epochs=10 or seeds=0,1")
    return dict(part.split("=", 1) for part in parts)


def named_study(name: str, /, **overrides: Any) -> Study:
    """The named study with some settings changed; SpecError for an unknown name, setting, type or range."""
    require(isinstance(name, str) and name in STUDIES, "study", name, "one of " + ", ".join(STUDIES))
    return STUDIES[name].changed(**overrides)
