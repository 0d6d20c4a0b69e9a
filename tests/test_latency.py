"""Paired timing on a machine whose clock moves only when something runs on it, so that nothing depends on ours."""

import copy
import gc
import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from yolop.measure import latency
from yolop.network import yolov5
from yolop.report.scores import Ratio
from yolop.specs import MODELS, LatencySpec, ModelSpec, PruneSpec, SpecError, Variant


class Machine:
    """Work of a known duration; `slowness` (seconds since the start -> factor) says how the machine changes."""

    def __init__(self, slowness=lambda seconds: 1.0, noise=0.0, seed=0):
        self.now_ns, self.slowness, self.noise = 0.0, slowness, noise
        self.rng = np.random.default_rng(seed)
        self.log = []

    def clock(self) -> int:
        return round(self.now_ns)

    def work(self, ms: float, name: str = ""):
        def call():
            self.log.append(name)
            self.now_ns += ms * 1e6 * self.slowness(self.now_ns / 1e9) * np.exp(self.rng.normal(0, self.noise))

        return call

    def measure(self, durations_ms: dict, rounds=20, calls_per_block=5, **options) -> dict[str, dict]:
        calls = {name: self.work(ms, name) for name, ms in durations_ms.items()}
        rows = latency.measure(calls, "n", rounds, calls_per_block, clock=self.clock, **options)
        return {row["label"]: row for row in rows}


def test_known_durations_are_recovered():
    rows = Machine().measure({"n": 10, "s": 20, "p": 7.5}, rounds=6, calls_per_block=4, warmup=3)
    assert list(rows) == ["n", "s", "p"]
    expected = {"latency_ms": 20, "p90_ms": 20, "fps": 50, "n_calls": 24}
    expected |= dict.fromkeys(("ratio", "ratio_low", "ratio_high"), 2)
    assert rows["s"] == pytest.approx(expected | {"label": "s"})
    assert rows["p"]["ratio"] == pytest.approx(0.75)
    assert (rows["n"]["ratio"], rows["n"]["ratio_low"], rows["n"]["ratio_high"]) == (1, 1, 1)
    json.dumps(list(rows.values()), allow_nan=False)  # a record can hold them


def test_median_and_p90_of_all_calls():
    expected = np.arange(1, 101) ** 2  # skewed, so that mean and median differ
    durations, machine = iter(np.random.default_rng(0).permutation(expected)), Machine()
    calls = {"n": lambda: machine.work(next(durations))()}
    row = latency.measure(calls, "n", 10, 10, warmup=0, clock=machine.clock)[0]
    assert row["latency_ms"] == pytest.approx(np.median(expected))
    assert row["p90_ms"] == pytest.approx(np.percentile(expected, 90))


def test_aa_control_is_near_1_and_equivalent():
    rows = Machine(noise=0.02).measure({"n": 10, "s": 20}, rounds=60, aa=True)
    assert list(rows) == ["n", "s", "n (again)"]
    again = rows["n (again)"]
    assert again["ratio"] == pytest.approx(1, abs=0.01)
    assert 0.98 < again["ratio_low"] <= again["ratio"] <= again["ratio_high"] < 1.02
    assert Ratio.of(again).equivalent and not Ratio.of(rows["s"]).equivalent


def test_the_interval_widens_with_noise_and_wide_noise_is_not_equivalence():
    calm, wild = (Machine(noise=noise).measure({"n": 10}, aa=True)["n (again)"] for noise in (0.01, 0.5))
    assert Ratio.of(calm).equivalent and not Ratio.of(wild).equivalent
    assert calm["ratio_high"] - calm["ratio_low"] < 0.1 * (wild["ratio_high"] - wild["ratio_low"])
    assert wild["ratio_low"] < 1 < wild["ratio_high"]


@pytest.mark.parametrize(
    "slowness",
    [lambda t: 1 + t, lambda t: 3.0 if 1 < t < 3 else 1.0, lambda t: 1.5 + np.sin(7 * t)],
    ids=["slower and slower", "a slow spell", "waves"],
)
def test_a_machine_that_changes_does_not_bias_the_ratio(slowness):
    rows = Machine(slowness, noise=0.002).measure({"n": 1, "s": 2}, rounds=200, calls_per_block=3)
    assert rows["s"]["ratio"] == pytest.approx(2, rel=0.01)
    assert rows["s"]["ratio_low"] < 2 < rows["s"]["ratio_high"]
    # one after the other, the same clock would have told another story
    machine, medians = Machine(slowness), []
    for ms in (1, 2):
        stamps = [machine.clock()] + [(machine.work(ms)(), machine.clock())[1] for _ in range(600)]
        medians.append(np.median(np.diff(stamps)))
    assert abs(medians[1] / medians[0] / 2 - 1) > 0.05


