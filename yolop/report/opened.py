"""What a notebook holds: an open study, its models, and what they score. Records are read, or computed, on demand."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from yolop.report import show
from yolop.report.scores import Score, Timing
from yolop.settings import DATASETS, DEFAULT, Study, named_study, parse
from yolop.specs import MODULES, FolderSpec, PruneSpec, even_point, require, require_known
from yolop.store import Record, Store, host
from yolop.study import beyond, further
from yolop.study.graph import ELSEWHERE, OTHER, PICTURED, PICTURED_RATIOS, PRUNED, Graph, Node, generated, labelled
from yolop.study.names import NAMES
from yolop.study.plan import all_nodes, with_parents

PARAMETERS = ("study", "settings", "records", "out")  # of every notebook


def open_study(study: str = DEFAULT, settings: str = "", records: str = "committed", out: str = "") -> OpenStudy:
    """A named study with some settings changed, ready to be read.

    Args:
        study: one of settings.STUDIES.
        settings: as on the command line: "ratios=0.1,0.25 seeds=0"; "" leaves all as they are.
        records: "committed" reads what the repository holds; "fresh" computes what `data/runs` does not hold yet.
        out: a folder into which tables, figures and verdicts are also written; "" for none.

    Raises:
        SpecError: an unknown name, setting or value, before anything is computed.
    """
    require(isinstance(records, str) and records in ("committed", "fresh"), "records", records, '"committed" or "fresh"')
    require(isinstance(out, str), "out", out, 'the path of a folder, or "" for none')
    _refuse_unknown_parameters()
    chosen = named_study(study, **parse(settings))
    if records == "fresh":
        from yolop.packages import require_no_conflicts

        require_no_conflicts()
    opened = OpenStudy(chosen, Store(records))
    show.into(Path(out).expanduser() if out else None, opened)
    return opened


def _refuse_unknown_parameters() -> None:
    """SpecError for a parameter that papermill put into this notebook although no notebook has it."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for source in shell.user_ns.get("In", []) if shell else []:
        if source.startswith("# Parameters"):  # papermill's own cell
            targets = (target for line in ast.parse(source).body for target in getattr(line, "targets", []))
            for name in (target.id for target in targets):
                require(name in PARAMETERS, "parameter", name, "one of " + ", ".join(PARAMETERS))


