"""The search for p: shapes and zeros against built models and torch's own pruning, a planted recipe, chance."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import HERE
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolop.measure import pruning
from yolop.network import yolov5
from yolop.paper import recipe
from yolop.shapes import convolutions_of
from yolop.specs import MODELS, ModelSpec, SpecError, canonical, run_id

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "parameter_counts.json"
SMALL = recipe.RecipeSpec(depth_max=0.4, width_max=0.25, nc_max=11, papers=50)
SHAPES = [(MODELS["n"], 3), (ModelSpec(0.16, 0.20), 11), (ModelSpec(0.5, 0.3), 80)]
MIXED = ("C3", "SPPF", "Conv")


@pytest.fixture(scope="module")
def metrics() -> dict:
    return recipe.search(SMALL)


def counts(spec: ModelSpec, nc: int) -> np.ndarray:
    return recipe.parameters(convolutions_of(spec, nc))


def six(repeats, channels, nc: int, dim: int, reading: tuple, counted: str) -> np.ndarray:
    values = recipe.sparsities(repeats, [channels], [nc], dim, (reading,))
    return values[:, 0, 0, recipe.COUNTED.index(counted), 0]


@pytest.mark.parametrize(("spec", "nc"), SHAPES)
def test_parameters_are_those_of_the_built_model(spec, nc):
    with torch.device("meta"):
        model = yolov5.build(spec, nc)
        fused = yolov5.fused(model)
    built = [sum(p.numel() for p in network.parameters()) for network in (model, fused)]
    assert counts(spec, nc).tolist() == [*built, sum(conv.weight.numel() for _, conv, _ in pruning.layers(model))]


@pytest.mark.skipif(not REFERENCE.exists(), reason="the shared reference is not beside this checkout")
def test_parameters_are_those_of_the_original():
    for name, expected in json.loads(REFERENCE.read_text()).items():
        size, nc = name.split("_nc")
        assert counts(MODELS[size], int(nc))[0] == expected["parameters"], name


def test_a_width_between_the_searched_ones_has_channels_of_its_own():
    for k in range(1, 129):
        assert recipe.scaled(1, (k - 1) / 128 + 1e-9) == recipe.scaled(1, k / 128)


@pytest.mark.parametrize("reading", [recipe.EVERY_CONV, recipe.ANY_CONV, MIXED])
@pytest.mark.parametrize("dim", [0, 1])
def test_zeros_are_those_of_torch(reading, dim):
    nc, network, spec = 11, recipe.scaled(0.16, 0.20), ModelSpec(0.16, 0.20)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convs = [(c.kind, nn.Conv2d(c.c1, c.c2, c.kernel, bias=False)) for c in convolutions_of(spec, nc)]
    total = counts(spec, nc)[0]
    whose = dict(zip(("Conv", "C3", "SPPF", "Detect"), ("Conv", *reading), strict=True))
    expected = []
    for figure, *ratios, _ in recipe.ROWS:
        zeroed = 0
        for kind, conv in convs:
            if whose[kind] == "spared":
                continue
            ratio = ratios[recipe.KINDS.index(whose[kind])]
            mask = (
                torch_prune.l1_unstructured(conv, "weight", ratio)
                if figure == 4
                else torch_prune.ln_structured(conv, "weight", ratio, n=1, dim=dim)
            ).weight_mask
            zeroed += int((mask == 0).sum())
            torch_prune.remove(conv, "weight")
            nn.init.normal_(conv.weight)  # zeros left behind would be cut first by the next row
        expected.append(zeroed / total)
    assert six(*network, nc, dim, reading, "all parameters") == pytest.approx(expected, abs=1e-12)


def test_sparsity_of_a_pruned_model_is_the_computed_one():
    """The whole way, with our own pruning: the reading that the search calls "all but Detect at Conv's ratio"."""
    dense = yolov5.build(ModelSpec(0.1, 0.125), 3)
    pruned = pruning.prune(dense, pruning.PruneSpec("l1-structured", conv=0.03, reading="any-conv"))
    computed = six(*recipe.scaled(0.1, 0.125), 3, 0, recipe.ANY_CONV, "all parameters")
    achieved = pruning.sparsity(pruned) - pruning.sparsity(dense)  # untrained batch norm starts with zeros of its own
    assert achieved == pytest.approx(computed[3], abs=1e-12)


def test_candidates_are_counted_as_a_literal_search_counts_them():
    spec = replace(SMALL, depth_max=0.1, width_max=0.0625, nc_max=2, papers=1)
    printed = [f"{value}" for value in recipe.PRINTED]
    counts, as_printed = [0] * 7, [0] * 7
    for k, nc in ((k, nc) for k in range(1, 9) for nc in (1, 2)):
        convs = [(conv.kind, conv.c1, conv.c2, conv.kernel**2) for conv in convolutions_of(ModelSpec(0.1, k / 128), nc)]
        weights = sum(c1 * c2 * a for _, c1, c2, a in convs)
        filters = sum(c2 for kind, _, c2, _ in convs if kind != "Detect")
        biases = 9 * (nc + 5)
        for dim, reading in ((dim, reading) for dim in (0, 1) for reading in recipe.READINGS):
            whose = dict(zip(("Conv", "C3", "SPPF", "Detect"), ("Conv", *reading), strict=True))
            zeroed = [0] * 6
            for i, (figure, *ratios, _) in enumerate(recipe.ROWS):
                for kind, c1, c2, area in convs:
                    if whose[kind] != "spared":
                        size = c1 * c2 * area if figure == 4 else (c2, c1)[dim]
                        zeroed[i] += round(ratios[recipe.KINDS.index(whose[kind])] * size) * (c1 * c2 * area // size)
            for total in (weights + 2 * filters + biases, weights + filters + biases, weights):
                texts = [f"{z / total:.{len(p) - 2}f}" for z, p in zip(zeroed, printed, strict=True)]
                first = sum(a == b for a, b in zip(texts[:5], printed, strict=False))
                counts[first + (texts[5] == "0.00994")] += 1
                as_printed[first + (f"{zeroed[5] / total:.4f}" == "0.0994")] += 1
    assert sum(counts[1:]) > 10
    found = recipe.search(spec)
    assert found["fits"][recipe.CLASSES[0]] == counts
    assert found["fits_as_printed"][recipe.CLASSES[0]] == as_printed


def agree(found: dict) -> None:
    """The parts of a result say the same of the best candidates."""
    best = {
        name: max(n for n, count in enumerate(counts) if count) for name, counts in found["fits"].items() if any(counts)
    }
    small = max(n for name, n in best.items() if name != "larger than n")
    assert max(row["fits"] for row in found["readings"]) == max(best.values())
    assert max(row["fits_not_larger"] for row in found["readings"]) == small
    for name, n in best.items():
        rows = [row for row in found["nearest"] if row["class"] == name]
        assert rows[0]["fits"] == n and len(rows) == 3, name
        assert [(-row["fits"], row["distance"]) for row in rows] == sorted(
            (-row["fits"], row["distance"]) for row in rows
        )
    for row in found["chance"]:
        scope = list(found["fits"].values())[: 5 if row["candidates"] == "all" else 4]
        assert (row["five"], row["six"]) == tuple(sum(counts[n] for counts in scope) for n in (5, 6))


@pytest.mark.parametrize(
    ("depth", "reading", "misprint"),
    [(0.16, ("C3", "Conv", "Conv"), 0), (0.4, recipe.EVERY_CONV, 0), (0.16, recipe.EVERY_CONV, 0.0001)],
    ids=["fewer", "larger", "misprint"],
)
def test_a_planted_recipe_is_found_again(monkeypatch, depth, reading, misprint):
    repeats, channels = recipe.scaled(depth, 0.1875)
    values = six(repeats, channels, 3, 1, reading, "fused parameters")
    decimals = [len(f"{value}".split(".")[1]) for value in recipe.PRINTED]
    printed = np.array([round(v, d) for v, d in zip(values, decimals, strict=True)])
    printed[2] += misprint
    monkeypatch.setattr(recipe, "PRINTED", printed)
    found = recipe.search(replace(SMALL, nc_max=4, named=()))
    fits = 5 if misprint else 6
    label = "larger than n" if depth > 0.34 else "fewer layers and fewer filters"
    assert found["fits"][label][fits] >= 1
    settings = {"repeats": list(repeats), "channels": list(channels), "reading": list(reading)}
    settings["removed"] = "input channels"
    assert any(settings.items() <= row.items() and row["fits"] == fits for row in found["nearest"])
    assert found["chance"] or not misprint, "no decoys: choose another misprint"
    agree(found)


def test_what_the_paper_prints():
    assert recipe.PRINTED.tolist() == [0.298, 0.199, 0.0995, 0.0309, 0.0209, 0.00994]
    assert recipe.HALF == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5, 5e-5, 5e-6])


def test_the_nearest_networks(metrics):
    """One bottleneck per C3 and n's channels print five of six; of all candidates, one deeper than n prints six."""
    five = six((1, 1, 1), recipe.N[1], 11, 0, recipe.EVERY_CONV, "all parameters")
    assert list(recipe._as_printed(five).values()) == ["0.298", "0.199", "0.0995", "0.0309", "0.0209", "0.00996"]
    every = six((3, 6, 8), recipe.N[1], 49, 1, recipe.EVERY_CONV, "all parameters")
    assert (np.abs(recipe.deviations(every)) <= 1).all()
    best = next(row for row in metrics["nearest"] if row["class"] == "fewer layers, n's filters")
    assert (best["fits"], best["repeats"], best["nc"]) == (5, [1, 1, 1], 11)
    assert best["values"] == pytest.approx(five, abs=1e-7)
    assert sum(row["fits"] == 6 for row in metrics["nearest"]) == 0


