"""Zeros that are trained in: as many as asked, where asked, and they stay: saved, loaded, trained further, exported."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from support import tiny_spec

from yolop.measure import pruning
from yolop.network import channels, weights, yolov5
from yolop.network.head import Loss
from yolop.specs import MODELS, RETRAINED, SparseTrainSpec, SpecError, identity
from yolop.train import trainer
from yolop.train import zeros as gradual


@pytest.fixture(scope="module")
def parent(data):
    torch.manual_seed(0)
    return yolov5.build(MODELS["p"], data.nc).eval()


def trained(data, folder, parent, **changes):
    """Metrics of a short training, and the model read back from its file."""
    folder.mkdir(exist_ok=True)
    spec = tiny_spec(data, SparseTrainSpec, **{"val_every": 1, "init": "matching:x", "sparsity": 0.8} | changes)
    metrics = trainer.train(spec, data, folder, parent)
    return metrics, weights.load_weights(yolov5.build(MODELS["p"], data.nc), folder / "weights.safetensors")


def zeros(model) -> dict[str, torch.Tensor]:
    return {name: conv.weight == 0 for name, conv, _ in pruning.layers(model)}


@pytest.mark.parametrize("allocation", ["global", "layer", "random"])
def test_the_share_of_zeros_is_the_one_asked_for(data, parent, tmp_path, allocation):
    metrics, model = trained(data, tmp_path / "run", parent, allocation=allocation)
    assert pruning.weight_sparsity(model) == pytest.approx(0.8, abs=0.002)
    shares = [float(z.float().mean()) for z in zeros(model).values()]
    even = max(shares) - min(shares) < 0.03
    assert even == (allocation != "global")
    assert metrics["best_epoch"] == 2  # 60 % of two epochs lie in the second: before it, zeros are still to come


def test_zeros_in_blocks_take_four_input_channels_together(data, parent, tmp_path):
    _, model = trained(data, tmp_path / "run", parent, block=4)
    assert pruning.weight_sparsity(model) == pytest.approx(0.8, abs=0.005)
    for name, z in zeros(model).items():
        if z.shape[1] % 4 == 0:
            blocks = z.reshape(len(z), -1, 4, *z.shape[2:])
            assert torch.equal(blocks.all(2), blocks.any(2)), name
    plain = tiny_spec(data, SparseTrainSpec)
    assert "block" not in identity(plain) and identity(dataclasses.replace(plain, block=4))["block"] == 4


def test_zeros_stay_when_saved_loaded_trained_further_and_exported(data, parent, tmp_path):
    import onnx

    from yolop.speed import runtimes

    # of each layer: ranked over all layers of an untrained network whole layers become zero, and ONNX keeps one of them
    _, first = trained(data, tmp_path / "1", parent, allocation="layer")
    _, second = trained(data, tmp_path / "2", first, sparsity=0.0)  # asks for none, starts with many
    before, after = zeros(first), zeros(second)
    assert all((after[name] | ~before[name]).all() for name in before)
    assert any(
        not torch.equal(a.weight, b.weight)
        for (_, a, _), (_, b, _) in zip(*map(pruning.layers, (first, second)), strict=True)
    )
    (tmp_path / "out").mkdir()
    runtimes.export(yolov5.fused(second), "onnxruntime", 64, tmp_path / "out")
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out/model.onnx").graph.initializer]
    weights = [w for w in weights if w.ndim == 4]
    assert sum((w == 0).sum() for w in weights) >= sum(int(z.sum()) for z in after.values())


def test_the_same_seed_gives_the_same_zeros(data, parent, tmp_path):
    one, two = (trained(data, tmp_path / name, parent)[0] for name in "ab")
    assert one == two


def test_a_model_that_agrees_with_its_teacher_is_at_the_minimum(data, parent):
    """Moving a map away from the teacher's can only cost."""
    spec = SparseTrainSpec(MODELS["p"], "p", "", data.nc, 64, 1, precision="float32")
    criterion = gradual.Distillation(Loss(parent.model[-1]), parent, spec)
    image = torch.rand(2, 3, 64, 64)
    student = copy.deepcopy(criterion.teacher)
    with torch.no_grad():
        raw = student(image)
        batch = {"img": image, "batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}

        def soft(maps):
            return float(criterion(maps, batch)[0] - criterion.loss(maps, batch)[0])

        same = soft(raw)
        for column in (0, 4, 5):
            moved = [x.clone() for x in raw]
            moved[0][..., column] += 1
            assert soft(moved) > same + 1e-6
    assert copy.deepcopy(criterion) is criterion


def test_removed_channels_are_gone_and_the_file_remembers_the_widths(data, parent, tmp_path):
    narrow = channels.remove_channels(parent, 0.5)
    count = sum(p.numel() for p in narrow.parameters())
    assert 0.2 < count / sum(p.numel() for p in parent.parameters()) < 0.45
    kept = {name: m.out_channels for name, m in narrow.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert all(width % 8 == 0 for name, width in kept.items() if ".24." not in name)
    assert {w for name, w in kept.items() if ".24." in name} == {3 * (5 + data.nc)}
    weights.save_weights(narrow, tmp_path / "narrow.safetensors")
    again = weights.load_weights(yolov5.build(MODELS["p"], data.nc), tmp_path / "narrow.safetensors").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), narrow.eval()(image))
    metrics, _ = trained_narrow(data, tmp_path / "run", parent)
    assert metrics["parameters"] == count and np.isfinite(metrics["curve"][-1]["box"])
    with pytest.raises(SpecError, match="ratio"):
        channels.remove_channels(parent, 1.0)


