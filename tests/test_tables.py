"""Tables say what the records say: the paper's rows, controls, shares, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from yolop import PruneSpec, audit, open_study, points, speed_tables, tables
from yolop.report.scores import Score
from yolop.speed_specs import RUNTIMES
from yolop.store import StoreError
from yolop.study import beyond


@pytest.fixture(scope="module")
def study():
    return open_study("bccd")


@pytest.fixture(scope="module")
def best(study):
    return study.model("p-best")


def test_sparsities_of_the_papers_rows(best):
    table = tables.paper_rows(audit.figure(4), best, "l1-unstructured", 4)
    counts = table.groupby("conv")["sparsity"].nunique()
    assert counts.tolist() == [2, 3, 3]  # three readings, but one ratio for all modules reads alike in two of them
    any_conv = table[table["reading"] == "any Conv"].reset_index()
    assert (any_conv["sparsity"] < any_conv["conv"]).all()  # what Detect and batch norm hold is out of reach
    assert (any_conv["sparsity"] > 0.95 * any_conv["conv"]).all()
    own = table[(table["reading"] == "own") & (table["conv"] == 0.3)].iloc[0]
    assert own["sparsity"] < any_conv["sparsity"].max()  # there SPPF is really cut at 0.1 only


def test_a_sweep_point_is_the_unpruned_model_at_ratio_0(best):
    dense = best.pruned_score(PruneSpec())
    assert dense.mAP50 == best.score("test").mAP50 and dense.sparsity == 0


def test_the_control_has_the_sparsity_of_the_ratios_by_type(best):
    uniform, by_type = (best.pruned_score(PruneSpec("l1-unstructured", 0.3, c3, c3)) for c3 in (0.3, 0.1))
    even = best.even(by_type)
    assert even.sparsity == pytest.approx(by_type.sparsity, abs=2e-5) and uniform.sparsity > 1.5 * even.sparsity
    for seed in even.by_seed:
        assert seed["conv"] == seed["c3"] == seed["sppf"] < 0.3


def test_known_points_need_no_work_in_any_order(best):
    """A reader of committed records changes ratios to a part of those that are there."""
    some = open_study("bccd", "ratios=0.2,0.1").model("p-best")
    all_points, chosen = (m.pruned(points("l1-global", m.study.settings.ratios)) for m in (best, some))
    key = ["training_seed", "ratio"]
    both = chosen.merge(all_points, on=key, suffixes=("", "_all"))
    assert len(both) == len(chosen) == 6 and (both["mAP50"] == both["mAP50_all"]).all()
    with pytest.raises(StoreError, match='records="fresh"'):
        best.pruned(points("l1-global", (0.123,)))


def test_sweeps_average_over_training_seeds():
    point = {"method": "m", "modules": "all", "seed": 0, "ratio": 0.1, "sparsity": 0.1, "mAP50_95": 0.1}
    rows = [point | {"mAP50": score, "training_seed": seed} for seed, score in enumerate((0.8, 0.9, 1.0))]
    table = tables.sweeps(pd.DataFrame(rows))
    assert table["mAP50"].item() == pytest.approx(0.9) and table["mAP50_sd"].item() == pytest.approx(0.1)
    assert "mAP50_sd" not in tables.sweeps(pd.DataFrame(rows[:1]))


def test_the_largest_ratio_stops_at_the_first_that_fails():
    rows = [{"method": "m", "modules": "all", "ratio": r, "mAP50": m} for r, m in ((0.1, 0.9), (0.2, 0.5), (0.3, 0.9))]
    assert tables.largest_ratio(pd.DataFrame(rows), 0.8) == {"m": "up to a ratio of 0.1"}
    assert tables.largest_ratio(pd.DataFrame(rows), 0.95) == {"m": "at no ratio tried"}


def test_filters_are_kept_up_to_the_first_ratio_that_fails():
    """A sweep with a hole: what recovers after a failure does not count as kept."""
    kept = {"l1-structured": {0.01: 0.9, 0.02: 0.5, 0.03: 0.9}, "l1-unstructured": {0.01: 0.9, 0.02: 0.9, 0.03: 0.9}}
    rows = [
        {"method": method, "modules": "all", "seed": 0, "ratio": ratio, "sparsity": ratio, "mAP50": mAP50, "mAP50_95": 0.5}
        for method, by_ratio in kept.items()
        for ratio, mAP50 in by_ratio.items()
    ]
    dense = Score(({"mAP50": 0.9},), 72)
    found = tables.tiny_ratios(pd.DataFrame(rows).assign(training_seed=0), dense)
    assert found.holds and found.text == "95 % of mAP50 kept up to ratio 0.01 structured, up to 0.03 unstructured"
    nothing = tables.tiny_ratios(pd.DataFrame(rows).assign(training_seed=0), Score(({"mAP50": 0.01},), 72))
    assert nothing.doubt.startswith("not learnt")


def test_controls_are_as_long_as_they_say(study):
    table = tables.controls(study).set_index("label")
    assert set(table.index) == {"n", "p", "n-coco", "p-same-steps", "p-coco", "p-coco-same-steps", "p-other"}
    same = table.loc[["p-same-steps", "p-coco-same-steps"]]
    assert (same["steps"] == same["steps_p_best"]).all() and (table.loc["p", "steps"] < table.loc["p", "steps_p_best"])
    for label, row in table.iterrows():
        ahead = study.model("p-best").score() - study.model(label).score()
        assert (row["points_ahead"], row["ahead_low"]) == (ahead.value, ahead.low)


def test_a_layer_costs_what_it_loses_more_than_the_median(best):
    found, text = tables.costs(best.one_by_one(), "model.24.")
    assert found.seeds == 3 and found.low < found.value < found.high and f"{found}" in text
    alone, _ = tables.costs(best.one_by_one().query("training_seed == 0"), "model.24.")
    assert alone.doubt


def test_roles_tell_baseline_and_control(study):
    table = tables.timing(study.timing("pruned"))
    assert table["role"].tolist() == ["baseline", *["variant"] * 6, "control"]
    assert table.loc[0, "ratio"] == 1 and table.loc[7, "ratio"] != 1


def test_shares_of_parameters_add_up(study):
    modules = tables.by_module(**{label: study.layers()[label] for label in ("n", "p")})
    assert modules.groupby("label")["parameters_pct"].sum().tolist() == pytest.approx([100, 100])
    assert tables.share_pct(modules, "p", "Conv", "C3", "SPPF", "Detect") == pytest.approx(100)


def test_the_baseline_stands_above_its_second_timing(study):
    table = speed_tables.configurations(study)
    first, again = (row for _, row in speed_tables.worth_showing(table).head(2).iterrows())
    assert (first["ratio"], first["ratio_low"], first["ratio_high"]) == (1, 1, 1)
    assert again["what"] == first["what"] + " (again)" and again["ratio"] == table["ratio"][0] != 1


def test_images_of_val_that_are_trained_on_are_said_to_be_seen(study):
    seen, unseen = (tables.val_and_test(one, audit.figure(2))["val_images"] for one in (open_study("coco128"), study))
    assert set(seen) == {"seen in training"} and set(unseen) == {"unseen"}


def test_readings_that_give_the_same_share_a_row(best):
    rows = tables.paper_rows(audit.figure(3), best, "l1-unstructured", 3)
    shared = tables.same_readings(rows)
    assert list(shared) == list(rows) and shared["reading"].iloc[0] == "own, any Conv, every conv"
    assert sum(len(reading.split(", ")) for reading in shared["reading"]) == len(rows)


def test_fine_tuned_n_has_the_times_of_n_and_scores_of_its_own(study):
    table = speed_tables.configurations(study)
    assert set(table["network"]) == {"n", "fine-tuned", "p-best", "p-zeros", "zeros", "channels", "both"}
    assert table["what"].is_unique
    n, control = (table[(table["network"] == name) & (table["runtime"] == "openvino")].iloc[0] for name in ("n", "fine-tuned"))
    assert n["latency_ms"] == control["latency_ms"] and n["mAP50_95"] != control["mAP50_95"]
    front = table[table["front"]].sort_values("ratio")
    assert front["mAP50_95"].is_monotonic_increasing  # a slower one on the front is more accurate


def test_a_way_that_is_clearly_beaten_is_on_no_drawn_front():
    rows = [(0.5, 0.8), (0.9, 0.6), (0.5, 0.8)]  # time, mAP; the last is the first again
    table = pd.DataFrame(
        {"ratio": t, "ratio_low": t - 0.01, "ratio_high": t + 0.01}
        | {"mAP50_95": score, "mAP50_95_low": score - 0.02, "mAP50_95_high": score + 0.02}
        for t, score in rows
    )  # fmt: skip
    share = speed_tables.share_on_front(table)
    assert share[1] == 0 and share[[0, 2]] == pytest.approx(0.75, abs=0.05)  # beaten where the other is better in both


def test_all_in_8_bits_and_at_other_sizes_have_a_score_on_val_in_their_own_runtime(study):
    kept = speed_tables.configurations(study).set_index("what")["val_kept_pct"]
    assert kept.notna().all() and kept["n from COCO weights, PyTorch"] == 100 != kept["n from COCO weights, OpenVINO int8"]
    assert kept["n from COCO weights, PyTorch, 256 px"] < 100


def test_networks_are_crossed_with_runtimes_and_sizes(study):
    graph, many = study.graph, beyond.options(study.graph, 0)
    roads = {}
    for option in many:
        made = option.network, option.sparsity, option.channels_removed
        roads.setdefault(made, set()).add((option.configuration.runtime, option.configuration.imgsz))
    every = {(runtime, 320) for runtime in RUNTIMES}
    assert all(every <= roads[made] for made in roads if made[0] in ("n", "fine-tuned", "p-best", "channels"))
    assert every <= roads["zeros", 0.9, 0.0] and roads["zeros", 0.8, 0.0] == roads["both", 0.8, 0.5] == roads["p-zeros", 0.8, 0.0]
    assert roads["n", 0.0, 0.0] == roads["fine-tuned", 0.0, 0.0] and len(many) == len(set(many))
    few = beyond.options(replace(graph, study=replace(graph.study, blocks=())), 0)
    assert {option.configuration.imgsz for option in few} == {320} and {option.block for option in few} == {1}
    assert {o.configuration.runtime for o in few if o.network == "n"} == set(RUNTIMES) and len(few) < len(many)


def test_a_study_without_zeros_has_empty_tables_and_says_so():
    study = open_study("coco128")
    layers = speed_tables.atlas(study)
    assert layers.empty and speed_tables.uniform(study, layers).empty and speed_tables.trained_zeros(study).empty
    assert "bccd does" in speed_tables.answer(layers, layers, study.settings)[0]
    assert speed_tables.weighted_ratio(layers, "n", 0.3).text == "no engine was timed in this study"


def test_what_zeros_bring_is_over_the_same_engine_without_them(study):
    layers = speed_tables.atlas(study)
    uniform = speed_tables.uniform(study, layers)
    for found in (speed_tables.by_zeros(uniform, "n", 0.0), speed_tables.weighted_ratio(layers, "n", 0.0)):
        assert found.value == 1 and found.low < 1 < found.high
    over_pytorch = speed_tables.engine_ratio(uniform, "n", 0.9).value
    assert over_pytorch < speed_tables.by_zeros(uniform, "n", 0.9).value < 1
    row = uniform[uniform["engine"] & (uniform["label"] == "n") & (uniform["sparsity"] == 0.9) & (uniform["imgsz_px"] == 320)]
    assert row["by_zeros"].item() == pytest.approx(1 / speed_tables.by_zeros(uniform, "n", 0.9).value)
    assert speed_tables.weighted_ratio(layers, "n", 0.31).text == "no layer was timed with 31% zeros in this study"
    table = speed_tables.break_even(layers)
    assert (table.loc[table["sparsity"] == 0, "median_by_zeros"] == 1).all()


def test_advice_is_chosen_on_val_and_says_ties():
    rows = [("good on test", 70, 0.1, 99), ("fast", 99, 0.3, 97), ("as fast", 98, 0.305, 98), ("slow", 100, 0.5, 100)]
    table = pd.DataFrame(
        {"what": what, "val_kept_pct": val, "ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01,
         "kept_pct": test, "kept_low_pct": test - 2, "kept_high_pct": test + 2}
        for what, val, ratio, test in rows
    )  # fmt: skip
    table = pd.concat([table.tail(1).assign(what="n", val_kept_pct=100.0, ratio=1.0, ratio_low=0.9, ratio_high=1.1), table])
    doubted = table.assign(ratio_low=table["ratio_low"].where(table["what"] != "n", 1.05))
    assert "The A/A control failed" in speed_tables.advice(doubted)
    said = speed_tables.advice(table)
    assert "good on test" not in said and "slow" not in said
    assert "is fast: 3.3 times (3.2 to 3.4) as fast as n" in said
    assert "with 97.0 % (95.0 to 99.0 %) kept on test" in said and said.endswith("Not told apart from it in time: as fast.")


def test_kept_shares_are_of_the_control(study):
    table = speed_tables.trained_zeros(study).set_index(["allocation", "sparsity_of_weights", "channels_removed"])
    assert table.loc[("", 0.0, 0.0), "kept_pct"] == 100
    assert (table["kept_low_pct"] <= table["kept_pct"]).all() and np.isfinite(table["kept_pct"]).all()
