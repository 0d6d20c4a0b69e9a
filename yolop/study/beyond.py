"""The nodes of a study that go beyond the paper: zeros and channels that become speed, and other runtimes."""

from __future__ import annotations

from dataclasses import dataclass

from yolop.settings import Study
from yolop.specs import ModelSpec, PruneSpec
from yolop.speed_specs import (
    CALIBRATED,
    RUNTIMES,
    AtlasSpec,
    ChannelTimesSpec,
    Configuration,
    ConfigurationScoresSpec,
    ConfigurationTimesSpec,
    ExportSpec,
    SparseTensorSpec,
)
from yolop.study.graph import Graph, Node, timing

SHARES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # of zeros in the layers of the atlas
SMALL_SHARES = (0.0, 0.3, 0.8, 0.9)
UNIFORM = (0.0, 0.7, 0.8, 0.9, 0.95)  # evenly spread zeros in whole networks
SMALL_UNIFORM = (0.0, 0.8, 0.9)
STUDY_RUNTIMES = tuple(runtime for runtime in RUNTIMES if runtime != "sparse-int8")  # that is not measured in studies yet
SMALL_RUNTIMES = ("pytorch", "sparse", "onnxruntime")


@dataclass(frozen=True)
class Option:
    """One way to make n faster: which network runs in which configuration, and what kind of way that is.

    `network` is "n", "p-best", "zeros", "channels" or "fine-tuned" (the control: n trained further, with neither); `sparsity`
    and `channels_removed` say how much of it.
    """

    group: str
    network: str
    training: Node
    configuration: Configuration
    sparsity: float = 0.0
    channels_removed: float = 0.0