def test_one_interrupted_round_is_one_vote():
    machine = Machine()
    count = iter(range(10**6))
    calls = {"n": machine.work(10), "s": lambda: machine.work(2000 if next(count) < 10 else 20)()}
    row = latency.measure(calls, "n", 20, 5, warmup=0, clock=machine.clock)[1]
    assert row["ratio"] == pytest.approx(2) and row["ratio_high"] == pytest.approx(2)


def test_a_cold_first_call_of_each_block_does_not_reach_the_ratio():
    machine, last = Machine(), [""]

    def call(name, ms, cold_ms):
        machine.work(ms if last[0] == name else cold_ms)()
        last[0] = name

    calls = {"n": lambda: call("n", 10, 10), "s": lambda: call("s", 20, 60)}
    row = latency.measure(calls, "n", 20, 3, clock=machine.clock)[1]
    assert row["ratio"] == pytest.approx(2)


def test_blocks_alternate_in_a_shuffled_and_seeded_order():
    def order(seed):
        machine = Machine()
        machine.measure({"n": 1, "s": 1, "p": 1}, rounds=30, calls_per_block=4, warmup=2, seed=seed)
        return machine.log

    log = order(0)
    assert log[:6] == ["n", "n", "s", "s", "p", "p"]  # warm-up of all before anything is timed
    blocks = np.array(log[6:]).reshape(30, 3, 4)
    assert (blocks == blocks[:, :, :1]).all(), "a block is of one variant"
    assert all(sorted(r) == ["n", "p", "s"] for r in blocks[:, :, 0].tolist()), "each round has each variant once"
    assert len({tuple(r) for r in blocks[:, :, 0].tolist()}) == 6, "all orders occur"
    assert order(0) == log != order(1)


def test_garbage_collection_is_off_in_blocks_and_back_afterwards():
    seen = []
    latency.measure({"n": lambda: seen.append(gc.isenabled())}, "n", 5, 2, warmup=0)
    assert seen == [False] * 10 and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        latency.measure({"n": lambda: 1 / 0}, "n", 5, 2, warmup=0)
    assert gc.isenabled()
    gc.disable()
    try:
        latency.measure({"n": lambda: None}, "n", 5, 2)
        assert not gc.isenabled(), "it was off before"
    finally:
        gc.enable()


REFUSED = {
    r"baseline = 'x'.*n, s": {"baseline": "x"},
    "rounds = 4.*5 or more": {"rounds": 4},
    "calls_per_block = 0": {"calls_per_block": 0},
    "warmup = -1": {"warmup": -1},
    r"label = 'n \(again\)'": {"calls": {"n": 1, "n (again)": 1}, "aa": True},
}


@pytest.mark.parametrize("message", REFUSED)
def test_impossible_measurements_are_refused_before_any_call(message):
    calls = dict.fromkeys("ns", lambda: pytest.fail("called"))
    with pytest.raises(SpecError, match=message):
        latency.measure(**{"calls": calls, "baseline": "n", "rounds": 10, "calls_per_block": 5} | REFUSED[message])


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    results = [latency.ratio_of(0.9 * np.exp(rng.normal(0, 0.05, 15)), seed=i) for i in range(300)]
    assert np.mean([r["ratio_low"] <= 0.9 <= r["ratio_high"] for r in results]) > 0.92
    assert all(r["ratio_low"] <= r["ratio"] <= r["ratio_high"] for r in results)


@pytest.mark.parametrize("truth", [0.98, 1.02])
def test_a_change_as_large_as_the_margin_is_rarely_called_none(truth):
    rng = np.random.default_rng(1)
    claims = [Ratio.of(latency.ratio_of(truth * np.exp(rng.normal(0, 0.01, 20)), seed=i)).equivalent for i in range(300)]
    assert np.mean(claims) < 0.06  # 2.5 %, within what 300 trials can tell
    claims = [Ratio.of(latency.ratio_of(np.exp(rng.normal(0, 0.01, 20)), seed=i)).equivalent for i in range(50)]
    assert np.mean(claims) > 0.95