class OpenStudy:
    """A study with its records. `settings` are its settings, `graph` its nodes, `data` and `corpus` what its data sets hold."""

    def __init__(self, settings: Study, store: Store):
        self.store = store
        data = data_spec(settings)
        self.settings = replace(settings, digest=data.digest) if isinstance(data, FolderSpec) else settings
        self._data = Node(data)
        corpus = corpus_spec(settings)
        if settings.corpus:
            require(corpus.digest != self.settings.digest, "corpus", settings.corpus, "another set than the data set itself")
            if corpus.path and getattr(data, "path", ""):
                from yolop.data.load import require_unseen

                require_unseen(Path(corpus.path), Path(data.path))
            self.settings = replace(self.settings, corpus_digest=corpus.digest)
        self._corpus = Node(corpus) if corpus else None

    @property
    def sources(self) -> list[Node]:
        """The nodes of its data sets, which are known before the graph is."""
        return [self._data, *([self._corpus] if self._corpus else [])]

    @cached_property
    def data(self) -> dict:
        """What the data set holds: name, names of classes, digest, and of each split images, boxes and their sizes."""
        return self.store.obtain(self._data).metrics

    @cached_property
    def corpus(self) -> dict | None:
        """The same of what is pretrained on, where that is not the data set itself."""
        return self.store.obtain(self._corpus).metrics if self._corpus else None

    @cached_property
    def graph(self) -> Graph:
        """Every piece of work of this study as a node; SpecError where test images are made from what is trained on."""
        require_apart(self.data, self.corpus)
        return Graph(self.settings, self._data, self.data, self._corpus, self.corpus)

    def labelled(self, split: str) -> int:
        """How many images of a split have a labelled box."""
        counts = self.data["splits"][split]
        return counts["images"] - counts["background_images"]

    def record(self, node: Node) -> Record:
        """The record of a node, read or computed."""
        return self.store.obtain(node)

    def model(self, label: str) -> Model:
        """A model by its label, such as "n" or "p-best": one training for each seed."""
        require_known("model", label, self.graph.trainings)
        return Model(self, label, tuple(self.graph.training(label, seed) for seed in self.settings.seeds))

    def models(self, *labels: str) -> dict[str, Model]:
        """Models by label; without labels, all that the study trains on the data set itself."""
        trainings = self.graph.trainings
        return {k: self.model(k) for k in labels or [k for k, how in trainings.items() if how[2] not in ELSEWHERE]}

    def fine_tuned(self, *made, **how) -> Model:
        """The best n trained further, with zeros or without a share of its channels, as of `Graph.fine_tuned`; or the control."""
        return self._model([self.graph.fine_tuned(seed, *made, **how) for seed in self.settings.seeds])

    def shaped(self, shape: str) -> Model:
        """A network of another shape, written as depth x width ("0.33x0.1875"), trained from scratch as n and p are."""
        return self._model([further.shaped(self.graph, shape, seed) for seed in self.settings.seeds])

    def longer(self, label: str) -> Model:
        """s, n or p from scratch, of the first training seed, for `longer` times the epochs."""
        return self._model([further.longer(self.graph, label)])

    def retrained(self, way: str, ratio: float) -> Model:
        """p (best) pruned in a way of RETRAINED and trained again; at ratio 0 the control, which loses nothing."""
        return self._model([further.retrained(self.graph, way, ratio, seed) for seed in self.settings.seeds])

    def _model(self, nodes: list[Node]) -> Model:
        return Model(self, nodes[0].spec.label, tuple(nodes))

    def layers(self, label: str = "own") -> dict[str, pd.DataFrame]:
        """Model -> a row per layer, counted in the built network.

        "own": the study's models at its image size and classes; "sizes": n to x and p at 640 px and 80 classes; "grid":
        depth by width, the study's image size and classes.
        """
        node = self.graph.census(label)
        return {name: pd.DataFrame(self.record(node).metrics[name]) for name, _ in node.spec.models}

    def timing(self, label: str, part: str = "forward") -> Timing:
        """Times against a baseline: "models" (n's), "pruned" (p (best)'s) or "grid" (that of n's shape).

        Args:
            part: "forward", or "whole_path" from picture to boxes (of "models" only).
        """
        keys = {"models": self.graph.timed, "pruned": ("p-best", *PRUNED)}
        chosen = keys[label] if label in keys else [v.model for v in self.graph.latency(label).spec.variants]
        rows = self.record(self.graph.latency(label)).metrics[part]
        return Timing(dict(zip(chosen, rows[:-1], strict=True)), rows[-1])

    def stem(self) -> tuple[float, Timing]:
        """Largest difference of the outputs of Focus and the 6x6 convolution, and their times; Focus is the baseline."""
        metrics = self.record(self.graph.stem()).metrics
        focus, conv, again = metrics["rows"]
        return metrics["max_difference"], Timing({"Focus": focus, "Conv 6x6": conv}, again)

    def recipe(self) -> dict:
        """What the search for the paper's unpublished p found: see `paper.recipe`."""
        return self.record(self.graph.recipe()).metrics

    def sparse_tensors(self) -> pd.DataFrame:
        """What PyTorch's sparse tensors do for the convolutions of p: a row per layer shape, layout, path and sparsity."""
        return pd.DataFrame(self.record(beyond.sparse_tensors(self.graph)).metrics["rows"])

    def labelled_pictures(self) -> dict:
        """Some train pictures with their boxes, those with the smallest and the largest object first."""
        return self.record(labelled(self.graph)).metrics

    def pictures(self) -> dict:
        """Test pictures with their true boxes, and what the models detect in them, p (best) also with some weights zeroed."""
        metrics = self.record(self.graph.pictures()).metrics
        names = [NAMES[label] for label in PICTURED if label in (*self.settings.models, "p-best")]
        names += [f"{NAMES['p-best']}, {100 * ratio:g} % zeros" for ratio in PICTURED_RATIOS]
        return metrics | {"detections": [row | {"label": name} for name, row in zip(names, metrics["detections"], strict=True)]}

    def computed(self, notebook: str) -> OpenStudy:
        """This study, after computing what a notebook ("04") asks for and no record here holds; reads only if it is "committed"."""
        if self.store.records == "fresh":
            missing = with_parents(filter(None, map(self.store.missing, all_nodes(self.graph, [notebook]))))
            missing = [node for node in missing.values() if self.store.missing(node)]
            for number, node in enumerate(missing, start=1):
                print(f"computing {number} of {len(missing)}: {node.id}", flush=True)
                self.store.obtain(node)
        return self

    @property
    def machine(self) -> str:
        """The processors on which the study was timed, or the one that a fresh run computes on."""
        timed = filter(None, (self.store.get(node.spec) for node in all_nodes(self.graph) if node.quiet))
        return " and ".join(sorted({record.host["cpu"] for record in timed})) or host()["cpu"]

    def __repr__(self) -> str:
        settings, seeds = self.settings, ", ".join(map(str, self.settings.seeds))
        small = "The numbers of this study mean nothing: it only shows that everything runs.\n" if settings.small else ""
        data = "" if self.data["name"] == settings.report else f"{self.data['name']}, "
        where = f"{settings.imgsz} px, training seeds {seeds}, timed on {self.machine}, {self.store.records} records."
        return f"{small}Study {settings.report}: {data}{where}"


