"""Masks: exact counts, who survives, nesting, and that nothing else changes."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.nn.modules import Conv

from yolop.measure import latency, pruning
from yolop.measure.evaluation import Validation, evaluate
from yolop.network import weights as files
from yolop.network import yolov5
from yolop.specs import METHODS, ModelSpec, PruneSpec, SensitivitySpec, SpecError, SweepSpec, Variant

LOCAL = [m for m in METHODS if m != "l1-global"]  # these cut each convolution on its own
RATIOS = st.one_of(st.sampled_from([0.0, 0.01, 0.5, 1.0]), st.floats(0, 1))
few = settings(max_examples=10, deadline=None)


def asked(method: str, ratio: float, **changes) -> PruneSpec:
    return PruneSpec(method, ratio, ratio, ratio, **changes)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: conv.weight.detach() for name, conv, _ in pruning.layers(model)}


def zeros(model) -> dict[str, int]:
    return {name: int((weight == 0).sum()) for name, weight in weights(model).items()}


def literal_l1(weight: torch.Tensor, ratio: float) -> torch.Tensor:
    """The definition, one weight at a time."""
    flat = weight.flatten().tolist()
    for i in sorted(range(len(flat)), key=lambda i: abs(flat[i]))[: round(ratio * len(flat))]:
        flat[i] = 0.0
    return torch.tensor(flat).view(weight.shape)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    with latency.threads(1):  # many small tensors: more threads would only wait for each other
        yield yolov5.build(ModelSpec(0.1, 0.1), nc=3)


@given(ratio=RATIOS, method=st.sampled_from(LOCAL))
@few
def test_exact_count_in_every_convolution(model, ratio, method):
    pruned = weights(pruning.prune(model, asked(method, ratio)))
    for name, conv, kind in pruning.layers(model):
        filters = pruned[name].flatten(1)
        share = 0 if kind == "Detect" else ratio
        if method.endswith("-structured"):
            gone = int((filters == 0).all(dim=1).sum())
            assert gone == round(share * conv.out_channels)
            assert int((filters == 0).sum()) == gone * filters.shape[1], "some filters are cut in part"
        else:
            assert int((filters == 0).sum()) == round(share * filters.numel())


@given(ratio=RATIOS)
@few
def test_l1_survivors_are_not_smaller_than_casualties(model, ratio):
    unstructured = weights(pruning.prune(model, asked("l1-unstructured", ratio)))
    structured = weights(pruning.prune(model, asked("l1-structured", ratio)))
    for name, weight in weights(model).items():
        filters = (structured[name] != 0).flatten(1).any(1), weight.abs().flatten(1).sum(1)
        for kept, score in ((unstructured[name] != 0, weight.abs()), filters):
            slack = 1 - 1e-6  # the sum of a filter depends on the order of adding
            assert not kept.any() or kept.all() or score[kept].min() >= score[~kept].max() * slack


@given(ratio=RATIOS)
@few
def test_global_is_one_threshold_over_all(model, ratio):
    before = weights(model)
    pruned = weights(pruning.prune(model, PruneSpec("l1-global", ratio, detect=1)))
    scores = torch.cat([w.abs().flatten() for w in before.values()])
    kept = torch.cat([pruned[name].flatten() != 0 for name in before])
    assert int((~kept).sum()) == round(ratio * len(scores))
    assert not kept.any() or kept.all() or scores[kept].min() >= scores[~kept].max()
    if 0.2 < ratio < 0.8:  # layers with many inputs start with small weights, and lose the larger share
        shares = [float((weight == 0).float().mean()) for weight in pruned.values()]
        assert max(shares) - min(shares) > 0.1


@pytest.mark.parametrize("ratio", [0.0, 0.013, 0.3, 0.5, 0.95, 1.0])
def test_l1_equals_the_literal_slow_loop(model, ratio):
    pruned = weights(pruning.prune(model, asked("l1-unstructured", ratio, detect=ratio)))
    for name, weight in weights(model).items():
        assert torch.equal(pruned[name], literal_l1(weight, ratio)), name


@pytest.mark.parametrize("method", METHODS)
def test_masks_are_nested_as_the_ratio_grows(model, method):
    ratios = [0.0, 0.004, 0.03, 0.35, 0.6, 0.99, 1.0]
    steps = [weights(pruning.prune(model, asked(method, r, seed=5))) for r in ratios]
    for less, more in zip(steps, steps[1:], strict=False):
        assert all(bool((more[name][less[name] == 0] == 0).all()) for name in less)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_else_changes_and_the_input_stays(model, method):
    original = copy.deepcopy(model.state_dict())
    pruned = pruning.prune(model, asked(method, 0.4))
    targets = {f"{name}.weight" for name, _, kind in pruning.layers(model) if kind != "Detect"}
    after = pruned.state_dict()
    assert after.keys() == original.keys()
    for key, value in original.items():
        assert torch.equal(model.state_dict()[key], value), f"{key} of the input changed"
        assert torch.equal(after[key], torch.where(after[key] == 0, 0, value) if key in targets else value), key
    assert {k for k, v in original.items() if not torch.equal(after[k], v)} == targets


def test_result_has_plain_trainable_parameters_and_shares_no_memory(model):
    pruned = pruning.prune(model, asked("l1-unstructured", 0.5))
    assert {n for n, _ in pruned.named_parameters()} == {n for n, _ in model.named_parameters()}
    assert all(p.is_leaf and p.requires_grad for p in pruned.parameters())
    assert not any(module._forward_pre_hooks for module in pruned.modules())
    assert {p.data_ptr() for p in model.parameters()}.isdisjoint(p.data_ptr() for p in pruned.parameters())


def test_ratio_0_is_identity_and_1_takes_all(model):
    for method in METHODS:
        nothing = pruning.prune(model, asked(method, 0)).state_dict()
        assert all(torch.equal(nothing[key], value) for key, value in model.state_dict().items())
        # the integer 1, too: torch would take it for a single weight
        everything = pruning.prune(model, asked(method, 1, detect=1))
        assert pruning.weight_sparsity(everything) == 1
        assert torch.isfinite(everything.eval()(torch.rand(1, 3, 32, 32))).all()


@pytest.mark.parametrize("method", ["random-unstructured", "random-structured"])
def test_random_follows_its_seed_alone(model, method):
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = weights(pruning.prune(model, asked(method, 0.5, seed=0)))
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state moved"
    torch.manual_seed(4)
    again, other = (weights(pruning.prune(model, asked(method, 0.5, seed=s))) for s in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[n], other[n]) for n, _, kind in pruning.layers(model) if kind != "Detect")


def test_random_ignores_size_and_differs_between_layers():
    conv = {"model.0.conv": torch.nn.Conv2d(8, 400, 3), "model.1.conv": torch.nn.Conv2d(8, 400, 3)}
    masks = [pruning.random_scores(module, name, 0).flatten(1).sum(1) for name, module in conv.items()]
    assert abs(torch.corrcoef(torch.stack(masks))[0, 1]) < 0.2
    wide = yolov5.build(ModelSpec(0.1, 0.2), nc=3)
    pruned = weights(pruning.prune(wide, asked("random-unstructured", 0.5)))
    total = sum(float(w.abs().sum()) for w in weights(wide).values())
    kept = sum(float(w.abs().sum()) for w in pruned.values())
    assert 0.49 < kept / total < 0.52, "half of the weights should hold half of the sum (Detect stays)"


def test_readings(model):
    spec = PruneSpec("l1-unstructured", conv=0.3, c3=0.2, sppf=0.1)
    own = {name: (kind, ratio) for name, _, kind, ratio in pruning.prunable(model, spec)}
    every = {name: (kind, ratio) for name, _, kind, ratio in pruning.prunable(model, replace(spec, reading="any-conv"))}
    assert {ratio for _, ratio in own.values()} == {0.3, 0.2, 0.1, 0.0}
    assert all(ratio == {"Conv": 0.3, "C3": 0.2, "SPPF": 0.1, "Detect": 0}[kind] for kind, ratio in own.values())
    assert all(ratio == (0 if kind == "Detect" else 0.3) for kind, ratio in every.values())
    # any-conv is what a loop over all Conv modules reaches, as in the tutorial
    loop = {f"{name}.conv" for name, module in model.named_modules() if isinstance(module, Conv)}
    assert loop == {name for name, (_, ratio) in every.items() if ratio > 0}
    differ = {name for name in own if own[name] != every[name]}
    assert {own[name][0] for name in differ} == {"C3", "SPPF"}
    a, b = (weights(pruning.prune(model, replace(spec, reading=r))) for r in ("own", "any-conv"))
    assert {name for name in a if not torch.equal(a[name], b[name])} == differ
    uniform = [pruning.prune(model, asked("l1-unstructured", 0.3, reading=r)).state_dict() for r in ("own", "any-conv")]
    assert all(torch.equal(uniform[0][key], uniform[1][key]) for key in uniform[0])


def test_layers_are_all_convolutions_in_order(model):
    assert [c for _, c, _ in pruning.layers(model)] == [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(model.get_submodule(name) is conv for name, conv, _ in pruning.layers(model))
    assert [c for _, c, kind in pruning.layers(model) if kind == "Detect"] == list(model.model[-1].m)


@pytest.mark.parametrize("method", METHODS)
def test_detect_is_pruned_only_if_asked(model, method):
    detect = [name for name, _, kind in pruning.layers(model) if kind == "Detect"]
    for reading in ("own", "any-conv"):
        spared = zeros(pruning.prune(model, asked(method, 0.9, reading=reading)))
        taken = zeros(pruning.prune(model, asked(method, 0.9, reading=reading, detect=0.5)))
        assert all(spared[name] == 0 < taken[name] for name in detect)


def test_anchor_free_head_keeps_its_fixed_convolution():
    model = yolov5.build(ModelSpec(0.1, 0.1, head="anchor-free"), nc=3)
    pruned = pruning.prune(model, asked("l1-unstructured", 0.5, detect=1))
    assert torch.equal(pruned.model[-1].dfl.conv.weight, model.model[-1].dfl.conv.weight)
    assert pruning.achieved(pruned)["detect_sparsity"] == 1
    assert pruning.achieved(pruning.prune(model, asked("l1-global", 0.5)))["detect_sparsity"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_one_layer_as_in_the_whole(model, method):
    name = "model.2.m.0.cv2.conv"
    whole = pruning.prune(model, asked(method.replace("global", "unstructured"), 0.5, seed=2))
    single = pruning.prune_layer(model, name, method, 0.5, seed=2)
    before, alone = weights(model), weights(single)
    assert {n for n in before if not torch.equal(before[n], alone[n])} == {name}
    assert torch.equal(alone[name], weights(whole)[name])


def test_sparsity_counts_all_parameters(model):
    pruned = pruning.prune(model, PruneSpec("l1-unstructured", conv=0.5, c3=0.25, detect=1))
    flat = torch.cat([p.detach().flatten() for p in pruned.parameters()])
    assert pruning.sparsity(pruned) == pytest.approx((flat == 0).float().mean().item())
    flat = torch.cat([w.flatten() for w in weights(pruned).values()])
    assert pruning.weight_sparsity(pruned) == pytest.approx((flat == 0).float().mean().item())
    by_kind = {"conv_sparsity": 0.5, "c3_sparsity": 0.25, "sppf_sparsity": 0, "detect_sparsity": 1}
    both = {"sparsity": pruning.sparsity(pruned), "weight_sparsity": pruning.weight_sparsity(pruned)}
    assert pruning.achieved(pruned) == pytest.approx(both | by_kind, abs=1e-3)


def test_channels_last_weights_are_pruned_the_same(model):
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for method in METHODS:
        a, b = (weights(pruning.prune(m, asked(method, 0.3))) for m in (model, last))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_small_ratio_of_few_filters_rounds_to_none(model):
    pruned = pruning.prune(model, asked("l1-structured", 0.03))
    achieved = zeros(pruned)
    assert achieved["model.0.conv"] == 0  # 8 filters
    assert achieved["model.9.cv2.conv"] > 0  # 104 filters


@pytest.mark.parametrize("ratio", [float("nan"), 31, -0.1, 1.0001, float("inf")])
@pytest.mark.parametrize("field", ["conv", "c3", "sppf", "detect"])
def test_impossible_ratios_are_refused(field, ratio):
    with pytest.raises(SpecError, match=rf"ratio {field} = {ratio}.*30 % is 0\.3"):
        PruneSpec(**{field: ratio})


def test_impossible_layers_and_methods_are_refused(model):
    with pytest.raises(SpecError, match=r"layer = 'model\.1'.*model\.0\.conv"):
        pruning.prune_layer(model, "model.1", "l1-unstructured", 0.5)
    with pytest.raises(SpecError, match="31"):
        pruning.prune_layer(model, "model.1.conv", "l1-unstructured", 31)
    with pytest.raises(SpecError, match="l2"):
        pruning.prune_layer(model, "model.1.conv", "l2", 0.5)


@pytest.fixture(scope="module")
def trained(parents):
    return files.model_of(parents["weights"])


def sweep(parents, points, label="l1-unstructured") -> dict:
    spec = SweepSpec(label, parents["weights"].run_id, parents["data"].metrics["digest"], tuple(points))
    return pruning.compute(spec, parents, None)


def test_a_row_of_a_sweep_depends_on_its_point_alone(parents, trained, data):
    points = [asked("l1-unstructured", 0.3), asked("random-structured", 0.5, seed=2), PruneSpec()]
    found = sweep(parents, points)
    assert found == {"rows": [row for point in points for row in sweep(parents, [point])["rows"]]}
    assert found["rows"][::-1] == sweep(parents, points[::-1])["rows"]
    images = Validation(data, "test", 64)
    for point, row in zip(points, found["rows"], strict=True):
        pruned = pruning.prune(trained, point)
        scores = evaluate(yolov5.fused(pruned), images)
        assert row == vars(point) | pruning.achieved(pruned) | {name: scores[name] for name in ("mAP50", "mAP50_95")}


def test_the_control_of_figure_3_has_as_many_zeros_where_its_points_are_there(parents):
    unpruned, uniform, by_type = pruning.CONTROLLED
    found = sweep(parents, [by_type, unpruned, uniform], "figures")
    assert all(len(row["mAP50_resampled"]) == 200 for row in (*found["rows"], found["control"]))
    ratios = {found["control"][name] for name in ("conv", "c3", "sppf")}
    assert len(ratios) == 1 and 0.1 < ratios.pop() < 0.3
    assert found["control"]["sparsity"] == pytest.approx(found["rows"][0]["sparsity"], abs=1e-4)
    assert sweep(parents, [by_type, unpruned], "figures") == {"rows": found["rows"][:2]}
    assert "control" not in sweep(parents, [by_type, unpruned, uniform])


def test_sensitivity_prunes_one_convolution_at_a_time(parents, trained, data):
    spec = SensitivitySpec(parents["weights"].run_id, data.digest, ratio=0.9)
    found, images = pruning.compute_sensitivity(spec, parents, None), Validation(data, "val", 64)
    assert [row["layer"] for row in found["rows"]] == [name for name, _, _ in pruning.layers(trained)]
    row, dense = found["rows"][30], evaluate(yolov5.fused(trained), images)["mAP50"]
    alone = evaluate(yolov5.fused(pruning.prune_layer(trained, row["layer"], "l1-unstructured", 0.9)), images)["mAP50"]
    assert (row["mAP50"], row["mAP50_lost"], found["dense"]["mAP50"]) == (alone, dense - alone, dense)
    assert alone != dense and row["ratio"] == 0.9


def test_a_variant_is_the_network_that_its_fields_say(parents, trained):
    image, path = torch.rand(1, 3, 64, 64), parents["weights"].path("weights.safetensors")
    point, nc = PruneSpec(conv=0.5), parents["weights"].spec["nc"]
    shape = ModelSpec(**parents["weights"].spec["model"])
    with torch.no_grad():
        dense, pruned = (pruning.subject(Variant(shape, "run", prune), nc, path)(image) for prune in (None, point))
        assert torch.equal(dense, yolov5.fused(trained)(image)) and not torch.equal(dense, pruned)
        assert torch.equal(pruned, yolov5.fused(pruning.prune(trained, point))(image))
        assert not torch.equal(dense, pruning.subject(Variant(shape), nc, None)(image))