def test_classes_in_the_papers_words():
    channels = [(8, 16, 32, 64, 128), recipe.N[1], (24, 40, 72, 136, 264)]
    assert recipe.described((1, 1, 1), channels).tolist() == [0, 1, 4]
    assert recipe.described((1, 2, 3), channels).tolist() == [2, 3, 4]
    assert recipe.described((2, 4, 6), channels).tolist() == [4, 4, 4]


def test_counts_are_complete(metrics):
    networks = 32 * len({recipe.scaled(k / 1000, 1)[0] for k in range(1, 401)})
    expected = networks * 11 * len(recipe.READINGS) * len(recipe.COUNTED) * len(recipe.REMOVED)
    assert metrics["candidates"] == expected == sum(map(sum, metrics["fits_as_printed"].values()))
    assert metrics["networks"] == networks
    fours, as_printed = (sum(n[4] for n in metrics[key].values()) for key in ("fits", "fits_as_printed"))
    assert fours > as_printed > 0, "0.00994 is reached, 0.0994 is not"


def test_the_ratio_by_module_had_no_effect(metrics):
    """From the digits by hand: 0.0995 at 0.1 gives the lower bound, 0.298 at 0.3 the upper one."""
    assert metrics["effect"]["factor"] == pytest.approx([0.09945 / 0.1, 0.2985 / 0.3])
    assert metrics["effect"]["c3_own_highest"] < 0.03085 and metrics["effect"]["sppf_own_channels"] <= 8
    own = next(row for row in metrics["readings"] if tuple(row["reading"]) == recipe.OWN)
    assert own["figure_4"] == 0 and own["fits"] <= 2
    larger = [row["figure_4"] - row["figure_4_not_larger"] for row in metrics["readings"]]
    assert min(larger) >= 0 and max(larger) > 0