def test_swapping_the_two_inverts_the_ratio():
    ratios = np.random.default_rng(2).lognormal(0.1, 0.2, 16)
    there, back = latency.ratio_of(ratios), latency.ratio_of(1 / ratios)
    assert back["ratio"] == pytest.approx(1 / there["ratio"], rel=1e-12)
    assert back["ratio_low"] == pytest.approx(1 / there["ratio_high"], rel=0.02)
    assert latency.ratio_of(ratios, seed=3) == latency.ratio_of(ratios, seed=3)


@pytest.mark.parametrize("ratios", [[1.0] * 4, [[1.0] * 5], [1, 1, 1, 1, 0], [1, 1, 1, 1, float("inf")]])
def test_impossible_ratios_are_refused(ratios):
    with pytest.raises(SpecError, match="ratios"):
        latency.ratio_of(ratios)


def test_threads_are_restored():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), latency.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with pytest.raises(SpecError, match="threads = 0"), latency.threads(0):
        pass


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return yolov5.build(ModelSpec(0.1, 0.1), nc=3)


@pytest.fixture
def model(plain):
    return yolov5.fused(plain)


def is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_forward_runs_the_model_in_its_own_layout(model):
    seen = []
    conv = model.model[0].conv
    conv.register_forward_pre_hook(lambda m, inputs: seen.append([is_channels_last(t) for t in (m.weight, *inputs)]))
    calls = [latency.forward(model, 64, channels_last) for channels_last in (False, True)]
    nchw, nhwc, again = calls[0](), calls[1](), calls[0]()
    assert seen == [[False, False], [True, True], [False, False]]
    assert not is_channels_last(conv.weight), "the model passed in changed"
    assert torch.equal(nchw, again)
    torch.testing.assert_close(nchw, nhwc, rtol=1e-3, atol=1e-3)
    assert nchw.shape == (1, 3 * (8 * 8 + 4 * 4 + 2 * 2), 5 + 3)
    assert nchw.is_inference()


def test_a_model_that_would_give_a_wrong_time_is_refused(plain):
    fused, unfused = (lambda: yolov5.fused(plain)), copy.deepcopy(plain).eval()
    for spoiled, message in (
        (fused().train(), "training mode = True"),
        (fused().double(), "precision = .*float64"),
        (fused().bfloat16(), "precision = .*bfloat16"),
        (fused().to("meta"), "device = .*meta"),
        (unfused, "batch norm = 'unfused'"),
    ):
        with pytest.raises(SpecError, match=message + r".*yolov5\.fused"):
            latency.forward(spoiled, 64)
    with pytest.raises(SpecError, match="imgsz = 100.*multiple of 32"):
        latency.forward(fused(), 100)