@dataclass(frozen=True)
class Model:
    """One model of a study: the same training once for each seed."""

    study: OpenStudy
    label: str
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """How tables and figures call it."""
        shape = self.nodes[0].spec.model
        return NAMES.get(self.label) or f"depth {shape.depth:g}, width {shape.width:g}"

    @cached_property
    def records(self) -> list[Record]:
        """The record of each training: learning curve, scores, and weights where they were computed here."""
        return [self.study.record(node) for node in self.nodes]

    def score(self, split: str = "test") -> Score:
        """Its mAP on val or test."""
        require(split in ("val", "test"), "split", split, '"val" or "test"')
        return Score(tuple(record.metrics[split] for record in self.records), self.study.labelled(split))

    def curves(self) -> pd.DataFrame:
        """Its learning curves: a row per training seed and epoch; mAP on val where it was taken."""
        seeds = self.study.settings.seeds
        parts = [pd.DataFrame(r.metrics["curve"]).assign(training_seed=s) for s, r in zip(seeds, self.records, strict=True)]
        curves = pd.concat(parts, ignore_index=True)
        return curves.assign(label=self.label, model=self.name, loss=curves[["box", "obj", "cls"]].sum(axis=1))

    def pruned(self, points: tuple[PruneSpec, ...]) -> pd.DataFrame:
        """What is left after each pruning, without retraining: a row per point and training seed.

        Columns: method, modules, the four ratios asked, `ratio` (their largest), `sparsity` achieved, mAP50, mAP50_95 on test.
        """
        self._require_best()
        by_method: dict[str, list[PruneSpec]] = {}
        for point in points:
            by_method.setdefault(point.method, []).append(point)
        rows = []
        for seed in self.study.settings.seeds:
            for method, chosen in by_method.items():
                rows += [row | {"training_seed": seed} for row in self._rows(method, seed, tuple(chosen))]
        frame = pd.DataFrame(rows)
        asked = frame[["conv", "c3", "sppf", "detect"]]
        frame["ratio"] = asked.max(axis=1)
        modules = {names: key for key, names in MODULES.items()}
        named = [tuple(asked.columns[line == ratio]) for line, ratio in zip(asked.to_numpy(), frame["ratio"], strict=True)]
        return frame.assign(modules=[modules.get(names, "by type") for names in named])

    def pruned_score(self, point: PruneSpec) -> Score:
        """Its mAP on test after one pruning, with the interval, without retraining."""
        self._require_best()
        rows = tuple(self._rows("figures", seed, (point,))[0] for seed in self.study.settings.seeds)
        return Score(rows, self.study.labelled("test"))

    def even(self, by_type: Score) -> Score:
        """The control of a pruning by type of module: one ratio for all modules that gives exactly as many zeros."""
        ratio = by_type.by_seed[0]["conv"]
        dense, uniform = self.pruned_score(PruneSpec()), self.pruned_score(PruneSpec(conv=ratio, c3=ratio, sppf=ratio))
        rows = []
        for seed, *three in zip(self.study.settings.seeds, dense.by_seed, uniform.by_seed, by_type.by_seed, strict=True):
            rows += self._rows("figures", seed, (even_point(ratio, *(row["sparsity"] for row in three)),))
        return Score(tuple(rows), self.study.labelled("test"))

    def one_by_one(self) -> pd.DataFrame:
        """mAP on val with half of the weights of one convolution zeroed, layer by layer: a row per layer and training seed."""
        self._require_best()
        graph, seeds = self.study.graph, self.study.settings.seeds
        parts = [self.study.record(graph.sensitivity(seed)).metrics["rows"] for seed in seeds]
        return pd.concat([pd.DataFrame(rows).assign(training_seed=s) for s, rows in zip(seeds, parts, strict=True)])

    def _rows(self, label: str, seed: int, chosen: tuple[PruneSpec, ...]) -> list[dict]:
        node = self.study.graph.sweep(label, seed, chosen)
        rows = dict(zip(node.spec.points, self.study.store.rows(node), strict=True))
        return [rows[point] for point in chosen]

    def _require_best(self) -> None:
        require(self.label == "p-best", "model", self.label, 'study.model("p-best"): the paper prunes no other')


def corpus_spec(settings: Study):
    """What a study pretrains on: the set that it names, generated digits, another public set, or None: the data set itself."""
    if settings.corpus:
        return data_spec(replace(settings, dataset=settings.corpus, corpus=""))
    if settings.pretraining == "corpus":
        return generated(settings, corpus=True)
    other = OTHER.get(settings.dataset)
    return data_spec(replace(settings, dataset=other)) if other else None


def require_apart(data: dict, corpus: dict | None) -> None:
    """SpecError if generated val or test images use handwriting or a photograph that any training sees, by content."""
    own = {split: set(facts.get("material", ())) for split, facts in data["splits"].items()}
    trained = own["train"].union(*(facts.get("material", ()) for facts in corpus["splits"].values())) if corpus else own["train"]
    for split, others in (("val", trained), ("test", trained | own["val"])):
        shared = len(own[split] & others)
        require(not shared, f"material of {split}", f"{shared} samples or photographs that are trained on", "other ones")


def data_spec(settings: Study):
    """The data set of a study as a spec: generated, public by name, or the folder of a data.yaml, which is read for it."""
    if settings.dataset == "digits":
        return generated(settings)
    if settings.dataset in DATASETS:
        from yolop.data import public

        return FolderSpec(settings.dataset, public.digest(settings.dataset))
    from yolop.data import folder

    path = Path(settings.dataset).expanduser().resolve()
    found = folder.read(path)
    return FolderSpec(found.name, found.digest, str(path))
