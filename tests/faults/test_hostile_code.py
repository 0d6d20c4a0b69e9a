"""Text that is code: in YAML, names of layers, parameters and paths."""

import ast
import os
import shutil

import pytest
import torch
from strangers import ESCAPES, ROOT, notebook, odd_places
from torch import nn

import yolop
from yolop.__main__ import main
from yolop.run import runner
from yolop.settings import parse, setting_names
from yolop.speed import engine


def test_models_in_yaml_run_nothing(root, canary, capsys, seen):
    """This project reads no model from YAML; what ultralytics would make of one runs nothing either, once yolop is imported."""
    from ultralytics.nn.tasks import DetectionModel

    code = f"open({str(canary)!r}, 'w')"
    activations = [code, f"torch.nn.SiLU() if {code} else 0", f"[{code}, torch.nn.SiLU()][1]", f"(lambda: {code})()"]
    activations += [
        f"torch.nn.SiLU({code} and False)",
        f"torch.save(1, {str(canary)!r})",
        f"__import__('os').mkdir({str(canary)!r})",
    ]
    layers = {"backbone": [[-1, 1, "Conv", [16, 3, 2]]] * 5, "head": [[[2, 3, 4], 1, "Detect", [2]]]}
    tries = 0
    for text in activations:
        places = [layers | {"activation": text}, layers | {"head": [[-1, 1, text, [16]]]}, layers | {"nc": text}]
        places += [
            layers | {"backbone": [[-1, 1, "Conv", [16, 3, text]]] * 5},
            layers | {"scales": {"n": [text, 1, 1]}},
        ]
        for place in places:
            config, tries = {"nc": 2} | place, tries + 1
            try:
                DetectionModel(config, verbose=False)
            except Exception as error:  # any refusal will do
                print(type(error).__name__, ascii(str(error))[:100])
            assert not canary.exists(), place
    for setting in ("models=n,p,evil.yaml", "models=evil.yaml", f"p={code},1", f"pretraining={code}", f"device={code}"):
        assert main(["run", "smoke", "--set", setting]) == 2 and not canary.exists()
    capsys.readouterr()
    seen("model YAML whose activation, module or argument is code", tries, "runs nothing; the project reads none")


def test_the_package_has_no_way_to_run_a_file(seen):
    """No call in it that evaluates, asks a shell or unpickles without `weights_only`; YAML is read in two places only."""
    banned = "pickle.load pickle.loads np.load numpy.load joblib.load torch.hub.load yaml.unsafe_load yaml.full_load "
    banned += "yaml.load_all shutil.unpack_archive eval exec os.system os.popen YOLO"
    files, readers = sorted((ROOT / "yolop").rglob("*.py")), {"yaml": set(), "torch": set()}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name, place = ast.unparse(node.func), f"{path.name}:{node.lineno}"
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert name not in banned.split() and not name.endswith("extractall"), f"{place}: {name}"
                assert "shell" not in keywords and keywords.get("weights_only", "True") == "True", place
                if name in ("torch.load", "yaml.load", "yaml.safe_load"):
                    readers[name.split(".")[0]].add(path.stem)
                    assert name != "torch.load" or "weights_only" in keywords, place
    assert readers == {"yaml": {"folder", "public"}, "torch": {"official"}}
    seen("calls in the package that would unpickle, evaluate, unpack or ask a shell", len(files), "none")


