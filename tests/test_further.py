"""Other shapes, longer trainings, training again after pruning: which nodes they are, and what their tables say of them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from yolop import further, open_study
from yolop.specs import MODELS, RETRAINED, SpecError
from yolop.study import plan

SETTINGS = "shapes=0.2x0.2,0.33x0.1875 longer=4 retrained=0,0.3,0.9"


def test_further_trainings_differ_from_the_studys_own_in_one_thing():
    study = open_study("bccd", SETTINGS)
    p, best = (study.model(label).nodes[1].spec for label in ("p", "p-best"))
    shaped = study.shaped("0.33x0.1875")
    assert shaped.name == "depth 0.33, width 0.1875" and (shaped.nodes[1].spec.model.width, MODELS["n"].depth) == (
        0.1875,
        0.33,
    )
    assert replace(shaped.nodes[1].spec, model=p.model, label=p.label) == p
    assert replace(study.longer("n").nodes[0].spec, epochs=30) == study.model("n").nodes[0].spec
    again = study.retrained("by-type", 0.3).nodes[1]
    assert again.spec.init == f"pruned-by-type-0.3:{study.model('p-best').nodes[1].id}" and again.spec.distill == 0
    names = set(vars(best)) - {"label", "init"}
    assert {name: getattr(again.spec, name) for name in names} == {name: getattr(best, name) for name in names}


def test_the_plan_has_them_once_and_a_study_without_them_has_none():
    nodes = plan.by_notebook(open_study("bccd", SETTINGS).graph)
    without = open_study("bccd", "shapes= longer=0 retrained=").graph
    before = {node.id for part in plan.by_notebook(without).values() for node in part}
    own = {
        number: [n.id for n in part if n.id not in before and n.spec.kind == "train"] for number, part in nodes.items()
    }
    # two shapes of three seeds and s, n, p; four ways at two ratios of three seeds, and their control
    assert (len(own["02"]), len(own["04"])) == (2 * 3 + 3, len(RETRAINED) * 2 * 3 + 3)
    empty = open_study("digits")
    assert all(table(empty).empty for table in (further.shapes, further.longer, further.retrained))


@pytest.mark.parametrize("wrong", ["shapes=0.2", "shapes=0.21x0.2", "longer=1", "retrained=1"])
def test_what_cannot_be_trained_is_refused(wrong):
    with pytest.raises(SpecError, match=wrong.split("=")[0]):
        open_study("bccd", wrong)


def test_what_training_again_gives_is_said_for_the_highest_ratio():
    rows = [("nothing pruned", 0.0, 0.0, 0.9, 0.91), ("A", 0.3, 0.29, 0.8, 0.9), ("A", 0.9, 0.88, 0.04, 0.85)]
    table = pd.DataFrame(rows, columns=["way", "ratio", "sparsity", "mAP50_pruned", "mAP50"])
    assert further.retrained_found(table) == (
        "Pruned at 90% and trained again with its zeros kept, p (best) has mAP50 0.850 in place of 0.040 (A, 88% of all parameters"
        " zero); with nothing pruned and trained as long 0.910."
    )
    assert further.retrained_found(pd.DataFrame()) == ""


def frame(*rows):
    columns = ["label", "model", "ratio_to_n", "mAP50", "points_over_p", "over_low", "over_high"]
    table = pd.DataFrame(rows, columns=columns).sort_values("ratio_to_n", ignore_index=True)
    return table.assign(on_front=table["mAP50"] > table["mAP50"].cummax().shift(fill_value=-1))


def test_the_front_is_said_as_it_is():
    p, n = ("p", "YOLOv5p", 0.86, 0.86, 0.0, 0.0, 0.0), ("n", "YOLOv5n", 1.0, 0.87, 1.0, -1.0, 3.0)
    assert "p lies on the front of these 2 shapes. None" in further.shapes_found(frame(p, n))
    text = further.shapes_found(frame(p, n, ("d", "depth 0.33, width 0.1875", 0.75, 0.88, 2.0, 0.5, 3.5)))
    assert "p does not lie" in text and "depth 0.33, width 0.1875, 0.75 of n's time, +2.0 (+0.5 to +3.5) points" in text
