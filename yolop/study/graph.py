"""The graph of a study: every piece of work as a node, out of its settings and its data record alone.

Nothing is computed here, nothing heavy is imported, and no node depends on a measured time. A node says what to do (a spec)
and which nodes' records the work reads, by role; `store` knows which function does the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from yolop.settings import Study
from yolop.specs import (
    GRID,
    METHODS,
    MODELS,
    MODULES,
    CensusSpec,
    DigitsSpec,
    EvaluationSpec,
    LatencySpec,
    ModelSpec,
    OfficialSpec,
    PicturesSpec,
    PruneSpec,
    RecipeSpec,
    SensitivitySpec,
    SparseTrainSpec,
    Spec,
    StemSpec,
    SweepSpec,
    TieOrdersSpec,
    TrainSpec,
    Variant,
    points,
    require,
    run_id,
)

# How each model of a study comes to be, by the study's `pretraining`: its shape, what it starts from, what it is trained
# for. "corpus": the set that the study names for pretraining, or the larger generated one. "original": the data set by the
# original's recipe, for `pretrain_epochs`; "other": the same on another data set, as the paper pretrains on data that are not
# those it is tested on.
# "same steps": as many steps as pretraining and data set together. "coco": the official weights.
SCRATCH = {"s": ("s", "random", "data"), "n": ("n", "random", "data"), "p": ("p", "random", "data")}
TRAININGS = {
    "corpus": SCRATCH
    | {
        "p-corpus": ("p", "random", "corpus"),
        "p-best": ("p", "matching:p-corpus", "data"),
        "p-same-steps": ("p", "random", "same steps"),
        "p-from-n-l1": ("p", "largest-l1:n", "data"),
    },
    "coco": SCRATCH
    | {
        "n-coco": ("n", "matching:coco", "original"),
        "p-best": ("p", "largest-l1:n-coco", "data"),
        "p-same-steps": ("p", "random", "same steps"),
        "p-coco": ("p", "largest-l1:coco", "data"),
        "p-coco-same-steps": ("p", "largest-l1:coco", "same steps"),
    },
    "other": {  # beside those of "coco", where there is another data set for pretraining
        "n-other": ("n", "matching:coco", "other"),
        "p-other": ("p", "largest-l1:n-other", "data"),
    },
}
ELSEWHERE = ("corpus", "other")  # what is trained for these is not trained on the data set itself
OTHER = {"bccd": "raccoon"}  # data set -> the other one for pretraining; the rest have none
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
SMALL_IMAGES = {"train": 32, "val": 8, "test": 8}
CORPUS_IMAGES = {"train": 1920, "val": 160, "test": 32}
OFFICIAL = OfficialSpec(  # the same digest as in data/manifests/yolov5n-v6.0.json, which a test holds
    MODELS["n"], 80, "yolov5n-v6.0", "edd2e5cc4e3caa4b508168b51d9dc529da58b37813e0d2c8b49aba06aa3472dc"
)
PAPER_ROWS = {  # (Conv, C3, SPPF) as printed in the paper's figures; `paper/figures.toml` has the rest of them
    3: ((0.0, 0.0, 0.0), (0.3, 0.3, 0.3), (0.3, 0.1, 0.1)),
    4: ((0.3, 0.3, 0.1), (0.2, 0.2, 0.1), (0.1, 0.1, 0.1)),
    5: ((0.03, 0.01, 0.01), (0.02, 0.01, 0.01), (0.01, 0.01, 0.01)),
}
READINGS = {  # of "module": which ratio the convolutions of C3 and SPPF get, and whether Detect gets Conv's
    "own": ("own", False),
    "any Conv": ("any-conv", False),
    "every conv": ("any-conv", True),
}
PRUNED = {  # the pruned networks that are timed against the dense one
    "L1 unstructured 0.3": PruneSpec("l1-unstructured", 0.3, 0.3, 0.3),
    "L1 unstructured 0.3, 0.1, 0.1": PruneSpec("l1-unstructured", 0.3, 0.1, 0.1),
    "L1 unstructured 0.9": PruneSpec("l1-unstructured", 0.9, 0.9, 0.9),
    "L1 structured 0.3": PruneSpec("l1-structured", 0.3, 0.3, 0.3),
    "L1 structured 0.9": PruneSpec("l1-structured", 0.9, 0.9, 0.9),
    "L1 global 0.9": PruneSpec("l1-global", 0.9),
}
PICTURED, PICTURED_RATIOS = ("s", "n", "p", "p-best"), (0.3, 0.6)


@dataclass(frozen=True)
class Node:
    """One piece of work: what to do, the nodes whose records it reads by role, and whether it is a timing.

    Nothing else may run on the machine of a `quiet` node.
    """

    spec: Spec
    parents: tuple[tuple[str, Node], ...] = ()
    quiet: bool = False

    @property
    def id(self) -> str:
        """The run id of its spec."""
        return run_id(self.spec)


def timing(study: Study, spec: Spec, parents: tuple[tuple[str, Node], ...] = ()) -> Node:
    """A node whose work is a timing. Nothing runs beside it, but in a small study, and there it has one thread: two would spin."""
    return Node(replace(spec, threads=1) if study.small else spec, parents, quiet=not study.small)


def generated(study: Study, corpus: bool = False) -> DigitsSpec:
    """What it takes to generate the digits of a study, or the larger corpus that p is pretrained on."""
    if not corpus:
        return DigitsSpec(imgsz=study.imgsz, **(SMALL_IMAGES if study.small else {}))
    images = SMALL_IMAGES if study.small else CORPUS_IMAGES
    return DigitsSpec(part="corpus", classes=tuple(range(10)), imgsz=study.imgsz, seed=1, **images)


def paper_points(figure: int, method: str) -> dict[tuple[int, str], PruneSpec]:
    """The rows of Figure 3, 4 or 5 as points: (row, reading of "module") -> what is pruned, in the order of the tables."""
    found = {}
    for i, (conv, c3, sppf) in enumerate(PAPER_ROWS[figure]):
        for name, (reading, detect_too) in READINGS.items():
            found[i, name] = PruneSpec(method, conv, c3, sppf, reading, conv if detect_too else 0.0)
    return found


def _figures() -> tuple[PruneSpec, ...]:
    """Unpruned and the rows of Figures 3 to 5, in every reading and both methods, and global pruning beside them."""
    rows = [row for rows in PAPER_ROWS.values() for row in rows if row[0]]
    return tuple(
        PruneSpec(method, *row, reading, row[0] if detect_too else 0.0)
        for method in METHODS[:2]
        for reading, detect_too in READINGS.values()
        for row in ((0.0, 0.0, 0.0), *rows)
        if row[0] or not detect_too
    ) + (PruneSpec("l1-global", 0.3),)


def trainings_of(study: Study) -> dict[str, tuple[str, str, str]]:
    """Label -> (shape, what it starts from, what it is trained for), of the models that a study trains."""
    other = TRAININGS["other"] if study.pretraining == "coco" and (study.corpus or study.dataset in OTHER) else {}
    return {label: how for label, how in (TRAININGS[study.pretraining] | other).items() if how[0] in study.models}


def grid_shapes(study: Study) -> list[ModelSpec]:
    """The shapes of the grid, n and p among them."""
    return [m for m in GRID if not study.small or (m.depth in (0.16, 0.33) and m.width in (0.20, 0.25))]


@dataclass(frozen=True)
class Graph:
    """The nodes of one study. `data` and `corpus`, what is pretrained on, are its data nodes; `facts` what their records say."""

    study: Study
    data: Node
    facts: dict
    corpus: Node | None = None
    corpus_facts: dict | None = None

    @property
    def trainings(self) -> dict[str, tuple[str, str, str]]:
        """As of `trainings_of`."""
        return trainings_of(self.study)

    @property
    def best_n(self) -> str:
        """Label of the most accurate n, from which networks with trained zeros start."""
        return "n-coco" if self.study.pretraining == "coco" else "n"

    @property
    def timed(self) -> tuple[str, ...]:
        """Labels of the models that are timed and shown, n first: it is the baseline."""
        return tuple(sorted((*self.study.models, "p-best"), key=lambda label: label != "n"))

    def shape(self, label: str) -> ModelSpec:
        """Depth and width of a model by its label; p's are the study's."""
        name = self.trainings[label][0] if label in self.trainings else label
        return ModelSpec(*self.study.p) if name == "p" else MODELS[name]

    def steps(self, label: str) -> int:
        """Batches of a whole training: epochs times the batches of an epoch, whose last may be smaller."""
        spec = self.training(label, self.study.seeds[0]).spec
        facts = self.corpus_facts if self.trainings[label][2] in ELSEWHERE else self.facts
        return spec.epochs * math.ceil(facts["splits"]["train"]["images"] / spec.batch)

    def training(self, label: str, seed: int) -> Node:
        """One training of the model `label` of `trainings`; "coco": the official weights."""
        if label == "coco":
            return Node(OFFICIAL)
        _, init, purpose = self.trainings[label]
        elsewhere, study, batch = purpose in ELSEWHERE, self.study, self.study.batch
        data, facts = (self.corpus, self.corpus_facts) if elsewhere else (self.data, self.facts)
        epochs = study.pretrain_epochs if purpose in ("corpus", "original", "other") else study.epochs
        recipe = {} if study.dataset == "digits" and not (elsewhere and study.corpus) else PHOTOGRAPHS
        if purpose == "same steps":
            epochs += round(self.steps(self.pretrained) / math.ceil(facts["splits"]["train"]["images"] / batch))
        if purpose in ("original", "other"):
            batch = 16
            per_epoch = math.ceil(facts["splits"]["train"]["images"] / batch)
            recipe = ORIGINAL_RECIPE | {"warmup_epochs": max(3.0, 100 / per_epoch)}  # at least 100 steps, as the original
        parents = [("data", data)]
        if init != "random":
            way, parent = init.split(":")
            parents.append(("weights", self.training(parent, seed)))
            init = f"{way}:{parents[-1][1].id}"
        spec = TrainSpec(
            model=self.shape(label), label="n-coco" if purpose == "other" else label, data=facts["digest"],
            nc=len(facts["names"]), imgsz=study.imgsz, epochs=epochs, batch=batch, seed=seed, init=init, device=study.device,
            **recipe,
        )  # fmt: skip
        return Node(spec, tuple(parents))

    @property
    def pretrained(self) -> str:
        """Label of the training whose weights p (best) starts from."""
        return self.trainings["p-best"][1].split(":")[1]

    def fine_tuned(
        self, seed: int, sparsity: float = 0.0, allocation: str = "global", channels_removed: float = 0.0, block: int = 1,
        label: str = "",
    ) -> Node:
        """The best n, or `label`, trained further and taught by itself, with zeros, without channels, or both; else the control."""
        parent, study = self.training(label or self.best_n, seed), self.study
        way = f"narrowed-{channels_removed:g}" if channels_removed else "matching"
        spec = SparseTrainSpec(
            model=parent.spec.model, label=_label_of_smaller(label, sparsity, allocation, channels_removed, block),
            data=parent.spec.data, nc=parent.spec.nc, imgsz=study.imgsz, epochs=study.epochs, batch=study.batch, seed=seed,
            init=f"{way}:{parent.id}", device=study.device, sparsity=sparsity, allocation=allocation,
            block=block, **({} if study.dataset == "digits" else PHOTOGRAPHS),
        )  # fmt: skip
        return Node(spec, (("data", self.data), ("weights", parent)))

    def official_score(self, split: str) -> Node:
        """The official n, untouched, at 640 px on a split of coco128, whose 80 classes it knows."""
        require(self.study.dataset == "coco128", "dataset", self.study.dataset, '"coco128"')
        official = self.training("coco", 0)
        return Node(EvaluationSpec(official.id, self.facts["digest"], 640, split), (("data", self.data), ("weights", official)))

    def tie_orders(self, split: str) -> Node:
        """The same with images of equal shape in other orders, so that other images share a batch."""
        node = self.official_score(split)
        return Node(TieOrdersSpec(node.spec.parent, node.spec.data, node.spec.imgsz, split), node.parents)

    def sweep(self, label: str, seed: int, chosen: tuple[PruneSpec, ...] = ()) -> Node:
        """Points on the test split for p (best) of one training seed: those of a method or of "figures", or `chosen` ones."""
        best = self.training("p-best", seed)
        if label == "figures":
            standard = _figures()
        else:
            scopes = ("all",) if label.startswith("random") else ("all", "all + Detect") if label == "l1-global" else MODULES
            standard = tuple(point for scope in scopes for point in points(label, self.study.ratios, scope))
        chosen = standard if set(chosen) <= set(standard) else chosen
        return Node(SweepSpec(label, best.id, self.facts["digest"], chosen), (("data", self.data), ("weights", best)))

    def sensitivity(self, seed: int) -> Node:
        """One convolution of p (best) at a time, pruned by half, on val."""
        best = self.training("p-best", seed)
        return Node(SensitivitySpec(best.id, self.facts["digest"]), (("data", self.data), ("weights", best)))

    def census(self, label: str) -> Node:
        """Layers of "sizes" (n to x and p at 640 px and 80 classes), "own" (the study's) or "grid" (depth x width)."""
        if label == "sizes":
            return Node(CensusSpec(label, tuple((m, self.shape(m)) for m in MODELS), 80, 640))
        own = tuple((m, self.shape(m)) for m in self.study.models)
        grid = tuple((f"depth {m.depth:g}, width {m.width:g}", m) for m in grid_shapes(self.study))
        return Node(CensusSpec(label, own if label == "own" else grid, len(self.facts["names"]), self.study.imgsz))

    def latency(self, label: str) -> Node:
        """Timing of "models" (n is the baseline), "pruned" (p (best) is) or "grid" (n's shape is, random weights)."""
        rounds, seed, processes = self.study.timing_rounds, self.study.seeds[0], 1 if self.study.small else 5
        if label == "grid":
            variants, trained = tuple(Variant(m) for m in sorted(grid_shapes(self.study), key=lambda m: m != MODELS["n"])), []
            rounds = max(rounds // 4, 5)
        elif label == "models":
            trained = [self.training(model, seed) for model in self.timed]
            variants = tuple(Variant(node.spec.model, node.id) for node in trained)
        else:
            trained = [self.training("p-best", seed)]
            variants = tuple(Variant(trained[0].spec.model, trained[0].id, prune) for prune in (None, *PRUNED.values()))
        spec = LatencySpec(
            label, variants, len(self.facts["names"]), self.study.imgsz, rounds, whole_path=label == "models", processes=processes
        )
        return timing(self.study, spec, (("data", self.data), *((node.id, node) for node in trained)))

    def stem(self) -> Node:
        """Focus against the 6x6 convolution of v6.0."""
        return timing(self.study, StemSpec(16, self.study.imgsz, self.study.timing_rounds))

    def pictures(self) -> Node:
        """A few test pictures with the detections of the timed models, s first, then of p (best) with 30 % and 60 % zeros."""
        trained = [self.training(m, self.study.seeds[0]) for m in PICTURED if m in (*self.study.models, "p-best")]
        variants = [Variant(node.spec.model, node.id) for node in trained]
        pruned = (PruneSpec("l1-unstructured", ratio, ratio, ratio) for ratio in PICTURED_RATIOS)
        variants += [replace(variants[-1], prune=prune) for prune in pruned]
        spec = PicturesSpec(tuple(variants), self.facts["digest"], self.study.imgsz)
        return Node(spec, (("data", self.data), *((node.id, node) for node in trained)))

    def recipe(self) -> Node:
        """The search for the paper's unpublished p and pruning, by arithmetic over shapes."""
        return Node(RecipeSpec(nc_max=10, papers=20) if self.study.small else RecipeSpec())


def _label_of_smaller(label: str, sparsity: float, allocation: str, channels_removed: float, block: int) -> str:
    zeros = f"{allocation if block == 1 else 'blocks'}-{sparsity:g}" if sparsity or not channels_removed else ""
    return "-".join(filter(None, (label or "n", f"narrowed-{channels_removed:g}" if channels_removed else "", zeros)))


def labelled(graph: Graph) -> Node:
    """Some train pictures with their boxes, those with the smallest and the largest object first."""
    return Node(PicturesSpec((), graph.facts["digest"], graph.study.imgsz, 8, "train"), (("data", graph.data),))