def test_whole_path_letterboxes_before_detecting(model, monkeypatch):
    seen = []
    monkeypatch.setattr(latency, "detect", lambda model, images: seen.append((model, images)) or ["boxes"])
    image = np.zeros((40, 80, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    call = latency.whole_path(model, image, 64, channels_last=True)
    assert call() == ["boxes"] == call()
    timed, images = seen[0]
    assert torch.equal(images, seen[1][1]) and (image == [10, 20, 30]).all(), "the picture stays as it is"
    assert images.shape == (1, 3, 64, 64) and images.dtype == torch.uint8
    assert images[0, :, 32, 32].tolist() == [10, 20, 30]
    assert (images[0, :, :16] == 114).all() and (images[0, :, -16:] == 114).all()
    assert is_channels_last(timed.model[0].conv.weight) and not is_channels_last(model.model[0].conv.weight)
    for bad in (image[:, :, 0], image.astype(np.float32), image[:, :, :2], None):
        with pytest.raises(SpecError, match=r"image = .*\(H, W, 3\)"):
            latency.whole_path(model, bad, 64)


def test_whole_path_ends_in_the_boxes_that_are_left(model):
    with torch.no_grad():
        for conv in model.model[-1].m:
            conv.bias.view(3, -1)[:, 4:] = 2.0  # it sees all classes everywhere
    (boxes,) = latency.whole_path(model, np.full((48, 64, 3), 90, np.uint8), 64)()
    assert 1 < len(boxes) < 252 and (boxes[:, 4].diff() <= 0).all() and boxes[-1, 4] > 0.25
    for kind in boxes[:, 5].unique():
        own = boxes[boxes[:, 5] == kind, :4]
        assert (box_iou(own, own).fill_diagonal_(0) <= 0.45).all()


@pytest.mark.parametrize(("ratio", "layout"), [(0.9, "channels_last"), (1.1, "contiguous")])
def test_baseline_layout_is_the_faster_one(model, monkeypatch, ratio, layout):
    def measure(calls, baseline, *_, **__):
        assert list(calls) == ["contiguous", "channels_last"] and baseline == "contiguous"
        assert all(call().shape == (1, 63, 8) for call in calls.values())
        return [{"label": "contiguous", "ratio": 1.0}, {"label": "channels_last", "ratio": ratio}]

    monkeypatch.setattr(latency, "measure", measure)
    assert latency.baseline_layout(model, 32) == layout


def test_an_interval_over_processes_holds_what_differs_between_them():
    rng = np.random.default_rng(0)
    shifts = [0.97, 1.0, 1.03, 0.99, 1.02]
    # each process steady in itself, but off by up to 3 %
    parts = [{"a": np.ones((100, 1)), "b": (shift * rng.normal(1, 0.005, (100, 1)))} for shift in shifts]
    (_, apart), (_, together) = latency.pooled(parts, "a"), latency.pooled([parts[1]], "a")
    assert Ratio.of(together).equivalent and together["ratio_high"] - together["ratio_low"] < 0.005
    assert not Ratio.of(apart).equivalent and apart["ratio_low"] < 0.99 and apart["ratio_high"] > 1.01
    assert apart["n_calls"] == 500 and apart["ratio"] == pytest.approx(1.0, abs=0.01)
    with pytest.raises(SpecError, match="2 or more processes, 5 or more"):
        latency.ratio_of(np.ones((2, 4)))


@pytest.mark.parametrize(
    ("starts", "between", "within", "coverage"),
    [(3, 0.03, 0.01, 0.77), (5, 0.03, 0.01, 0.91), (3, 0.01, 0.03, 0.94), (5, 0.01, 0.03, 0.95)],
)
def test_how_often_an_interval_over_few_starts_holds_the_truth(starts, between, within, coverage):
    """As docs/limits.md says, for logarithms of ratios that differ so much between starts and within one."""
    rng, found = np.random.default_rng(0), []
    for i in range(300):
        logs = rng.normal(0, between, (starts, 1)) + rng.normal(0, within, (starts, 10))
        found.append(latency.ratio_of(np.exp(logs), seed=i))
    assert np.mean([row["ratio_low"] <= 1 <= row["ratio_high"] for row in found]) == pytest.approx(coverage, abs=0.01)


def test_rows_are_in_the_order_of_the_variants_and_the_control_is_last(made, parents, monkeypatch):
    """In fresh processes, which share the rounds."""
    run, s = parents["weights"].run_id, Variant(MODELS["s"])
    variants = (Variant(MODELS["p"], run), s, Variant(MODELS["p"], run, PruneSpec(conv=0.5)))
    spec = LatencySpec("toy", variants, 3, 64, rounds=10, calls=2, whole_path=True, processes=2, threads=1)
    started, spawn = [], latency.ProcessPoolExecutor
    monkeypatch.setattr(latency, "ProcessPoolExecutor", lambda *given: started.append(given[0]) or spawn(*given))
    found = latency.compute(spec, parents | {run: parents["weights"]}, made)
    assert found.keys() == {"layout", "forward", "whole_path"} and found["layout"] in ("contiguous", "channels_last")
    for rows in (found["forward"], found["whole_path"]):
        assert [row["label"] for row in rows] == [*(variant.text for variant in variants), "baseline (again)"]
        assert rows[0]["ratio"] == 1
        assert {row["n_calls"] for row in rows} == {2 * 5 * 2}
    assert started == [1, 1]


def test_a_copy_is_made_first_that_is_not_timed_and_the_others_in_a_drawn_order(monkeypatch):
    """The copy that a process makes first is slower than those after it, so it may be no variant's."""
    variants = tuple(Variant(ModelSpec(0.1, width)) for width in (0.1, 0.15, 0.2))
    spec = LatencySpec("models", variants, nc=3, imgsz=64, rounds=5, processes=1)
    orders = []
    for process in range(4):
        made = []

        def forward(network, *how, made=made):
            width = network.model[0].conv.out_channels
            made.append(width)
            return lambda: made.append("called") or width

        monkeypatch.setattr(latency, "forward", forward)
        monkeypatch.setattr(latency, "rounds_of", lambda calls, *how, **more: {i: call() for i, call in calls.items()})
        times_ms = latency.timed(spec, {}, None, False, process)["forward"]
        widths = [8, 16, 16, 8]  # of the variants, and of the first once more
        assert times_ms == dict(enumerate(widths)), "rows are in the order of the variants"
        assert made[0] == 8 and made[1] == "called" and sorted(made[2:6]) == sorted(widths)
        orders.append(tuple(made[2:6]))
    assert len(set(orders)) > 1