def test_chance(metrics):
    assert len(metrics["chance"]) == 8
    for row in metrics["chance"]:
        assert 0 <= row["share_with_six"] <= row["share_with_five"] <= 1
    agree(metrics)


def test_networks_of_two_multiples_are_no_decoys():
    nc = np.arange(1, 4)
    edited, decoys = recipe._hand_edited(nc)
    usual = 0
    for repeats, dim in ((r, dim) for r in {recipe.scaled(k / 1000, 1)[0] for k in range(1, 388)} for dim in (0, 1)):
        channels = [recipe.scaled(1, k / 128)[1] for k in range(1, 33)]
        values = recipe.sparsities(repeats, channels, nc, dim, (recipe.EVERY_CONV,))[..., :2, 0]
        usual += int((np.abs(recipe.deviations(values)[:3]) <= 1).all(0).sum())
    assert edited["figure_4"] - len(decoys) == usual > 0


def test_a_pseudo_paper_out_of_the_candidates_is_always_found():
    """Six of six where the null draws from what is searched; none where its values are out of reach."""
    columns = ["class", "figure_4", *recipe.DIGITS]
    close = recipe.pd.DataFrame([(0, 3, 300, 200, 1000), (1, 3, 310, 210, 990), (4, 2, 310, 210, 990)], columns=columns)
    pool = close.loc[:1, recipe.DIGITS].assign(counted=0)
    one, of_all, three, _ = recipe._chance(close, pool, replace(SMALL, papers=200))
    assert one["share_with_six"] == 1 and one["six_expected"] == 1
    assert one["five_expected"] == 0 and 0.3 < of_all["five_expected"] < 0.7  # the third is larger than n
    assert 0.1 < three["share_with_six"] < 0.4  # three draws out of two: a quarter agree
    far = recipe._chance(close, pool.assign(**{name: 5 for name in recipe.DIGITS}), replace(SMALL, papers=5))
    assert all(row["share_with_five"] == 0 for row in far)


