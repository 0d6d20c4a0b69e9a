"""The study in one paragraph, for notebook 06 and from there for README.md and README.ko.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from yolop.paper import claims
from yolop.report import speed_tables, tables
from yolop.specs import PruneSpec, points

if TYPE_CHECKING:
    from yolop.report.opened import OpenStudy

ENGLISH = """\
On {data}, {holds} of the paper's {claims} claims hold, {fails} do not, {undecided} stay undecided,
and {not_run} could not be tested.
Our p takes {less_time} % less time than n; its mAP50 differs by {p_over_n} points. Custom pretraining changes p by {best_over_p}
points; against a p trained from scratch for the same total number of steps, the difference is {best_over_same_steps} points.
Without retraining, 90 % of mAP50 is kept {kept_unstructured} for single weights, {kept_global} if they are ranked globally, and
{kept_structured} for whole filters. Choosing ratios by module type changes mAP50 by {by_type_over_even} points when the number of
zeros is equal. {equivalent} of {masks} pruned networks are shown to take the dense one's time within 2 %.
{speed} ({test_images} test images; {how_sure}.)"""
KOREAN = """\
논문의 주장 {claims}개 가운데 {holds}개는 성립하고 {fails}개는 성립하지 않으며,
{undecided}개는 판단할 수 없고 {not_run}개는 실행하지 않았습니다.
이 연구의 p는 n보다 추론 시간이 {less_time} % 짧고, mAP50의 차이는 {p_over_n} 포인트입니다.
사용자 사전 학습은 p의 mAP50을 {best_over_p} 포인트 바꾸지만, 처음부터 같은 총 스텝만큼 학습한 p와 비교하면 차이는
{best_over_same_steps} 포인트입니다. 모듈 종류별 비율은 같은 희소도의 단일 비율에 비해 {by_type_over_even} 포인트 차이가 납니다.
가지치기한 네트워크 {masks}개 중 {equivalent}개는 원래 네트워크와 추론 시간이 2 % 이내로 같음이 검정으로 확인되었습니다.
즉, PyTorch에서는 0을 채우는 것만으로는 빨라지지 않습니다.{speed_korean}
(테스트 이미지 {test_images}장, 학습 시드 {seeds}개, 괄호 안은 95 % 구간.)"""
SPEED_KOREAN = """ 그러나 0을 건너뛰는 이 연구의 엔진에서 n은 PyTorch보다
가중치의 80 %가 0일 때 {at_80:.1f}배, 90 %일 때 {at_90:.1f}배 빠르고,
{share:.0%}를 0으로 두고 학습한 n은 mAP50-95의 {kept:.0f} %를 유지합니다."""
DATA = {
    "digits": "generated images of real handwriting on real photographs",
    "bccd": "364 photographs of blood cells (bccd)",
    "coco128": "coco128, whose val images are its training images",
}


def numbers(study: OpenStudy, verdicts: pd.DataFrame) -> dict:
    """Everything that the paragraphs say, by name."""
    n, p, best, same_steps = (study.model(label).score() for label in ("n", "p", "p-best", "p-same-steps"))
    model, count = study.model("p-best"), claims.counts(verdicts)
    by_type = model.pruned_score(PruneSpec("l1-unstructured", 0.3, 0.1, 0.1))
    methods = ("l1-unstructured", "l1-global", "l1-structured")
    kept = tables.largest_ratio(model.pruned(points(methods, study.settings.ratios)), 0.9 * best.mAP50)
    pruned = study.timing("pruned").variants.values()
    return {
        "data": DATA.get(study.settings.dataset, f"the data set {study.data['name']}"),
        "claims": len(verdicts),
        **dict(zip(("holds", "fails", "undecided", "not_run"), count.values(), strict=True)),
        "less_time": f"{100 * (1 - study.timing('models')['p'].value):.0f}",
        "p_over_n": p - n,
        "best_over_p": best - p,
        "best_over_same_steps": best - same_steps,
        "by_type_over_even": by_type - model.even(by_type),
        **{f"kept_{method.removeprefix('l1-')}": kept[method] for method in methods},
        "equivalent": sum(ratio.equivalent for ratio in pruned),
        "masks": len(pruned),
        "seeds": len(study.settings.seeds),
        "test_images": study.data["splits"]["test"]["images"],
        "how_sure": how_sure(len(study.settings.seeds)),
        **_speed(study),
    }


def how_sure(seeds: int) -> str:
    """What the intervals of a study hold, in words."""
    if seeds == 1:
        return "95 % intervals by a bootstrap over the test images; one training seed, so the luck of training is not in them"
    return f"means of {seeds} training seeds; 95 % intervals by a bootstrap over seeds and test images"


def _speed(study: OpenStudy) -> dict[str, str]:
    """What zeros bring when something skips them, and what to do, in both languages."""
    if not study.settings.trained_zeros:
        return {"speed": "This study trains no zeros and times no engine that skips them; bccd does.", "speed_korean": ""}
    uniform = speed_tables.uniform(study, speed_tables.atlas(study))
    trained = speed_tables.trained_zeros(study)
    row = speed_tables.at_control(trained, study.settings)
    ratios = {share: speed_tables.engine_ratio(uniform, "n", share).value for share in (0.8, 0.9)}
    answer = speed_tables.answer(uniform, trained, study.settings)
    korean = SPEED_KOREAN.format(
        at_80=1 / ratios[0.8], at_90=1 / ratios[0.9], share=row["sparsity_of_weights"], kept=row["kept_pct"]
    )
    return {"speed": f"{answer} {speed_tables.advice(speed_tables.configurations(study))}", "speed_korean": korean}