def trained_narrow(data, folder, parent):
    return trained(data, folder, parent, sparsity=0.0, init="narrowed-0.5:x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"allocation": "best"}, "allocation"),
        ({"pruned_by": 0}, "pruned_by"),
        ({"distill": -1}, "distill"),
    ],
)
def test_impossible_requests_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        SparseTrainSpec(MODELS["p"], "p", "", 3, 64, 1, **change)


def test_the_smallest_weights_go(data, parent, tmp_path):
    """Without learning, the zeros are the smallest weights that the parent had."""
    _, model = trained(data, tmp_path, parent, lr0=1e-12, epochs=1)
    size = torch.cat([conv.weight.detach().abs().flatten() for _, conv, _ in pruning.layers(parent)])
    gone = torch.cat([(conv.weight == 0).flatten() for _, conv, _ in pruning.layers(model)])
    assert gone.float().mean() == pytest.approx(0.8, abs=0.002)
    assert size[gone].max() <= size[~gone].min() + 1e-4


def test_zeros_come_by_a_cubic_schedule_and_are_all_there_in_time(data, parent, tmp_path, monkeypatch):
    asked, update = [], gradual.SparseTrainer.update_masks
    monkeypatch.setattr(gradual.SparseTrainer, "update_masks", lambda self, s: asked.append((self.done, s)) or update(self, s))
    trained(data, tmp_path, parent, epochs=10, pruned_by=0.5)  # 30 steps, the masks of the first 15 change every fifth
    done, share = zip(*asked, strict=True)
    assert done == (5, 10, 15)
    np.testing.assert_allclose(share, [0.8 * (1 - (1 - d / 15) ** 3) for d in done], rtol=1e-6)


def test_the_teacher_teaches_as_much_as_it_is_asked_to(data, parent):
    """The loss grows by `distill` times the distance to the teacher, which is none of the labels' business."""
    image, batch = torch.rand(2, 3, 64, 64), {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    extra = []
    for weight in (1.0, 2.5):
        spec = SparseTrainSpec(MODELS["p"], "p", "", data.nc, 64, 1, precision="float32", distill=weight)
        criterion = gradual.Distillation(Loss(parent.model[-1]), parent, spec)
        with torch.no_grad():
            raw = [x + 1 for x in criterion.teacher(image)]
            total = criterion(raw, batch | {"img": image})[0]
            extra.append(float(total - criterion.loss(raw, batch | {"img": image})[0]))
    assert extra[0] > 1e-3 and extra[1] == pytest.approx(2.5 * extra[0], rel=1e-4)


def test_a_training_listens_to_its_teacher_or_not(data, parent, tmp_path):
    found = [trained(data, tmp_path / str(d), parent, sparsity=0.0, epochs=1, distill=d)[0]["weights_sha256"] for d in (0.0, 1.0)]
    assert found[0] != found[1]


def test_the_channels_of_smallest_l1_norm_are_removed(data):
    """Of a stem whose filters are large by L1 or by L2, those that are large by L1 stay."""
    torch.manual_seed(0)
    model = yolov5.build(MODELS["p"], data.nc).eval()
    with torch.no_grad():
        for module in model.modules():  # norms of batch norm and of the layers that read the stem say nothing
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1e-4)
        model.model[1].conv.weight.fill_(1e-6)
        stem = model.model[0].conv.weight
        stem.fill_(0.02)  # L1 norm 108 * 0.02 = 2.16, L2 norm 0.21
        spiky = torch.zeros(len(stem), dtype=torch.bool)
        spiky[::2] = True
        stem[spiky] = 0
        stem[spiky, 0, 0, 0] = 1.0  # L1 norm 1, L2 norm 1
    kept = channels.remove_channels(model, 0.5).model[0].conv.weight
    assert len(kept) == len(stem) // 2 and (kept.detach().abs().sum((1, 2, 3)) > 2).all()


def test_a_network_that_is_pruned_once_is_trained_again_with_its_zeros(data, parent, tmp_path):
    """Each way has the zeros that it is asked for, "even" as many as "by-type", and what trains again loses none of them."""
    pruned = {way: pruning.prune(parent, pruning.before_retraining(parent, way, 0.6)) for way in RETRAINED}
    shares = {way: pruning.weight_sparsity(model) for way, model in pruned.items()}
    assert shares["even"] == pytest.approx(shares["by-type"], abs=2e-4) and shares["by-type"] < shares["l1-unstructured"]
    assert pruning.weight_sparsity(pruned["by-type"], "C3") == pytest.approx(0.2, abs=1e-3)
    for way in ("l1-structured", "even"):
        changes = {"init": f"pruned-{way}-0.6:x", "sparsity": 0.0, "distill": 0.0, "pruned_by": 0.1}
        metrics, model = trained(data, tmp_path / way, parent, **changes)
        assert metrics["start"]["weight_sparsity"] == pruning.weight_sparsity(model) == shares[way]
        assert all((zeros(model)[name] == there).all() for name, there in zeros(pruned[way]).items())
        assert metrics["start"]["mAP50"] <= 0.05  # nothing is learnt yet
