"""The study in short, for notebook 06 and from there for README.md and README.ko.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from yolop.paper import claims
from yolop.report import further, speed_tables, tables
from yolop.specs import PruneSpec, points

if TYPE_CHECKING:
    from yolop.report.opened import OpenStudy

ENGLISH = """\
On {data}, **{holds} of {claims} claims that could have failed hold, {fails} do not, {undecided} stay undecided**,
and {not_run} could not be tested; {built_in} more hold by construction.

- **A smaller network.** p takes {less_time} % less time than n; its mAP50 differs by {p_over_n} points.
- **Custom pretraining** changes p by {best_over_p} points; over p trained as long from random weights that is
  {best_over_same_steps}.{coco_english}
- **Pruning without retraining** keeps 90 % of mAP50 {kept_unstructured} for single weights, {kept_structured} for whole filters.
  Ratios by module type bring {by_type_over_even} points over one ratio that gives as many zeros. {equivalent} of {masks} pruned
  networks are shown to take the dense one's time within 2 %{masks_doubt}.{retrained_english}
- {speed}

{test_images} test images; {how_sure}.{learnt}"""
KOREAN = """\
논문의 주장과 그로부터 따라 나오는 주장 중 실패할 수 있었던 {claims}개 가운데 {holds}개는 성립하고 {fails}개는 성립하지 않으며,
{undecided}개는 판단할 수 없고 {not_run}개는 시험하지 못했습니다. 그 밖의 {built_in}개는 실험 구성상 당연히 성립합니다.
이 연구의 p는 n보다 추론 시간이 {less_time}% 짧고, mAP50의 차이는 {p_over_n} 포인트입니다.
자체 사전 학습을 거치면 p의 mAP50이 {best_over_p} 포인트 달라지지만, 무작위 가중치에서 같은 총 스텝만큼 학습한 p와의 차이는
{best_over_same_steps} 포인트입니다.{coco_korean}
재학습 없이 mAP50의 90%를 유지하는 가장 큰 비율은 가중치 단위에서 {most_unstructured}, 필터 단위에서 {most_structured}입니다.
모듈 종류별 비율은 0의 수가 같은 단일 비율에 비해 {by_type_over_even} 포인트 차이가 납니다.
가지치기한 네트워크 {masks}개 가운데 {equivalent}개는 추론 시간이 원래 네트워크와 2% 이내로 같다는 것이
검정으로 확인되었습니다.{retrained_korean}
{speed_korean}
(테스트 이미지 {test_images}장, 학습 시드 {seeds}개, 괄호 안은 95% 구간.)"""
SPEED = "**Zeros that become speed.**"
COCO_ENGLISH = " Over p that starts from the official COCO weights it is {}."
COCO_KOREAN = " COCO 가중치에서 바로 시작한 p와의 차이는 {} 포인트입니다."
RETRAINED_ENGLISH = """
  Trained again with {percent:.0f} % of single weights zero, p (best) has mAP50 {mAP50:.3f} in place of
  {mAP50_pruned:.3f}; with none, {dense:.3f}."""
RETRAINED_KOREAN = """
개별 가중치의 {percent:.0f}%를 0으로 둔 채 다시 학습하면 p(best)의 mAP50은 {mAP50_pruned:.3f}에서 {mAP50:.3f}로 회복됩니다
(가지치기 없이 똑같이 더 학습하면 {dense:.3f})."""
SPEED_KOREAN = """0을 건너뛰는 이 연구의 엔진에서 가중치의 {zeros:.0%}가 0인 n은 PyTorch보다 {over_pytorch:.1f}배 빠릅니다.
그중 0 덕분에 빨라진 것은 {by_zeros:.1f}배이며(같은 엔진에서 0이 없을 때와 비교),
{share:.0%}를 0으로 두고 학습한 n은 mAP50-95의 {kept:.0f}%를 유지합니다."""
IN_8_BITS_KOREAN = """
8비트에서는 OpenVINO가 n을 PyTorch보다 {theirs:.1f}배, 이 연구의 엔진이 {ours:.1f}배 빠르게 실행하며,
가중치의 {share:.0%}를 0으로 두고 학습한 n은 {zeros:.1f}배 빠르면서 mAP50-95의 {kept:.1f}%를 유지합니다."""
ADVICE_KOREAN = """
검증 데이터에서 mAP50-95의 98%를 유지하는 구성 가운데 가장 빠른 것은 "{what}"이며, PyTorch의 n보다 {times:.1f}배 빠르고
테스트 데이터에서 {kept:.1f}%를 유지합니다."""
DATA = {
    "digits": "generated images of real handwriting on real photographs",
    "bccd": "364 photographs of blood cells (bccd)",
    "raccoon": "200 photographs of raccoons",
    "coco128": "coco128, whose val images are its training images",
}


def numbers(study: OpenStudy, verdicts: pd.DataFrame) -> dict:
    """Everything that the paragraphs say, by name."""
    n, p, best, same_steps = (study.model(label).score() for label in ("n", "p", "p-best", "p-same-steps"))
    model, count = study.model("p-best"), claims.counts(verdicts)
    coco = study.model("p-coco").score() if "p-coco" in study.graph.trainings else None
    by_type = model.pruned_score(PruneSpec("l1-unstructured", 0.3, 0.1, 0.1))
    methods = ("l1-unstructured", "l1-global", "l1-structured")
    kept = tables.largest_ratio(model.pruned(points(methods, study.settings.ratios)), 0.9 * best.mAP50)
    times = study.timing("pruned")
    pruned = times.variants.values()
    return {
        "data": DATA.get(study.settings.dataset, f"the data set {study.data['name']}"),
        "claims": sum(count.values()),
        "built_in": int((verdicts["verdict"] == claims.BUILT_IN).sum()),
        **dict(zip(("holds", "fails", "undecided", "not_run"), count.values(), strict=True)),
        "less_time": f"{100 * (1 - study.timing('models')['p'].value):.0f}",
        "p_over_n": p - n,
        "best_over_p": best - p,
        "best_over_same_steps": best - same_steps,
        "coco_english": COCO_ENGLISH.format(best - coco) if coco else "",
        "coco_korean": COCO_KOREAN.format(best - coco) if coco else "",
        "by_type_over_even": by_type - model.even(by_type),
        **{f"kept_{method.removeprefix('l1-')}": kept[method] for method in methods},
        **{f"most_{method.removeprefix('l1-')}": (kept[method].split("of ") + ["없음"])[1] for method in methods},
        "equivalent": sum(ratio.equivalent for ratio in pruned),
        "masks": len(pruned),
        "masks_doubt": f"; but no verdict stands, since the {times.doubt}" if times.doubt else "",
        "seeds": len(study.settings.seeds),
        "test_images": study.data["splits"]["test"]["images"],
        "how_sure": how_sure(len(study.settings.seeds)),
        "learnt": f" {best.doubt}".rstrip(),
        **_retrained(study),
        **_speed(study),
    }


def ahead(controls: pd.DataFrame) -> str:
    """By how many points p (best) lies above every control, in words, from `tables.controls`."""
    rows = controls[~controls["label"].isin(["p", "p-corpus"])].itertuples()
    return "; ".join(f"{r.compared_with}: {r.points_ahead:+.1f} ({r.ahead_low:+.1f} to {r.ahead_high:+.1f})" for r in rows)


def how_sure(seeds: int) -> str:
    """What the intervals of a study hold, in words."""
    if seeds == 1:
        return "95 % intervals over the test images; one training seed, so the luck of training is not in them"
    return f"means of {seeds} training seeds; 95 % intervals over seeds and test images"


def _retrained(study: OpenStudy) -> dict[str, str]:
    """What training again gives to single weights at the highest ratio, in both languages; empty where nothing was."""
    table = further.retrained(study)
    if table.empty:
        return {"retrained_english": "", "retrained_korean": ""}
    row = table[table["way"] == further.WAYS["l1-unstructured"]].sort_values("ratio").iloc[-1].to_dict()
    row |= {"percent": 100 * row["ratio"], "dense": table.loc[table["ratio"] == 0, "mAP50"].item()}
    return {"retrained_english": RETRAINED_ENGLISH.format(**row), "retrained_korean": RETRAINED_KOREAN.format(**row)}


def _speed(study: OpenStudy) -> dict[str, str]:
    """What zeros bring when something skips them, and what to do, in both languages."""
    if not study.settings.trained_zeros:
        return {"speed": f"{SPEED} This study trains no zeros and times no engine that skips them; bccd does.", "speed_korean": ""}
    uniform = speed_tables.uniform(study, speed_tables.atlas(study))
    trained = speed_tables.trained_zeros(study)
    row, share = speed_tables.at_control(trained, study.settings), study.settings.control_sparsity
    korean = SPEED_KOREAN.format(
        zeros=share, over_pytorch=1 / speed_tables.engine_ratio(uniform, "n", share).value,
        by_zeros=1 / speed_tables.by_zeros(uniform, "n", share).value, share=row["sparsity_of_weights"], kept=row["kept_pct"],
    )  # fmt: skip
    table = speed_tables.configurations(study)
    if rows := speed_tables.in_8_bits(table):
        over_n = {name: 1 / row["ratio"] for name, row in rows.items()}
        korean += IN_8_BITS_KOREAN.format(share=rows["zeros"]["sparsity"], kept=rows["zeros"]["kept_pct"], **over_n)
    for first in speed_tables.fastest(table).head(1).itertuples():
        korean += ADVICE_KOREAN.format(what=first.what, times=1 / first.ratio, kept=first.kept_pct)
    skipping, trained_in = speed_tables.answer(uniform, trained, study.settings)
    in_8_bits, advice = speed_tables.answer_in_8_bits(table), speed_tables.advice(table)
    said = f"{SPEED} {skipping}", f"**8 bits.** {in_8_bits}" if in_8_bits else trained_in, f"**What to take.** {advice}"
    return {"speed": "\n- ".join(said), "speed_korean": korean}
