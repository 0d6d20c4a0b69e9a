"""One's own network, or a model of a study: exported, timed and pruned in one command each."""

from __future__ import annotations

import json

import pytest
import torch
from support import InThisProcess, configure, yolo_set

from yolop.__main__ import main
from yolop.measure import pruning
from yolop.network import weights, yolov5
from yolop.network.official import CheckpointError
from yolop.run import chosen, one
from yolop.specs import MODELS


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A state dict of p for cats and dogs, and a data set of them."""
    folder = tmp_path_factory.mktemp("mine")
    torch.manual_seed(0)
    torch.save(yolov5.build(MODELS["p"], 2).state_dict(), folder / "my.pt")
    yolo_set(folder / "set")
    return folder


def command(capsys, *arguments) -> tuple[int, str]:
    """Exit status and what was said."""
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_nothing_is_trained_for_an_export(project, capsys):
    assert command(capsys, "export", "smoke") == (
        1, "yolop: the data set of smoke was not computed on this machine yet: python -m yolop run smoke\n",
    )  # fmt: skip
    for wrong, words in (("--model q", "one of s, n, p"), ("--sparsity 0.3", "0.9"), ("--imgsz 100", "a multiple of 32")):
        status, said = command(capsys, "export", "smoke", *wrong.split())
        assert status == 2 and words in said


def test_a_file_goes_to_a_runtime_with_the_names_of_its_classes(mine, tmp_path, capsys):
    assert command(capsys, "export", mine / "my.pt", "--imgsz", 64, "--out", tmp_path / "made")[0] == 0
    described = json.loads((tmp_path / "made/model.json").read_text())
    assert described["input"]["shape"] == [1, 3, 64, 64] and described["names"] == ["0", "1"]
    status, said = command(capsys, "export", mine / "my.pt", "--out", tmp_path / "made")
    assert status == 2 and "a folder that is new or empty" in said


def test_what_does_not_fit_is_refused_by_name(mine, tmp_path, capsys):
    (tmp_path / "bad.pt").write_bytes(b"no")
    configure(yolo_set(tmp_path / "three"), nc=3, names=["a", "b", "c"])
    for arguments, words in (
        ((tmp_path / "bad.pt",), "bad.pt is no zip archive"),
        ((tmp_path / "absent.pt",), "absent.pt: No such file"),
        ((mine / "my.pt", "--model", "n"), "--model = 'n' is not possible"),
        ((mine / "my.pt", "--set", "epochs=3"), "--set = "),
        ((mine / "my.pt", "--dataset", tmp_path / "three/data.yaml"), "dataset = '3 classes' is not possible: use one with the 2"),
        ((mine / "my.pt", "--dataset", tmp_path / "absent.yaml"), "absent.yaml: no such file"),
        (("smoke-123456",), "study = 'smoke-123456' is not possible: use one of digits"),
    ):
        status, said = command(capsys, "time", *arguments)
        assert status == 2 and words in said


def test_classes_in_another_order_are_refused(mine):
    network, _ = weights.load_network(mine / "my.pt")
    data = chosen.read(mine / "set/data.yaml")
    with pytest.raises(chosen.SpecError, match="names = 'cat, dog' is not possible: use the order .*: dog, cat"):
        chosen._require_fitting(chosen.Chosen("", network, ("dog", "cat"), 64, data))


def test_every_runtime_is_timed_compared_and_scored_and_one_that_fails_is_named(mine, capsys, monkeypatch):
    known = ("pytorch", "sparse", "onnxruntime", "ncnn")
    for name, value in {"RUNTIMES": known, "STARTS": 2, "ROUNDS": 5, "CALLS": 1}.items():
        monkeypatch.setattr(one, name, value)
    monkeypatch.setattr(one.in_turns, "Worker", InThisProcess)
    monkeypatch.setattr(one, "find_spec", lambda name: None if name == "pnnx" else name)
    status, said = command(capsys, "time", mine / "my.pt", "--imgsz", 64, "--threads", 1, "--dataset", mine / "set/data.yaml")
    assert status == 0
    said = "\n".join(line for line in said.splitlines() if not line.startswith("A/A"))  # as noise has it
    first, whole, scored = (part.splitlines() for part in said.split("\n\n")[1:])
    assert first[0].startswith("from one start") and [line.split()[0] for line in first[3:]] == ["PyTorch", "sparse", "ONNX"]
    assert whole[0] == "from 2 starts of each process:" and whole[-1].startswith("ncnn")
    assert "pnnx not installed: pip install pnnx" in whole[-1]
    assert all("e-0" in line or " 0 " in line for line in whole[3:6])  # outputs differ by float32 noise
    assert "mAP50" in scored[1] and "0.000 (0.000 to" in scored[3] and "1 test images" in scored[0]


def test_pruning_says_what_was_achieved_and_writes_what_can_be_read_back(mine, tmp_path, capsys):
    status, said = command(capsys, "prune", mine / "my.pt", "--ratio", 0.5, "--dataset", mine / "set/data.yaml", "--imgsz", 64,
                           "--out", tmp_path / "a")  # fmt: skip
    assert status == 0 and "49.7% of weights" in said and "before, " in said and "takes it wherever" in said
    networks = [weights.load_network(tmp_path / "a" / name)[0] for name in ("pruned.safetensors", "pruned.pt")]
    assert networks[0].state_dict().keys() == torch.load(tmp_path / "a/pruned.pt", weights_only=True).keys()
    for name, tensor in networks[0].state_dict().items():
        assert torch.equal(tensor, networks[1].state_dict()[name]), name
    assert pruning.weight_sparsity(networks[0]) == pytest.approx(0.497, abs=1e-3)


def test_without_channels_a_network_is_smaller_and_what_yolov5_can_build_is_said(mine, tmp_path, capsys):
    for ratio, words in ((0.3, "YOLOv5's own code cannot build it"), (0.5, "")):
        out = tmp_path / str(ratio)
        status, said = command(capsys, "prune", mine / "my.pt", "--ratio", ratio, "--method", "channels", "--out", out)
        assert status == 0 and words in said
        networks = (weights.load_network(path)[0] for path in (mine / "my.pt", out / "pruned.pt"))
        whole, small = (sum(p.numel() for p in network.parameters()) for network in networks)
        assert small < (1 - ratio) * whole
        assert (out / "pruned.yaml").exists() == ("cannot build" not in said)
    status, said = command(capsys, "prune", mine / "my.pt", "--ratio", 30, "--out", tmp_path / "b")
    assert status == 2 and "30 % is 0.3" in said and not (tmp_path / "b").exists()


def test_a_fused_network_is_timed_but_not_pruned(tmp_path, capsys):
    torch.save(yolov5.fused(yolov5.build(MODELS["p"], 2)).state_dict(), tmp_path / "fused.pt")
    assert weights.load_network(tmp_path / "fused.pt")[0](torch.zeros(1, 3, 64, 64)).shape == (1, 252, 7)
    status, said = command(capsys, "prune", tmp_path / "fused.pt", "--ratio", 0.3, "--out", tmp_path / "a")
    assert status == 2 and "a file from before fuse()" in said
    with pytest.raises(CheckpointError):
        weights.load_network(tmp_path / "a.safetensors")