def test_same_spec_same_metrics(metrics):
    assert len(canonical(metrics)) < 60_000
    tiny = replace(SMALL, depth_max=0.1, nc_max=1, named=())
    first, again, other = (recipe.search(spec) for spec in (tiny, tiny, replace(tiny, seed=1)))
    assert canonical(first) == canonical(again)
    assert {name for name in first if first[name] != other[name]} == {"chance"}, "the seed draws pseudo-papers only"


def test_tables_of_the_committed_record_are_the_published_ones():
    stored = json.loads((HERE / "data" / "records" / f"{run_id(recipe.RecipeSpec())}.json").read_text())["metrics"]
    for name in ("fits", "nearest", "readings", "chance"):
        table = getattr(recipe, f"{name}_table")(stored)
        published = (HERE / "reports" / "bccd" / "tables" / f"recipe-{name}.csv").read_text(encoding="utf-8")
        assert table.to_csv(index=False, float_format="%.6g", lineterminator="\n") == published, name
    luck = [100 * row["share_with_as_many"] for row in stored["chance"] if row["candidates"] == "not larger than n"]
    fives = recipe.fits_table(stored).query("network != 'larger than n'")["5 of 6"].sum()
    said = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", recipe.five_of_six(stored))]
    assert said == [fives, stored["candidates"], round(min(luck)), round(max(luck))]


def test_tables_of_another_search(metrics):
    stored = json.loads(canonical(metrics))
    assert len(recipe.nearest_table(stored)) == 1 + len(stored["nearest"]) + 2 * len(SMALL.named)
    assert len(recipe.fits_table(stored)) == len(recipe.CLASSES) and len(recipe.chance_table(stored)) == 8
    assert "each kind at its own ratio" in set(recipe.readings_table(stored)["cut"])


def test_spec():
    assert run_id(SMALL).startswith("recipe-nc11-")
    for wrong in ({"depth_max": 0}, {"width_max": 0.001}, {"nc_max": 0}, {"papers": 0}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            recipe.RecipeSpec(**wrong)