def rounds(study: Study, share: int, most: int) -> int:
    """A share of a study's timing rounds, between 5 and `most`: what takes longer for each call gets fewer of them."""
    return min(max(study.timing_rounds // share, 5), most)


def atlas(graph: Graph) -> Node:
    """Every different convolution of the models at many sparsities: the engine's time over the dense one's."""
    shapes = tuple((m, graph.shape(m)) for m in (("n",) if graph.study.small else graph.study.models))
    shares = SMALL_SHARES if graph.study.small else SHARES
    spec = AtlasSpec(shapes, len(graph.facts["names"]), graph.study.imgsz, shares, rounds(graph.study, 30, 15))
    return timing(graph.study, spec)


def sparse_tensors(graph: Graph) -> Node:
    """PyTorch's sparse tensors for the convolutions of p."""
    spec = SparseTensorSpec(graph.shape("p"), graph.study.imgsz, rounds=rounds(graph.study, 10, 10000))
    return timing(graph.study, spec)


def channel_times(graph: Graph) -> Node:
    """n in PyTorch with more and more of its channels removed."""
    removed = (0.3, 0.8) if graph.study.small else ChannelTimesSpec.removed
    facts = graph.shape("n"), len(graph.facts["names"]), graph.study.imgsz
    spec = ChannelTimesSpec(*facts, removed, rounds=rounds(graph.study, 16, 30))
    return timing(graph.study, spec)


def runtimes(study: Study) -> tuple[str, ...]:
    """What networks run in."""
    return SMALL_RUNTIMES if study.small else STUDY_RUNTIMES


def options(graph: Graph, seed: int) -> list[Option]:
    """Every way to make n faster that is scored and timed; the first, dense n in PyTorch, is what all compare to."""
    study, n, imgsz = graph.study, graph.shape("n"), graph.study.imgsz

    def option(group, network, training, runtime="pytorch", imgsz=imgsz, shape: ModelSpec = n, **shares) -> Option:
        return Option(group, network, training, Configuration(shape, training.id, None, runtime, imgsz), **shares)

    dense, zeros = graph.training(graph.best_n, seed), study.control_sparsity
    groups = {"pytorch": "none", "sparse": "sparse"}
    found = [option(groups.get(runtime, "runtime"), "n", dense, runtime) for runtime in runtimes(study)]
    for share in study.trained_zeros:
        found.append(option("sparse", "zeros", graph.fine_tuned(seed, share), "sparse", sparsity=share))
    control, known = graph.fine_tuned(seed, zeros), runtimes(study)
    for runtime in (runtime for runtime in ("pytorch", "onnxruntime", "openvino", "ncnn") if runtime in known):
        found.append(option("zeros elsewhere", "zeros", control, runtime, sparsity=zeros))
    best = [runtime for runtime in ("pytorch", "openvino-bf16") if runtime in known]
    for runtime in best:
        found.append(option("p", "p-best", graph.training("p-best", seed), runtime, shape=graph.shape("p")))
    for removed in sorted(set(study.channels_removed)):
        training = graph.fine_tuned(seed, channels_removed=removed)
        for runtime in best:
            found.append(option("channels", "channels", training, runtime, channels_removed=removed))
    for size in (round(imgsz * share / 32) * 32 for share in (0.8, 0.6)):
        found.append(option("resolution", "n", dense, imgsz=size))
        found.append(option("sparse", "zeros", control, "sparse", size, sparsity=zeros))
        found += [option("runtime", "n", dense, runtime, size) for runtime in best[1:]]
    return found


def controls(graph: Graph, seed: int) -> list[Option]:
    """n trained further without zeros, in every runtime: the same network as n but for its weights, so n's times are its own."""
    training = graph.fine_tuned(seed)
    shape, imgsz = graph.shape("n"), graph.study.imgsz
    return [
        Option("fine-tuned", "fine-tuned", training, Configuration(shape, training.id, None, runtime, imgsz))
        for runtime in runtimes(graph.study)
    ]


def on_val(graph: Graph, seed: int) -> list[Option]:
    """What is scored on val: n in PyTorch, then n in 8 bits and at other sizes, of which its training's own score says nothing."""
    dense, *others = (option for option in options(graph, seed) if option.network == "n")
    return [dense, *(o for o in others if o.configuration.runtime in CALIBRATED or o.configuration.imgsz != graph.study.imgsz)]


def exported(graph: Graph, configuration: Configuration, training: Node | None) -> Node | None:
    """The files of a configuration for its runtime, or None for the runtimes that need none."""
    if configuration.runtime in ("pytorch", "sparse"):
        return None
    parents = (("data", graph.data), *(((training.id, training),) if training else ()))
    return Node(ExportSpec(configuration, len(graph.facts["names"]), graph.facts["digest"]), parents)


def _parents(graph: Graph, chosen: list[Option]) -> tuple[tuple[str, Node], ...]:
    """The data, the trainings and the exported files that some options need."""
    found = {"data": graph.data} | {option.training.id: option.training for option in chosen}
    for option in chosen:
        files = exported(graph, option.configuration, option.training)
        found |= {files.id: files} if files else {}
    return tuple(found.items())


def scores(graph: Graph, chosen: list[Option], split: str = "test") -> Node:
    """mAP on a split of some options of one training seed, each in its own runtime and in square frames."""
    configurations, facts = tuple(option.configuration for option in chosen), graph.facts
    threads = 1 if graph.study.small else ConfigurationScoresSpec.threads  # as `timing`
    spec = ConfigurationScoresSpec(configurations, len(facts["names"]), facts["digest"], split, threads)
    return Node(spec, _parents(graph, chosen))


def times(graph: Graph) -> Node:
    """Every option of the first training seed timed against the first, in processes that take turns."""
    chosen = options(graph, graph.study.seeds[0])
    return _timed(graph, "all", tuple(option.configuration for option in chosen), _parents(graph, chosen))


def uniform_sizes(study: Study) -> tuple[int, ...]:
    """Image sizes at which whole networks with evenly spread zeros are timed."""
    return tuple(size or study.imgsz for size in study.uniform_imgsz)


def uniform(study: Study) -> list[tuple[str, str, float]]:
    """(model, runtime, sparsity) of networks with random weights and evenly spread zeros; the first is the baseline."""
    shares = SMALL_UNIFORM if study.small else UNIFORM
    return [(m, "pytorch", 0.0) for m in ("n", "p")] + [(m, "sparse", share) for m in ("n", "p") for share in shares]


def uniform_times(graph: Graph, imgsz: int) -> Node:
    """Timing of `uniform` at an image size."""
    chosen = []
    for model, runtime, share in uniform(graph.study):
        zeros = PruneSpec("random-unstructured", share, share, share, detect=share) if share else None
        chosen.append(Configuration(graph.shape(model), "", zeros, runtime, imgsz))
    return _timed(graph, f"uniform-{imgsz}px", tuple(chosen), ())


def _timed(graph: Graph, label: str, chosen: tuple[Configuration, ...], parents: tuple) -> Node:
    starts, apart = (1, False) if graph.study.small else (ConfigurationTimesSpec.starts, True)
    spec = ConfigurationTimesSpec(
        label, chosen, len(graph.facts["names"]), rounds=rounds(graph.study, 50, 10), starts=starts, apart=apart
    )
    return timing(graph.study, spec, parents)
