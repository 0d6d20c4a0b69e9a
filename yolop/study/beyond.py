"""The nodes of a study that go beyond the paper: zeros and channels that become speed, and other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_high

from yolop.settings import Study
from yolop.specs import PruneSpec
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
FEWER_SHARES = (0.0, 0.3, 0.7, 0.8, 0.9, 0.95)  # 0.3, for a claim
UNIFORM = (0.0, 0.7, 0.8, 0.9, 0.95)  # evenly spread zeros in whole networks
FEWER_UNIFORM = (0.0, 0.8, 0.9)
SMALL_RUNTIMES = ("pytorch", "sparse", "onnxruntime")
FAST = ("pytorch", "openvino-bf16", "openvino-int8", "sparse-int8")  # what other networks than n run in, where few are crossed
SKIPPING = ("sparse", "sparse-int8")  # what zeros can bring speed in
BLOCK = 4  # input channels that one instruction of the processor multiplies in 8 bits
SMALLER = 0.8  # side of smaller images, as a share of the study's


@dataclass(frozen=True)
class Option:
    """One way to make n faster: which network runs in which configuration.

    `network` is "n", "fine-tuned" (the control: n trained further, with neither of the following), "p-best", "zeros",
    "channels" or "both" of n, or "p-zeros"; `sparsity`, `block` (1: single zeros) and `channels_removed` say how much of it.
    """

    network: str
    training: Node
    configuration: Configuration
    sparsity: float = 0.0
    block: int = 1
    channels_removed: float = 0.0


def rounds(study: Study, share: int, most: int) -> int:
    """A share of a study's timing rounds, between 5 and `most`: what takes longer for each call gets fewer of them."""
    return min(max(study.timing_rounds // share, 5), most)


def atlas(graph: Graph) -> Node:
    """Every different convolution of the models at many sparsities: the engine's time over the dense one's."""
    shapes = tuple((m, graph.shape(m)) for m in (("n",) if graph.study.small else graph.study.models))
    shares = SHARES if graph.study.blocks else FEWER_SHARES
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
    return SMALL_RUNTIMES if study.small else RUNTIMES


def smaller_ways(study: Study) -> list[tuple[float, int, float]]:
    """(sparsity, block, channels removed) of every n that is made smaller by training: its zeros, its channels, and both.

    Both: where there are blocks, the middle share of channels removed with the middle share of zeros.
    """
    block, zeros, channels = BLOCK if study.blocks else 1, study.blocks or study.trained_zeros, sorted(set(study.channels_removed))
    found = [(0.0, 1, share) for share in channels] + [(share, block, 0.0) for share in sorted(zeros)]
    if study.blocks and channels:
        found.append((median_high(zeros), block, median_high(channels)))
    return found


def options(graph: Graph, seed: int) -> list[Option]:
    """Networks crossed with runtimes and sizes of images, n in PyTorch first: all are compared to it."""
    study, n = graph.study, graph.shape("n")
    networks = [("n", graph.training(graph.best_n, seed), n, {}), ("fine-tuned", graph.fine_tuned(seed), n, {})]
    networks.append(("p-best", graph.training("p-best", seed), graph.shape("p"), {}))
    if study.blocks:
        made = {"sparsity": median_high(study.blocks), "block": BLOCK}
        networks.append(("p-zeros", graph.fine_tuned(seed, **made, label="p-best"), graph.shape("p"), made))
    for sparsity, block, removed in smaller_ways(study):
        made = {"sparsity": sparsity, "block": block, "channels_removed": removed}
        kind = "both" if sparsity and removed else "zeros" if sparsity else "channels"
        networks.append((kind, graph.fine_tuned(seed, **made), n, made))
    return [
        Option(network, training, Configuration(shape, training.id, None, runtime, imgsz), **made)
        for network, training, shape, made in networks
        for runtime, imgsz in _runtimes_and_sizes(study, network, made.get("sparsity", 0.0))
    ]


def _runtimes_and_sizes(study: Study, network: str, sparsity: float) -> list[tuple[str, int]]:
    """(runtime, image size) of a network: every runtime, and 8 bits on smaller images; n runs on these in PyTorch, too.

    Where no zeros in blocks are trained only n runs in all runtimes, other networks in the fast ones, and images keep their size.
    Of several shares of zeros one runs in all of these, to show what zeros do where nothing skips them; the others where zeros
    are skipped.
    """
    dense, only = network in ("n", "fine-tuned"), sparsity and (network in ("both", "p-zeros") or sparsity != study.shown_zeros)
    fits = RUNTIMES if dense or study.blocks else FAST + SKIPPING * bool(sparsity)
    known, fits = runtimes(study), SKIPPING if only else fits
    smaller = () if not study.blocks else SKIPPING[1:] if sparsity else CALIBRATED + ("pytorch",) * dense
    found = [(runtime, study.imgsz) for runtime in known if runtime in fits]
    return found + [(runtime, round(study.imgsz * SMALLER / 32) * 32) for runtime in known if runtime in smaller]


def timed(graph: Graph) -> list[Option]:
    """The options of the first training seed that are timed: fine-tuned n has n's times."""
    return [option for option in options(graph, graph.study.seeds[0]) if option.network != "fine-tuned"]


def on_val(graph: Graph, seed: int) -> list[Option]:
    """What is scored on val: every network once in float32, and all in 8 bits or on smaller images."""
    chosen = options(graph, seed)
    first = {option.training.id: option for option in reversed(chosen)}
    changed = [o.configuration.runtime in CALIBRATED or o.configuration.imgsz != graph.study.imgsz for o in chosen]
    return [o for o, apart in zip(chosen, changed, strict=True) if apart or o is first[o.training.id]]


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
    spec = ConfigurationScoresSpec(configurations, len(facts["names"]), facts["digest"], split)
    return Node(spec, _parents(graph, chosen))


def times(graph: Graph) -> Node:
    """`timed` against the first of them, in processes that take turns."""
    chosen = timed(graph)
    return _timed(graph, "all", tuple(option.configuration for option in chosen), _parents(graph, chosen))


def uniform_sizes(study: Study) -> tuple[int, ...]:
    """Image sizes at which whole networks with evenly spread zeros are timed."""
    return tuple(size or study.imgsz for size in study.uniform_imgsz)


def uniform(study: Study) -> list[tuple[str, str, float]]:
    """(model, runtime, sparsity) of networks with random weights and evenly spread zeros; the first is the baseline."""
    shares = UNIFORM if study.blocks else FEWER_UNIFORM
    return [(m, "pytorch", 0.0) for m in ("n", "p")] + [(m, "sparse", share) for m in ("n", "p") for share in shares]


def uniform_times(graph: Graph, imgsz: int) -> Node:
    """Timing of `uniform` at an image size."""
    chosen = []
    for model, runtime, share in uniform(graph.study):
        zeros = PruneSpec("random-unstructured", share, share, share, detect=share) if share else None
        chosen.append(Configuration(graph.shape(model), "", zeros, runtime, imgsz))
    return _timed(graph, f"uniform-{imgsz}px", tuple(chosen), ())


def _timed(graph: Graph, label: str, chosen: tuple[Configuration, ...], parents: tuple) -> Node:
    quick = {"starts": 1, "apart": False} if graph.study.small else {}
    spec = ConfigurationTimesSpec(label, chosen, len(graph.facts["names"]), rounds=rounds(graph.study, 50, 10), **quick)
    return timing(graph.study, spec, parents)
