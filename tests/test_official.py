"""The original's weights: read whole, without running what their pickle asks for; damage is named."""

import os
import pickle
import sys
import zipfile
from functools import reduce
from types import ModuleType

import pytest
import torch
import torch.nn.utils.prune
import yaml
from support import Trap
from test_weights import OFFICIAL

from yolop.measure import pruning
from yolop.network import channels, official, original, weights, yolov5
from yolop.network.official import CheckpointError
from yolop.specs import MODELS, ModelSpec, PruneSpec

needs_weights = pytest.mark.skipif(not OFFICIAL.exists(), reason="the official weights are not beside the project")


@needs_weights
def test_official_weights_fit_the_model_completely():
    tensors, model = official.read_checkpoint(OFFICIAL).tensors, yolov5.build(MODELS["n"], 80)
    own = model.state_dict()
    assert len(tensors) == 350 and set(own) <= set(tensors)
    assert all(tensors[name].shape == value.shape for name, value in own.items())
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(tensors["model.24.anchors"], own["model.24.anchors"])


def test_ema_weights_come_first_in_float32(tmp_path, monkeypatch):
    module = ModuleType("models.yolo")
    module.Model = type("Model", (torch.nn.Module,), {"__module__": "models.yolo"})
    for name in ("models", "models.yolo"):
        monkeypatch.setitem(sys.modules, name, module)
    content = {"ema": module.Model(), "model": module.Model()}
    for value, model in zip((2.0, 3.0), content.values(), strict=True):
        model.conv = torch.nn.Conv2d(3, 4, 1)
        torch.nn.init.constant_(model.conv.weight, value)
        model.half()
    torch.save(content | {"epoch": -1, "date": "2021-10-12"}, tmp_path / "a.pt")
    tensors = official.read_checkpoint(tmp_path / "a.pt").tensors
    assert tensors["conv.weight"].dtype == torch.float32 and (tensors["conv.weight"] == 2).all()
    torch.save(content | {"ema": None}, tmp_path / "b.pt")
    assert (official.read_checkpoint(tmp_path / "b.pt").tensors["conv.weight"] == 3).all()


@needs_weights
def test_a_damaged_file_is_named(tmp_path):
    data = OFFICIAL.read_bytes()
    place = len(data) // 2  # inside some tensor, whose other bytes stay as they are
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    damaged = {"cut.pt": data[:place], "empty.pt": b"", "text.pt": b"hello" * 100, "flipped.pt": flipped}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            official.read_checkpoint(tmp_path / name)


def test_a_file_that_would_run_code_is_refused_by_the_name_it_asks_for(tmp_path):
    torch.save({"model": Trap(os.mkdir, str(tmp_path / "canary"))}, tmp_path / "evil.pt")
    with pytest.raises(
        CheckpointError, match=r"the file asks for \w+.mkdir: only tensors and plain containers are read"
    ):
        official.read_checkpoint(tmp_path / "evil.pt")
    torch.save({"model": Trap(os.mkdir, str(tmp_path / "canary"))}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="old.pt is no zip archive.* save it again"):
        official.read_checkpoint(tmp_path / "old.pt")
    assert not (tmp_path / "canary").exists()
    with zipfile.ZipFile(tmp_path / "evil.pt") as archive:  # what an unpickler does with it
        pickle.loads(archive.read("evil/data.pkl"))
    assert (tmp_path / "canary").exists()


CASES = OFFICIAL.parents[1] / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="no cases beside the project")