def test_networks_whose_layers_have_names_that_are_code(tmp_path, canary, monkeypatch, seen):
    """Tracing writes Python out of the names of layers; the engine, the exporter and the remover run none of it."""
    monkeypatch.chdir(tmp_path)
    code = "open('canary', 'w')"
    names = [
        code,
        f'a"), {code}, getattr(self, "a',
        f'a")\n{code}\n("',
        f'a")\n\n{code}#',
        f"a'''{code}'''",
        f"${{{code}}}",
    ]
    names += [
        f"$(touch {canary})",
        "a\\",
        'a"',
        "'",
        "{0}",
        "%s",
        "a b",
        ESCAPES,
        "self",
        "class",
        "__class__x",
        "0",
        "\u0430",
    ]
    names += ["x" * 10_000]
    image, ran = torch.rand(1, 3, 32, 32), 0
    for name in names:
        model = nn.Sequential()
        model.add_module(name, nn.Conv2d(3, 8, 3, padding=1))
        model.add_module("last", nn.Conv2d(8, 8, 1))
        model.eval()
        try:
            found = engine.sparsify(model, 32, threads=1, choose=False)(image)
            torch.testing.assert_close(found, model(image).detach(), rtol=1e-3, atol=1e-4)
        except yolop.specs.SpecError as error:
            print(ascii(name)[:60], ascii(str(error))[:100])
        try:
            torch.jit.trace(model, image, check_trace=False)
        except Exception as error:  # names that TorchScript has no room for
            print(ascii(name)[:60], type(error).__name__)
        ran += canary.exists()
    assert ran == 0
    seen("networks whose layers have names that are code", len(names), "run or refused, no code of them", ran)


# --- parameters and names -----------------------------------------------------------------------------------------------


def test_parameters_that_are_code(project, tmp_path, canary, monkeypatch, capsys, seen):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a kernel was started"))
    monkeypatch.chdir(tmp_path)
    notebook(project)
    code = "open('canary','w')"
    names = [
        f"x;{code}",
        "x\nimport os",
        f"epochs;{code}",
        f"epochs\n{code}\nx",
        f"epochs={code};x",
        "__import__('os')",
    ]
    names += [
        "epochs ",
        " epochs",
        "ep\u043echs",
        "epochs#",
        "epochs.real",
        "epochs[0]",
        "{epochs}",
        "%s",
        "*",
        "**{}",
        "/",
        "",
    ]
    names += [
        "%pip install x",
        "!touch canary",
        "get_ipython()",
        "1",
        "None",
        "self",
        "name",
        "study",
        "records",
        "write_report",
    ]
    names += ["changed", "__class__", ESCAPES, "x" * 10**5]
    settings = [f"{name}=3" for name in names]
    fields = [field for field in setting_names() if field != "dataset"]
    values = [
        code,
        f"3;{code}",
        f"3\n{code}",
        "[].__class__",
        "1e999",
        "9" * 5000,
        "0x10",
        "{}",
        "%d",
        "",
        " ",
        ESCAPES,
        "3\0",
    ]
    values += ["\ud800", "x" * 10**5]
    settings += [f"{field}={value}" for field in fields for value in values] + [
        f"dataset={value}.yaml" for value in values
    ]
    lists = ("allocations", "channels_removed", "uniform_imgsz", "shapes", "retrained")
    allowed = {(name, value) for name in lists for value in ("", " ")} | {("corpus", "")}  # none of them
    tries = 0
    for setting in settings:
        if tuple(setting.split("=", 1)) in allowed:
            continue
        assert main(["run", "smoke", "--set", setting]) == 2, ascii(setting)[:100]
        assert capsys.readouterr().err.startswith("yolop: ") and not canary.exists()
        tries += 1
    seen("names and values of parameters that are code", tries, "refused before a kernel starts")


def test_paths_that_are_code_become_literals(root, project, tmp_path, canary, seen):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    with pytest.raises(yolop.specs.SpecError):  # no text: no notebook can hold it
        place = tmp_path / os.fsdecode(b"\xff")
        shutil.copytree(root, place)
        runner.prepare("smoke", [f"dataset={place / 'data.yaml'}"])
    places = odd_places(canary)
    for name in places:
        place = tmp_path / name
        shutil.copytree(root, place)
        _, text, (path,) = runner.prepare("smoke", [f"dataset={place / 'data.yaml'}"])
        assert parse(text) == {"dataset": str(place / "data.yaml")}
        values = {"settings": text}
        book = parameterize_notebook(load_notebook_node(str(path)), values, kernel_name="python3", language="python")
        (injected,) = (cell.source for cell in book.cells if "injected-parameters" in cell.metadata.tags)
        (line,) = ast.parse(injected).body
        assert [target.id for target in line.targets] == ["settings"] and ast.literal_eval(line.value) == text
    seen(
        "data sets in folders whose names are code",
        1 + len(places),
        "the name reaches a notebook as text, or is refused",
    )
