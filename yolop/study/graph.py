"""The graph of a study: which record needs which, read or computed on demand.

`open_study` gives an Evidence. Each of its methods is one node: it says what to do (a spec), which parents it needs, and
asks the store, which reads the record or does the work. A reader of committed evidence never imports torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

from yolop.data import datasets, public
from yolop.run import doctor
from yolop.specs import (
    METHODS,
    MODELS,
    ORIGINAL_RECIPE,
    PHOTOGRAPHS,
    RUNTIMES,
    AtlasSpec,
    CensusSpec,
    Deployment,
    DigitsSpec,
    EvaluationSpec,
    ExportSpec,
    FolderSpec,
    LatencySpec,
    ModelSpec,
    NarrowingTimesSpec,
    OfficialSpec,
    PicturesSpec,
    PruneSpec,
    RoadScoresSpec,
    RoadTimesSpec,
    SensitivitySpec,
    SparseTensorSpec,
    SparseTrainSpec,
    StemSpec,
    Study,
    SweepSpec,
    TrainSpec,
    Variant,
    named_study,
    require,
)
from yolop.store import Record, Store

CORPUS_CLASSES = tuple(range(10))
SMOKE_IMAGES = {"train": 48, "val": 24, "test": 24}

# How each model of a study comes to be, by the study's `pretraining`: its shape, what it starts from, what it is trained
# for. "corpus": the larger generated corpus. "original": the data set by the original's recipe, for `pretrain_epochs`.
# "same steps": as many steps as pretraining and data set together. "coco": the official weights.
SCRATCH = {"s": ("s", "random", "data"), "n": ("n", "random", "data"), "p": ("p", "random", "data")}
TRAININGS = {
    "corpus": SCRATCH
    | {
        "p-corpus": ("p", "random", "corpus"),
        "p-best": ("p", "matching:p-corpus", "data"),
        "p-same-steps": ("p", "random", "same steps"),
        "p-from-n": ("p", "matching:n", "data"),
        "p-from-n-l1": ("p", "largest-l1:n", "data"),
    },
    "coco": SCRATCH
    | {
        "n-coco": ("n", "matching:coco", "original"),
        "p-best": ("p", "largest-l1:n-coco", "data"),
        "p-same-steps": ("p", "random", "same steps"),
        "p-coco": ("p", "largest-l1:coco", "data"),
    },
}
NAMES = {
    "s": "YOLOv5s",
    "n": "YOLOv5n",
    "p": "YOLOv5p",
    "p-corpus": "YOLOv5p (on the corpus)",
    "n-coco": "YOLOv5n (COCO weights)",
    "p-best": "YOLOv5p (best.pt)",
    "p-same-steps": "YOLOv5p (same total steps)",
    "p-coco": "YOLOv5p (COCO weights)",
    "p-from-n": "YOLOv5p (n's matching layers)",
    "p-from-n-l1": "YOLOv5p (n's largest channels)",
}
RUNTIME_NAMES = {
    "pytorch": "PyTorch",
    "sparse": "sparse engine",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bfloat16",
    "openvino-int8": "OpenVINO int8",
    "ncnn": "ncnn",
}
ORIGINAL = {  # what the original code computed (github.com/ultralytics/yolov5 at 5081342f, float32, CPU), one run each
    "coco128": {
        "what": "official n (v6.0), untouched, on coco128's train2017 images at 640 px",
        "scores": {"mAP50": 0.465, "mAP50_95": 0.308},
    },
    "bccd": {
        "what": "n from the official weights, 60 epochs of the original's recipe, on bccd's val at 320 px",
        "scores": {"mAP50": 0.910, "mAP50_95": 0.596},
    },
}
SCOPES = {  # what a sweep's one ratio r is asked of
    "all": ("conv", "c3", "sppf"),
    "all + Detect": ("conv", "c3", "sppf", "detect"),
    "Conv": ("conv",),
    "C3": ("c3",),
    "SPPF": ("sppf",),
    "Detect": ("detect",),
}
PAPER_ROWS = {  # (Conv, C3, SPPF) as printed in the paper's figures
    "figure-3": ((0.3, 0.3, 0.3), (0.3, 0.1, 0.1)),
    "figure-4": ((0.3, 0.3, 0.1), (0.2, 0.2, 0.1), (0.1, 0.1, 0.1)),
    "figure-5": ((0.03, 0.01, 0.01), (0.02, 0.01, 0.01), (0.01, 0.01, 0.01)),
}
GRID = tuple(ModelSpec(d, w) for d in (0.16, 0.20, 0.25, 0.33) for w in (0.125, 0.1875, 0.20, 0.25, 0.375, 0.50))


def open_study(study: str = "digits", records: str = "committed", **fields) -> Evidence:
    """The evidence of a named study, with some of its fields changed.

    Args:
        study: "digits" or "smoke".
        records: "committed" reads what the repository holds; "fresh" computes what `data/runs` does not hold yet.
        fields: fields of specs.Study; None leaves one as it is.

    Raises:
        SpecError: an unknown name, field or value, before anything is computed.
    """
    require(records in ("committed", "fresh"), "records", records, '"committed" or "fresh"')
    if records == "fresh":
        doctor.require_no_conflicts()
    return Evidence(named_study(study, **fields), records == "fresh")


class Evidence:
    """All records of one study. Methods compute what is missing, in the order in which it is asked for."""

    def __init__(self, study: Study, compute: bool, store: Store | None = None):
        self.study, self.store = study, store or Store(study.name, compute)

    # --- data ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _data_spec(self) -> DigitsSpec | FolderSpec:
        if self.study.dataset in public.DATASETS:
            return FolderSpec(self.study.dataset, public.digest(self.study.dataset))
        if self.study.dataset != "digits":
            found = datasets.read(Path(self.study.dataset))
            return FolderSpec(found.name, found.digest)
        small = SMOKE_IMAGES if self.study.name.startswith("smoke") else {}
        return DigitsSpec(imgsz=self.study.imgsz, **small)

    @cached_property
    def _corpus_spec(self) -> DigitsSpec:
        small = self.study.name.startswith("smoke")
        images = SMOKE_IMAGES if small else {"train": 1920, "val": 160, "test": 32}
        return DigitsSpec(part="corpus", classes=CORPUS_CLASSES, imgsz=self.study.imgsz, seed=1, **images)

    def data(self, corpus: bool = False) -> Record:
        """Record of the data set (or of the pretraining corpus): digest, names, images, boxes."""
        spec = self._corpus_spec if corpus else self._data_spec
        return self.store.get_or_run(spec, lambda folder: datasets.summary(self._load(spec, folder)))

    def dataset(self, corpus: bool = False) -> datasets.Dataset:
        """The data set itself, verified; only where records are computed."""
        record, spec = self.data(corpus), self._corpus_spec if corpus else self._data_spec
        found = self._load(spec, record.path("record.json").parent)
        require(found.digest == record.metrics["digest"], "data set digest", found.digest, record.metrics["digest"])
        return found

    def _load(self, spec, folder: Path) -> datasets.Dataset:
        if isinstance(spec, FolderSpec) and self.study.dataset in public.DATASETS:
            return public.load(self.study.dataset, folder / "dataset")
        if isinstance(spec, FolderSpec):
            return datasets.read(Path(self.study.dataset))
        return datasets.generate(spec, folder / "dataset")

    # --- trained models -----------------------------------------------------------------------------------------------

    @property
    def trainings(self) -> dict[str, tuple[str, str, str]]:
        """Label -> (shape, what it starts from, what it is trained for), of the models that this study trains."""
        found = TRAININGS[self.study.pretraining]
        return {label: how for label, how in found.items() if how[0] in self.study.models}

    def shape(self, label: str) -> ModelSpec:
        """Depth and width of a model by its label; p's are the study's."""
        name = self.trainings[label][0] if label in self.trainings else label
        return ModelSpec(*self.study.p) if name == "p" else MODELS[name]

    @property
    def pretrained(self) -> str:
        """Label of the training whose weights p (best) starts from."""
        return self.trainings["p-best"][1].split(":")[1]

    def train_spec(self, label: str, seed: int | None = None) -> TrainSpec:
        """What it takes to make the model `label` of `trainings`."""
        _, init, how = self.trainings[label]
        seed = self.study.seeds[0] if seed is None else seed
        data = self.data(corpus=how == "corpus").metrics
        epochs = self.study.pretrain_epochs if how in ("corpus", "original") else self.study.epochs
        if how == "same steps":
            per_epoch = math.ceil(data["splits"]["train"]["images"] / self.study.batch)
            epochs += round(self.trained(self.pretrained, seed).metrics["steps"] / per_epoch)
        recipe, batch = {} if self.study.dataset == "digits" else PHOTOGRAPHS, self.study.batch
        if how == "original":
            recipe, batch = ORIGINAL_RECIPE, 16
            steps = math.ceil(data["splits"]["train"]["images"] / batch)
            recipe = recipe | {"warmup_epochs": max(3.0, 100 / steps)}  # the original warms up for 100 steps at least
        if init != "random":
            way, parent = init.split(":")
            init = f"{way}:{self.trained(parent, seed).run_id}"
        return TrainSpec(
            self.shape(label),
            label,
            data["digest"],
            len(data["names"]),
            self.study.imgsz,
            epochs,
            batch,
            seed,
            init,
            **recipe,
        )

    def trained(self, label: str, seed: int | None = None) -> Record:
        """Record of one training: learning curve, scores on val and test, weights where computed; "coco": the official's."""
        if label == "coco":
            return self.official()
        spec = self.train_spec(label, seed)

        def work(folder: Path) -> dict:
            from yolop.train.trainer import train

            _, init, how = self.trainings[label]
            parent = None if init == "random" else self.model(init.split(":")[1], seed)
            return train(spec, self.dataset(corpus=how == "corpus"), folder, parent, self.study.device)

        return self.store.get_or_run(spec, work)

    @property
    def dense(self) -> str:
        """Label of the best n, from which networks with trained zeros start."""
        return "n-coco" if self.study.pretraining == "coco" else "n"

    def shrunk_spec(
        self, sparsity: float = 0.0, allocation: str = "global", removed: float = 0.0, seed: int | None = None
    ) -> SparseTrainSpec:
        """What it takes to train the best n with zeros, or with a share of its channels removed; with neither it is the
        dense control of the same training. All are taught by that n."""
        parent = self.train_spec(self.dense, seed)
        way = f"narrowed-{removed:g}" if removed else "matching"
        return SparseTrainSpec(
            parent.model,
            f"n-narrowed-{removed:g}" if removed else f"n-{allocation}-{sparsity:g}",
            parent.data,
            parent.nc,
            parent.imgsz,
            self.study.epochs,
            self.study.batch,
            parent.seed,
            f"{way}:{self.trained(self.dense, seed).run_id}",
            **({} if self.study.dataset == "digits" else PHOTOGRAPHS),
            sparsity=sparsity,
            allocation=allocation,
        )

    def shrunk(
        self, sparsity: float = 0.0, allocation: str = "global", removed: float = 0.0, seed: int | None = None
    ) -> Record:
        """Record of one training as of `shrunk_spec`; contents as of `trained`."""
        spec = self.shrunk_spec(sparsity, allocation, removed, seed)

        def work(folder: Path) -> dict:
            from yolop.train.trainer import train
            from yolop.train.zeros import SparseTrainer

            parent = self.model(self.dense, seed)
            return train(spec, self.dataset(), folder, parent, self.study.device, SparseTrainer)

        return self.store.get_or_run(spec, work)

    def official(self) -> Record:
        """The official weights of n on COCO, read without executing their pickle and kept as safetensors."""
        spec = OfficialSpec(MODELS["n"], 80, "yolov5n-v6.0", public.WEIGHTS_SHA256)

        def work(folder: Path) -> dict:
            from yolop.network import checkpoints, yolov5

            tensors = checkpoints.read_official(public.official_weights())
            model = yolov5.build(spec.model, spec.nc)
            checkpoints.load_official(model, tensors)
            checkpoints.save_weights(model, folder / "weights.safetensors")
            return {"tensors": len(tensors), "parameters": sum(p.numel() for p in model.parameters())}

        return self.store.get_or_run(spec, work)

    def official_scores(self, split: str) -> dict:
        """mAP of the official n, untouched, at 640 px on a split of coco128, whose 80 classes it knows."""
        require(self.study.dataset == "coco128", "dataset", self.study.dataset, '"coco128"')
        spec = EvaluationSpec(self.official().run_id, self.data().metrics["digest"], 640, split)

        def work(_: Path) -> dict:
            from yolop.measure.evaluation import Validation, evaluate
            from yolop.network import yolov5

            return evaluate(yolov5.fused(self.model("coco")), Validation(self.dataset(), split, spec.imgsz), 200)

        return self.store.get_or_run(spec, work).metrics

    def recipe(self) -> dict:
        """The search for the paper's unpublished p and pruning, by arithmetic over shapes."""
        from yolop.paper.recipe import RecipeSpec, search

        spec = RecipeSpec(nc_max=10, papers=20) if self.study.name.startswith("smoke") else RecipeSpec()
        return self.store.get_or_run(spec, lambda _: search(spec)).metrics

    def model(self, label: str, seed: int | None = None):
        """The trained model itself, unfused, in evaluation mode; only where records are computed."""
        return self.load(self.trained(label, seed))

    def load(self, record: Record):
        """The model of a training's record, as of `model`."""
        from yolop.network import checkpoints, yolov5

        network = yolov5.build(ModelSpec(**record.spec["model"]), record.spec["nc"])
        return checkpoints.load_weights(network, record.path("weights.safetensors")).eval()

    # --- pruning ------------------------------------------------------------------------------------------------------

    def sweep(self, name: str, seed: int | None = None) -> list[dict]:
        """Rows of a sweep over p (best): ratios asked, sparsity achieved, mAP on test.

        Args:
            name: "figures" (unpruned and the exact rows of Figures 3 to 5, in every reading and both methods, and global
                pruning beside them; with mAP50 on resampled images), or a method.
        """
        return self._sweep_record(name, seed).metrics["rows"]

    def control(self, seed: int | None = None) -> dict:
        """The control of Figure 3: one ratio for all modules that gives the sparsity of its ratios by type of module."""
        return self._sweep_record("figures", seed).metrics["control"]

    def _sweep_record(self, name: str, seed: int | None) -> Record:
        spec = SweepSpec(name, self.trained("p-best", seed).run_id, self.data().metrics["digest"], self._points(name))
        return self.store.get_or_run(spec, lambda _: self._sweep(spec, seed))

    def _points(self, name: str) -> tuple[PruneSpec, ...]:
        if name == "figures":
            rows = [dict(zip(("conv", "c3", "sppf"), row, strict=True)) for rows in PAPER_ROWS.values() for row in rows]
            return tuple(
                PruneSpec(method, reading=reading, detect=row["conv"] if everywhere else 0.0, **row)
                for method in METHODS[:2]
                for reading, everywhere in (("own", False), ("any-conv", False), ("any-conv", True))
                for row in ({"conv": 0.0}, *rows)
                if row["conv"] or not everywhere
            ) + (PruneSpec("l1-global", 0.3),)
        random = name.startswith("random")
        scopes = ("all",) if random else ("all", "all + Detect") if name == "l1-global" else tuple(SCOPES)
        return tuple(
            PruneSpec(name, seed=seed, **dict.fromkeys(SCOPES[scope], ratio))
            for scope in scopes
            for seed in (range(3) if random else (0,))
            for ratio in self.study.ratios
        )

    def _sweep(self, spec: SweepSpec, seed: int | None) -> dict:
        from dataclasses import asdict

        from yolop.measure import pruning
        from yolop.measure.evaluation import Validation, evaluate
        from yolop.network import yolov5

        model, validation = self.model("p-best", seed), Validation(self.dataset(), spec.split, self.study.imgsz)

        def row(point: PruneSpec) -> dict:
            pruned = pruning.prune(model, point)
            scores = evaluate(yolov5.fused(pruned), validation, 200 if spec.label == "figures" else 0)
            kept = {k: scores[k] for k in ("mAP50", "mAP50_95", "mAP50_resampled") if k in scores}
            return asdict(point) | pruning.achieved(pruned) | kept

        found = {"rows": [row(point) for point in progress(spec.points, f"pruning, {spec.label}")]}
        if spec.label == "figures":  # zeros of single weights grow with the ratio, so two points give the third
            uniform, by_type = (
                PruneSpec(**dict(zip(("conv", "c3", "sppf"), r, strict=True))) for r in PAPER_ROWS["figure-3"]
            )
            dense, high, goal = (
                found["rows"][spec.points.index(point)]["sparsity"] for point in (PruneSpec(), uniform, by_type)
            )
            ratio = round(uniform.conv * (goal - dense) / (high - dense), 6)
            found["control"] = row(PruneSpec(conv=ratio, c3=ratio, sppf=ratio))
        return found

    def sensitivity(self, seed: int | None = None) -> list[dict]:
        """One row per convolution of p (best): mAP on val with that convolution alone pruned by half."""
        spec = SensitivitySpec(self.trained("p-best", seed).run_id, self.data().metrics["digest"])

        def work(_: Path) -> dict:
            from yolop.measure import pruning
            from yolop.measure.evaluation import Validation, evaluate
            from yolop.network import yolov5

            model, validation = self.model("p-best", seed), Validation(self.dataset(), spec.split, self.study.imgsz)
            dense = evaluate(yolov5.fused(model), validation)
            rows = []
            for name, conv, kind in progress(pruning.layers(model), "one layer at a time"):
                pruned = pruning.prune_layer(model, name, spec.method, spec.ratio)
                scores = evaluate(yolov5.fused(pruned), validation)
                row = {"layer": name, "module": kind, "weights": conv.weight.numel(), "ratio": spec.ratio}
                row |= {"sparsity": pruning.sparsity(pruned), "mAP50": scores["mAP50"], "mAP50_95": scores["mAP50_95"]}
                rows.append(row | {"mAP50_lost": dense["mAP50"] - scores["mAP50"]})
            return {"rows": rows, "dense": {k: dense[k] for k in ("mAP50", "mAP50_95")}}

        return self.store.get_or_run(spec, work).metrics["rows"]

    # --- shapes and time ----------------------------------------------------------------------------------------------

    def census(self, name: str) -> dict[str, list[dict]]:
        """Layers of each model by its label: "sizes" (n to x and p at 640 px and 80 classes), "own" (this study's
        models at its size and classes) or "grid" (depth x width, this study's size and classes)."""
        if name == "sizes":
            spec = CensusSpec(name, tuple((m, self.shape(m)) for m in MODELS), 80, 640)
        else:
            own = tuple((m, self.shape(m)) for m in self.study.models)
            chosen = own if name == "own" else tuple((grid_label(m), m) for m in GRID)
            spec = CensusSpec(name, chosen, len(self.data().metrics["names"]), self.study.imgsz)

        def work(_: Path) -> dict:
            from yolop.network import yolov5

            return {label: yolov5.census(model, spec.nc, spec.imgsz) for label, model in spec.models}

        return self.store.get_or_run(spec, work).metrics

    def latency(self, name: str, seed: int | None = None) -> dict:
        """Timing rows: "models" (n is the baseline), "pruned" (p (best) is), or "grid" (n's shape is, random weights).

        Returns:
            {"layout": memory layout, "forward": rows of latency.measure, "whole_path": the same, of "models" only}.
        """
        nc, imgsz, rounds = len(self.data().metrics["names"]), self.study.imgsz, self.study.timing_rounds

        def variant(label: str, prune: PruneSpec | None = None, name: str = "") -> Variant:
            return Variant(name or NAMES[label], self.shape(label), self.trained(label, seed).run_id, prune)

        if name == "grid":
            ordered = sorted(GRID, key=lambda m: m != MODELS["n"])
            variants = tuple(Variant(grid_label(m), m) for m in ordered)
            rounds = max(rounds // 4, 5)
        elif name == "models":
            variants = tuple(variant(m) for m in sorted((*self.study.models, "p-best"), key=lambda m: m != "n"))
        else:
            p = dict.fromkeys(("conv", "c3", "sppf"), 0.3)
            asked = {
                "L1 unstructured 0.3": PruneSpec("l1-unstructured", **p),
                "L1 unstructured 0.3, 0.1, 0.1": PruneSpec("l1-unstructured", 0.3, 0.1, 0.1),
                "L1 unstructured 0.9": PruneSpec("l1-unstructured", 0.9, 0.9, 0.9),
                "L1 structured 0.3": PruneSpec("l1-structured", **p),
                "L1 structured 0.9": PruneSpec("l1-structured", 0.9, 0.9, 0.9),
                "L1 global 0.9": PruneSpec("l1-global", 0.9),
            }
            variants = (variant("p-best"), *(variant("p-best", prune, label) for label, prune in asked.items()))
        processes = 5 if rounds >= 125 else 1
        spec = LatencySpec(name, variants, nc, imgsz, rounds, whole_path=name == "models", processes=processes)
        return self.store.get_or_run(spec, lambda _: self._latency(spec)).metrics

    def _latency(self, spec: LatencySpec) -> dict:
        from yolop.measure import latency

        labels, baseline = [v.label for v in spec.variants], spec.variants[0].label
        weights = {v.label: self._weights(v) for v in spec.variants if v.weights}
        picture = self.dataset().splits["test"].images[0] if spec.whole_path else None
        with latency.threads(spec.threads):
            layout = latency.baseline_layout(subject(spec.variants[0], spec.nc, weights.get(baseline)), spec.imgsz)
        print(f"timing {len(labels)} variants, {spec.rounds} rounds in {spec.processes} processes", flush=True)
        parts = []
        for process in progress(range(spec.processes), "timing, process"):
            arguments = (spec, weights, picture, layout == "channels_last", process)
            if spec.processes == 1:
                parts.append(timed(*arguments))
            else:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a fresh process each time
                    parts.append(pool.submit(timed, *arguments).result())
        found = {part: latency.pooled([p[part] for p in parts], baseline) for part in parts[0]}
        return {"layout": layout} | found

    def _weights(self, variant: Variant) -> Path:
        return self.store.used[variant.weights].path("weights.safetensors")

    # --- zeros into speed ---------------------------------------------------------------------------------------------

    def atlas(self) -> list[dict]:
        """Every different convolution of the models at many sparsities: the engine's time over the dense one's."""
        shapes = tuple((m, self.shape(m)) for m in self.study.models)
        rounds = min(max(self.study.timing_rounds // 30, 5), 15)
        shares = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99) if self.thorough else (0.0, 0.3, 0.8, 0.9)
        spec = AtlasSpec(shapes, len(self.data().metrics["names"]), self.study.imgsz, shares, rounds)

        def work(_: Path) -> dict:
            from yolop.speed import atlas

            return {"rows": atlas.measure(spec, lambda items: progress(items, "atlas, layer shapes"))}

        return self.store.get_or_run(spec, work).metrics["rows"]

    @property
    def thorough(self) -> bool:
        """Whether times are taken to be believed; `smoke` only shows that everything runs."""
        return self.study.timing_rounds >= 125

    @property
    def trained_zeros(self) -> tuple[float, ...]:
        """The sparsities above 0 that n is trained with."""
        return tuple(share for share in self.study.sparsities if share)

    def narrowing_times(self) -> list[dict]:
        """What removing channels gains in PyTorch, for more and more of them: rows as of `channels.times`."""
        rounds = min(max(self.study.timing_rounds // 16, 5), 30)
        spec = NarrowingTimesSpec(self.shape("n"), len(self.data().metrics["names"]), self.study.imgsz, rounds=rounds)

        def work(_: Path) -> dict:
            from yolop.network import channels

            return {"rows": channels.times(spec)}

        return self.store.get_or_run(spec, work).metrics["rows"]

    @property
    def shares_for_times(self) -> dict[float, float]:
        """Each given time, as a share of n's -> the share of n's channels without which it comes nearest to that time."""
        rows = [row for row in self.narrowing_times() if row["removed"]] if self.study.narrowed_to else []
        return {t: min(rows, key=lambda row: abs(row["ratio"] - t))["removed"] for t in self.study.narrowed_to}

    @property
    def removed(self) -> tuple[float, ...]:
        """The shares of n's channels that are removed and the rest trained, each once."""
        return tuple(sorted(set(self.shares_for_times.values())))

    def control_sparsity(self) -> float:
        """The sparsity at which other ways to choose the zeros are trained, and other runtimes are given zeros."""
        return min(self.trained_zeros, key=lambda share: abs(share - 0.9))

    def roads(self, seed: int | None = None) -> dict[str, tuple[str, Deployment]]:
        """Every way to make n faster: what it is called -> (road, what is deployed); the first is what all compare to."""
        n, imgsz, found = self.shape("n"), self.study.imgsz, {}

        def add(
            road: str, label: str, record: Record, runtime: str = "pytorch", imgsz: int = imgsz, shape: ModelSpec = n
        ):
            name = f"{label}, {RUNTIME_NAMES[runtime]}" + (f", {imgsz} px" if imgsz != self.study.imgsz else "")
            found[name] = road, Deployment(name, shape, record.run_id, None, runtime, imgsz)

        dense = self.trained(self.dense, seed)
        for runtime in RUNTIMES:
            add({"pytorch": "none", "sparse": "sparse"}.get(runtime, "runtime"), "n", dense, runtime)
        for share in self.trained_zeros:
            add("sparse", f"n, {share:.0%} zeros", self.shrunk(share, seed=seed), "sparse")
        control = self.shrunk(self.control_sparsity(), seed=seed)
        for runtime in ("pytorch", "onnxruntime", "openvino", "ncnn"):
            add("zeros elsewhere", f"n, {self.control_sparsity():.0%} zeros", control, runtime)
        small = self.trained("p-best", seed)
        for runtime in ("pytorch", "openvino-bf16"):
            add("p", "p (best.pt)", small, runtime, shape=self.shape("p"))
        for removed in self.removed:
            for runtime in ("pytorch", "openvino-bf16"):
                label = f"n, {removed:.0%} of channels removed"
                add("channels", label, self.shrunk(removed=removed, seed=seed), runtime)
        for size in (round(imgsz * share / 32) * 32 for share in (0.8, 0.6)):
            add("resolution", "n", dense, imgsz=size)
            add("sparse", f"n, {self.control_sparsity():.0%} zeros", control, "sparse", size)
            add("runtime", "n", dense, "openvino-bf16", size)
        return found

    def road_controls(self, seed: int | None = None) -> dict[str, tuple[str, Deployment]]:
        """n trained on as long as those with zeros and taught the same way, but with none: as of `roads`, and as much a road.

        The same network as n but for its weights, so that its times are n's in the same runtime, and not taken again.
        """
        n, run_id, imgsz = self.shape("n"), self.shrunk(seed=seed).run_id, self.study.imgsz
        names = {f"n, trained on, {RUNTIME_NAMES[runtime]}": runtime for runtime in RUNTIMES}
        return {
            name: ("trained on", Deployment(name, n, run_id, None, runtime, imgsz)) for name, runtime in names.items()
        }

    @property
    def uniform_sizes(self) -> tuple[int, ...]:
        """Image sizes at which whole networks with evenly spread zeros are timed."""
        return (self.study.imgsz, 2 * self.study.imgsz) if self.thorough else (self.study.imgsz,)

    def uniform_labels(self) -> dict[tuple[str, str, float], str]:
        """(model, runtime, sparsity) -> label, of networks with evenly spread zeros; the first is what all compare to."""
        found = {(model, "pytorch", 0.0): f"{model}, PyTorch" for model in ("n", "p")}
        for model in ("n", "p"):
            for share in (0.0, 0.7, 0.8, 0.9, 0.95) if self.thorough else (0.0, 0.8, 0.9):
                found[model, "sparse", share] = f"{model}, {share:.0%} zeros, sparse engine"
        return found

    def uniform_times(self, imgsz: int) -> list[dict]:
        """Timing rows of n and p with random weights and evenly spread zeros, against dense n in PyTorch."""
        deployments = []
        for (model, runtime, share), label in self.uniform_labels().items():
            zeros = PruneSpec("random-unstructured", share, share, share, detect=share) if share else None
            deployments.append(Deployment(label, self.shape(model), "", zeros, runtime, imgsz))
        return self._timed_roads(f"uniform-{imgsz}px", tuple(deployments))

    def road_scores(self, seed: int | None = None) -> list[dict]:
        """mAP on test of every road, then of their controls, each in its own runtime, in square frames; with sizes on disk
        and distance to PyTorch."""
        return self._scored(self.roads(seed)) + self._scored(self.road_controls(seed))

    def _scored(self, roads: dict[str, tuple[str, Deployment]]) -> list[dict]:
        data, deployments = self.data().metrics, tuple(deployment for _, deployment in roads.values())
        spec = RoadScoresSpec(deployments, len(data["names"]), data["digest"])
        return self.store.get_or_run(spec, lambda _: {"rows": self._road_scores(spec)}).metrics["rows"]

    def road_times(self) -> list[dict]:
        """Timing rows of every road of the first seed against PyTorch's dense n, in processes that take turns."""
        return self._timed_roads("all", tuple(d for _, d in self.roads().values()))

    def _timed_roads(self, label: str, deployments: tuple[Deployment, ...]) -> list[dict]:
        nc, rounds = len(self.data().metrics["names"]), min(max(self.study.timing_rounds // 50, 5), 10)
        starts = RoadTimesSpec.starts if self.thorough else 1
        spec = RoadTimesSpec(label, deployments, nc, rounds=rounds, starts=starts, apart=self.thorough)
        return self.store.get_or_run(spec, lambda _: {"rows": self._road_times(spec)}).metrics["rows"]

    def exported(self, deployment: Deployment) -> Record:
        """The files of a deployment for its runtime, and their sizes."""
        spec = ExportSpec(deployment, len(self.data().metrics["names"]), self.data().metrics["digest"])

        def work(folder: Path) -> dict:
            from yolop.speed import runtimes

            model = self._subject(deployment, spec.nc)
            calibration = self.calibration(deployment.imgsz) if deployment.runtime == "openvino-int8" else None
            runtimes.export(model, deployment.runtime, deployment.imgsz, folder, calibration)
            return runtimes.sizes(folder)

        return self.store.get_or_run(spec, work)

    def calibration(self, imgsz: int, images: int = 128) -> list:
        """Photographs of the train split, (3, imgsz, imgsz) uint8, spread over it, that show which values occur."""
        from yolop.measure.evaluation import Validation

        found = Validation(self.dataset(), "train", imgsz, square=True).images
        return [found[i].numpy() for i in range(0, len(found), max(len(found) // images, 1))][:images]

    def _folder(self, deployment: Deployment) -> Path | None:
        if deployment.runtime in ("pytorch", "sparse"):
            return None
        return self.exported(deployment).path("record.json").parent

    def _road_scores(self, spec: RoadScoresSpec) -> list[dict]:
        import torch

        from yolop.measure import latency
        from yolop.measure.evaluation import Validation, evaluate
        from yolop.speed import runtimes

        sizes = {d.imgsz for d in spec.deployments}
        splits = {size: Validation(self.dataset(), spec.split, size, square=True) for size in sizes}
        rows = []
        for deployment in progress(spec.deployments, "mAP in other runtimes"):
            model, folder = self._subject(deployment, spec.nc), self._folder(deployment)
            split = splits[deployment.imgsz]
            image = split.images[0][None].float() / 255
            with latency.threads(spec.threads):
                with torch.inference_mode():
                    expected = model(image)
                call = runtimes.load(deployment.runtime, folder, model, deployment.imgsz, spec.threads)
                difference = float((call(image) - expected)[..., 4:].abs().max())
                scores = evaluate(runtimes.OneByOne(call), split, 100)
            row = {"label": deployment.label} | {k: v for k, v in scores.items() if k.startswith("mAP")}
            row |= self.exported(deployment).metrics if folder else {"file_mb": None, "compressed_mb": None}
            rows.append(row | {"max_difference": difference})
        return rows

    def _road_times(self, spec: RoadTimesSpec) -> list[dict]:
        from yolop.measure import latency
        from yolop.speed import runtimes

        jobs = {deployment.label: self._job(deployment, spec) for deployment in spec.deployments}
        baseline, parts = spec.deployments[0].label, {label: [] for label in jobs}
        in_turns = runtimes.in_turns if spec.apart else runtimes.in_one_process
        for start in range(spec.starts):
            waiting = progress(jobs.items(), f"timing in turns, start {start + 1} of {spec.starts}")
            for label, times_ms in in_turns(jobs[baseline], waiting, spec, start):
                parts[label].append(times_ms)
        rows = {label: latency.pooled(found, "baseline")[1] for label, found in parts.items()}
        again = {baseline: f"{baseline} (again)"}
        return [row | {"label": again.get(label, label)} for label, row in rows.items()]

    def _job(self, deployment: Deployment, spec: RoadTimesSpec) -> tuple:
        weights = self._weights(deployment) if deployment.weights else None
        return deployed, deployment, spec.nc, weights, self._folder(deployment), spec.threads

    def _subject(self, variant: Variant, nc: int):
        return subject(variant, nc, self._weights(variant))

    def stem(self) -> dict:
        """Focus against the 6x6 convolution of v6.0: largest difference of their outputs, and timing rows."""
        spec = StemSpec(16, self.study.imgsz, self.study.timing_rounds)

        def work(_: Path) -> dict:
            from yolop.network.yolov5 import compare_stems

            return compare_stems(spec)

        return self.store.get_or_run(spec, work).metrics

    def sparse_tensors(self) -> list[dict]:
        """What PyTorch's sparse tensors do for the convolutions of p: whether they run, and their time over dense."""
        spec = SparseTensorSpec(self.shape("p"), self.study.imgsz, rounds=max(self.study.timing_rounds // 10, 5))

        def work(_: Path) -> dict:
            from yolop.speed.torch_sparse import torch_formats

            return {"rows": torch_formats(spec)}

        return self.store.get_or_run(spec, work).metrics["rows"]

    def pictures(self) -> dict:
        """A few test pictures (JPEG, base64) with their true boxes and the detections of s, n, p and pruned p."""
        labels = [m for m in ("s", "n", "p", "p-best") if m in (*self.study.models, "p-best")]
        variants = [Variant(NAMES[m], self.shape(m), self.trained(m).run_id) for m in labels]
        for ratio in (0.3, 0.6):
            name = f"{NAMES['p-best']}, L1 unstructured {ratio}"
            prune = PruneSpec("l1-unstructured", ratio, ratio, ratio)
            variants.append(Variant(name, self.shape("p"), self.trained("p-best").run_id, prune))
        spec = PicturesSpec(tuple(variants), self.data().metrics["digest"], self.study.imgsz)
        return self.store.get_or_run(spec, lambda _: self._pictures(spec)).metrics

    def _pictures(self, spec: PicturesSpec) -> dict:
        import base64
        import io

        from PIL import Image

        from yolop.measure.evaluation import Validation, detect

        validation = Validation(self.dataset(), spec.split, spec.imgsz)
        eligible = [i for i, targets in enumerate(validation.targets) if len(targets) >= 2]
        chosen = eligible[:: max(len(eligible) // spec.images, 1)][: spec.images]  # spread over the split
        pictures = []
        for i in chosen:
            file = io.BytesIO()
            Image.fromarray(validation.images[i].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
            pictures.append(
                {"jpeg": base64.b64encode(file.getvalue()).decode(), "truth": validation.targets[i].tolist()}
            )
        found = []
        for v in spec.variants:
            model = self._subject(v, len(validation.names))
            boxes = [detect(model, validation.images[i][None])[0].tolist() for i in chosen]
            found.append({"label": v.label, "boxes": boxes})
        return {"names": list(validation.names), "pictures": pictures, "detections": found}


def subject(variant: Variant, nc: int, weights: Path | None):
    """The fused model that a variant speaks of; random weights if it has none."""
    import torch

    from yolop.measure import pruning
    from yolop.network import checkpoints, yolov5

    torch.manual_seed(0)
    model = yolov5.build(variant.model, nc)
    if weights:
        checkpoints.load_weights(model, weights)
    if variant.prune:
        model = pruning.prune(model, variant.prune)
    return yolov5.fused(model)


def deployed(deployment: Deployment, nc: int, weights: Path, folder: Path | None, threads: int):
    """A call without arguments that runs a deployment on one fixed random image."""
    import torch

    from yolop.speed import runtimes

    call = runtimes.load(deployment.runtime, folder, subject(deployment, nc, weights), deployment.imgsz, threads)
    size = deployment.imgsz
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return lambda: call(image)


def timed(spec: LatencySpec, weights: dict[str, Path], picture: Path | None, last: bool, process: int) -> dict:
    """Milliseconds of one process's share of a timing: {"forward": label -> (rounds, calls), and "whole_path"}.

    The baseline comes twice, as the A/A control.
    """
    from yolop.measure import latency

    subjects = {v.label: subject(v, spec.nc, weights.get(v.label)) for v in spec.variants}
    baseline = spec.variants[0].label
    subjects[f"{baseline} (again)"] = subjects[baseline]  # `forward` copies it, as any variant
    rounds = max(spec.rounds // spec.processes, latency.MIN_ROUNDS)
    with latency.threads(spec.threads):
        calls = {label: latency.forward(model, spec.imgsz, last) for label, model in subjects.items()}
        found = {"forward": latency.rounds_of(calls, rounds, spec.calls, seed=process)}
        if picture:
            image = datasets.read_image(picture)
            paths = {label: latency.whole_path(m, image, spec.imgsz, last) for label, m in subjects.items()}
            found["whole_path"] = latency.rounds_of(paths, rounds, spec.calls, seed=process)
    return found


def grid_label(model: ModelSpec) -> str:
    """How a shape of the grid is named in tables."""
    return f"depth {model.depth:g}, width {model.width:g}"


def progress(items: Iterable, label: str, every_s: float = 10.0) -> Iterator:
    """Yield the items; at most every ten seconds, print how many are done and how long the rest will take."""
    items = list(items)
    began = said = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - said > every_s:
            said = now
            left_s = (now - began) / done * (len(items) - done)
            print(f"{label}: {done} of {len(items)}, about {left_s:.0f} s left", flush=True)
        yield item