def test_a_file_of_the_ultralytics_package_is_named(tmp_path):
    from ultralytics.nn.tasks import DetectionModel

    torch.save({"model": DetectionModel("yolov8n.yaml", verbose=False)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: it holds a network of the ultralytics package \(YOLOv5u, YOLOv8"):
        official.read_checkpoint(tmp_path / "a.pt")


def test_what_is_no_file_of_weights_is_named(tmp_path):
    (tmp_path / "a.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"a\.pt is a pointer of Git LFS, .*: git lfs pull"):
        official.read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"b\.pt: No such file or directory: give the path"):
        official.read_checkpoint(tmp_path / "b.pt")
    torch.save({"epoch": 3}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"c\.pt is not a YOLOv5 checkpoint: it holds no network and no tensors"):
        official.read_checkpoint(tmp_path / "c.pt")


@needs_cases
@pytest.mark.parametrize(
    ("case", "imgsz", "noted"),
    [
        ("15-checkpoint-with-a-path", 640, ""),
        ("16-checkpoint-not-stripped-numpy2", 0, ""),
        ("18-checkpoint-of-a-state-dict", 0, "SiLU"),
    ],
)
def test_checkpoints_as_the_original_writes_them_today_are_built_without_being_told_how(case, imgsz, noted):
    """A path among the settings and numbers of NumPy 2 are inert, and nothing that we need."""
    model, said = weights.load_network(CASES / case / "best.pt")
    assert yolov5.build(ModelSpec(0.2, 0.125), 3).state_dict().keys() == model.state_dict().keys()
    assert model.nc == 3 and said.imgsz == imgsz and noted in "".join(said.notes)
    assert all(torch.equal(v, said.tensors[name]) for name, v in model.state_dict().items())


@needs_weights
def test_names_and_anchors_come_from_the_file():
    model, said = weights.load_network(OFFICIAL)
    assert (model.spec, model.nc, said.names[:2], len(said.names)) == (MODELS["n"], 80, ("person", "bicycle"), 80)


class Stranger(torch.nn.Module):
    """What a class of another code looks like in a file; its name is given to each subclass."""


def saved(path, monkeypatch, spoil=lambda network: None, whole=lambda network: network, spec=MODELS["p"]):
    """A checkpoint of our p as the original's classes would have written it, after `spoil` has changed it."""
    module = ModuleType("models.yolo")
    for name in ("models", "models.yolo"):
        monkeypatch.setitem(sys.modules, name, module)
    torch.manual_seed(0)
    network = yolov5.build(spec, 3)
    network.model[-1].na, network.names, network.model[-1].stride = 3, ["a", "b", "c"], torch.tensor([8.0, 16.0, 32.0])
    network.model[-1].anchors /= network.model[-1].stride.view(3, 1, 1)
    network.model[-1].nl = 3
    spoil(network)

    def stranger(inner):
        """The same module as one of a class of the original."""
        for name, child in inner.named_children():
            setattr(inner, name, stranger(child))
        kind = getattr(inner, "kind", type(inner).__name__)
        if type(inner).__module__.startswith("torch."):
            return inner
        if not hasattr(module, kind):
            setattr(module, kind, type(kind, (Stranger,), {"__module__": "models.yolo", "__qualname__": kind}))
        made = getattr(module, kind)()
        made.__dict__.update({key: value for key, value in vars(inner).items() if key not in ("spec", "forward")})
        return made

    torch.save({"model": whole(stranger(network))}, path)
    return path


def leaky(network):
    network.model[1].act = torch.nn.LeakyReLU(0.1)


def without_shortcut(network):
    network.model[2].m[0].add = False


def masked(network):
    torch.nn.utils.prune.l1_unstructured(network.model[1].conv, "weight", 0.5)


@pytest.mark.parametrize(("spoil", "words"), [
    (leaky, "is a YOLOv5 with LeakyReLU in place of SiLU: this project builds"),
    (lambda network: setattr(network.model[-1], "nl", 4), r"is a network with 4 outputs in place of 3, as P6 and P2 have: this"),
    (lambda network: setattr(network.model[-1], "na", 4), "is a network with 4 anchors at each output: this"),
    (lambda network: network.model[-1].stride.mul_(2), r"is a network with strides \(16.0, 32.0, 64.0\): this"),
    (lambda network: setattr(network.model[0], "kind", "Focus"), "of before v6.0, whose first layer is Focus: this"),
    (lambda network: setattr(network.model[4], "kind", "C2f"), r"another network \(25 layers, the last Detect\): this"),
    (lambda network: setattr(network.model[-1], "kind", "Segment"), r"another network \(25 layers, the last Segment\): this"),
    (without_shortcut, r"is another network: model\.2\.m\.0 \(Bottleneck\) has add False, ours has True"),
    (lambda network: setattr(network.model[9].m, "kernel_size", 3), r"model\.9\.m \(MaxPool2d\) has kernel_size 3, ours has 5"),
    (lambda network: setattr(network.model[11], "mode", "bilinear"), r"model\.11 \(Upsample\) has mode bilinear, ours has nearest"),
    (lambda network: setattr(network.model[2], "f", -2), r"model\.2 \(C3\) has f -2, ours has -1"),
])  # fmt: skip
def test_a_network_that_we_do_not_build_is_refused_by_its_name(tmp_path, monkeypatch, spoil, words):
    with pytest.raises(CheckpointError, match=rf"a\.pt .*{words}"):
        weights.load_network(saved(tmp_path / "a.pt", monkeypatch, spoil))


WAYS = ["plain", "parallel", "masked", "fused", "bfloat16", "fewer channels", "state dict", "wrapped twice"]


@pytest.mark.parametrize("way", WAYS)
def test_a_network_of_ours_is_read_however_it_was_saved(tmp_path, monkeypatch, way):
    """It computes what the saved one computes, and its anchors and classes are the file's."""
    torch.manual_seed(0)
    ours, path = yolov5.build(MODELS["p"], 3).eval(), tmp_path / "a.pt"
    if way == "state dict":
        state = ours.state_dict() | {"model.24.anchors": ours.model[-1].anchors / torch.tensor([8, 16, 32]).view(3, 1, 1)}
        torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif way == "fewer channels":
        ours = channels.remove_channels(ours, 0.3)
        weights.save_weights(ours, path := tmp_path / "a.safetensors", ("a", "b", "c"))
    else:
        spoil = {"masked": masked, "fused": lambda network: network.eval().fuse(verbose=False)}
        spoil["bfloat16"] = torch.nn.Module.bfloat16
        wrap = {"parallel": [torch.nn.DataParallel], "wrapped twice": [torch.nn.Sequential] * 2}.get(way, [])
        spoiled = spoil.get(way, lambda network: None)
        spoiled(ours)
        saved(path, monkeypatch, spoiled, lambda network: reduce(lambda inner, outer: outer(inner), wrap, network))
    model, said = weights.load_network(path)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), ours.float()(x), rtol=1e-4, atol=1e-3)
    assert said.names == (("0", "1", "2") if way == "state dict" else ("a", "b", "c")) and not model.training


def test_a_pruned_network_goes_back_into_the_file_it_came_from(tmp_path, monkeypatch):
    """Its zeros are there, every other weight has its bits, and all but the weights has its bytes."""
    source = saved(tmp_path / "a.pt", monkeypatch, lambda network: network.half())
    whole, _ = weights.load_network(source)
    pruned = pruning.prune(whole, PruneSpec("l1-unstructured", 0.5, 0.4, 0.3, detect=0.2))
    original.with_zeros(source, pruned, tmp_path / "b.pt")
    again, said = weights.load_network(tmp_path / "b.pt")
    assert said.names == ("a", "b", "c") and 0.3 < pruning.weight_sparsity(again) < 0.5
    assert all(torch.equal(value, pruned.state_dict()[name]) for name, value in again.state_dict().items())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "b.pt") as new:
        differ = [name for name in old.namelist() if old.read(name) != new.read(name)]
        assert old.namelist() == new.namelist() and len(differ) == len(pruning.layers(pruned))
        assert all("/data/" in name for name in differ)


def test_a_state_dict_for_the_original_has_its_names_and_its_configuration(tmp_path):
    model = yolov5.build(ModelSpec(0.2, 0.125), 3, anchors=(torch.arange(18.0).reshape(3, 3, 2) + 10).tolist())
    original.as_state_dict(model, tmp_path / "a.pt")
    state, config = torch.load(tmp_path / "a.pt", weights_only=True), yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert state.keys() == model.state_dict().keys() and state["model.24.anchors"][1, 0].tolist() == [16 / 16, 17 / 16]
    assert (config["nc"], config["depth_multiple"], config["width_multiple"]) == (3, 0.2, 0.125)
    assert config["anchors"][0] == [10, 11, 12, 13, 14, 15] and config["head"][-1] == [[17, 20, 23], 1, "Detect", ["nc", "anchors"]]
    again, _ = weights.load_network(tmp_path / "a.pt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
