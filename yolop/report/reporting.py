"""Tables, claims and sentences from records, and the report that a stranger reads.

Every table is a function of the evidence, every claim's verdict a function of the same numbers, every number in a
sentence a value of `numbers`. `Report` is what a notebook holds; `texts` recomputes all of it for `yolop verify`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from yolop import store
from yolop.paper import audit, recipe
from yolop.report.tables import (
    TABLES,
    audit_table,
    claims_table,
    control,
    difference,
    figure_2,
    grid_table,
    point,
    refusals_table,
    roads_table,
    scores,
    sparse_tensors_table,
    sweeps_table,
    trained_zeros_table,
    uniform_table,
)
from yolop.specs import STUDIES, Study
from yolop.store import write_atomically
from yolop.study.graph import NAMES, Evidence, open_study

DATA = {
    "digits": "real handwriting on real photographs, generated here with exact boxes; no sample of handwriting and no "
    "photograph is in two splits",
    "bccd": "364 photographs of blood cells with their own split; its two boxes without area are left out",
    "coco128": "128 photographs of COCO's train2017, on which YOLOv5's tutorial trains *and* validates, and as test 128 of "
    "val2017 that no training sees",
}
PRETRAINING = {
    "corpus": "p is trained on a larger generated corpus of all ten digits, whose handwriting and photographs are those of "
    "the train split, then on the data set; Detect starts anew, as its classes differ",
    "coco": "n is trained on the data set from its official COCO weights, by the original's recipe; then p keeps, of each of "
    "its convolutions, the filters of largest L1 norm and is trained on the same data set",
}

# --- text: numbers and sentences --------------------------------------------------------------------------------------


def numbers(e: Evidence) -> dict[str, object]:
    """Every value that a sentence may use, by name; each is read on first use only, so a notebook needs its own records."""

    def timing(label: str) -> dict:
        return next(row for row in e.latency("models")["forward"] if row["label"] == NAMES[label])

    def total(model: str, column: str) -> float:
        return sum(row[column] for row in e.census("own")[model])

    def gain(a: str, b: str) -> str:
        """Points of mAP50 that model a has over b, with the interval."""
        return _points(scores(e, a), scores(e, b))

    def counted(column: str, value: str) -> int:
        table = audit_table(e) if column == "audit" else claims_table(e)
        return int((table["verdict"] == value).sum())

    def masks() -> list[dict]:
        return [row for row in e.latency("pruned")["forward"][1:] if not row["label"].endswith("(again)")]

    def detour() -> pd.DataFrame:
        return sparse_tensors_table(e)

    return {
        "imgsz": lambda: e.study.imgsz,
        "epochs": lambda: e.study.epochs,
        "nc": lambda: len(e.data().metrics["names"]),
        "test_images": lambda: e.data().metrics["splits"]["test"]["images"],
        "test_boxes": lambda: e.data().metrics["splits"]["test"]["boxes"],
        "p_depth": lambda: e.study.p[0],
        "p_width": lambda: e.study.p[1],
        "n_parameters": lambda: int(total("n", "parameters")),
        "p_parameters": lambda: int(total("p", "parameters")),
        "p_fewer_parameters_pct": lambda: 100 * (1 - total("p", "parameters") / total("n", "parameters")),
        "p_fewer_gflops_pct": lambda: 100 * (1 - total("p", "gflops") / total("n", "gflops")),
        "c3_share_pct": lambda: _share(e, "C3"),
        "conv_share_pct": lambda: _share(e, "Conv"),
        "p_less_time_pct": lambda: 100 * (1 - timing("p")["ratio"]),
        "p_mAP50": lambda: scores(e, "p")["mAP50"],
        "p_points": lambda: gain("p", "n"),
        "best_points": lambda: gain("p-best", "p"),
        "best_over_same_steps_points": lambda: gain("p-best", "p-same-steps"),
        "keeps_90_unstructured": lambda: _kept(e, "l1-unstructured"),
        "keeps_90_structured": lambda: _kept(e, "l1-structured"),
        "keeps_90_global": lambda: _kept(e, "l1-global"),
        "keeps_90_random": lambda: _kept(e, "random-unstructured"),
        "masks": lambda: len(masks()),
        "masks_equivalent": lambda: sum(row["equivalent"] for row in masks()),
        "refused": lambda: int((refusals_table(e)["runs"] == "no").sum()),
        "layouts": lambda: len(refusals_table(e)),
        "detour_low_sparsity": lambda: float(detour()["sparsity"].min()),
        "detour_low_median": lambda: float(detour().query("sparsity == sparsity.min()")["ratio"].median()),
        "detour_high_sparsity": lambda: float(detour()["sparsity"].max()),
        "detour_high_median": lambda: float(detour().query("sparsity == sparsity.max()")["ratio"].median()),
        "focus_difference": lambda: e.stem()["max_difference"],
        "claims": lambda: len(audit.CLAIMS),
        "claims_hold": lambda: counted("claims", "holds"),
        "claims_fail": lambda: counted("claims", "does not hold"),
        "claims_open": lambda: counted("claims", "undecided"),
        "claims_not_run": lambda: counted("claims", "not run"),
        "audit_rows": lambda: len(audit.audit()),
        "audit_wrong": lambda: counted("audit", "does not add up"),
        "seeds": lambda: len(e.study.seeds),
        "seed_note": lambda: _seed_note(len(e.study.seeds)),
        "study": lambda: e.study.name,
        "data_set": lambda: DATA.get(e.study.dataset, f"the data set {e.data().metrics['name']}"),
        "pretraining_way": lambda: PRETRAINING[e.study.pretraining],
        "control_points": lambda: _points(point(e, "l1-unstructured", conv=0.3, c3=0.1, sppf=0.1), control(e)),
        "grid_n_filters_pct": lambda: _grid_n_filters(e),
        "zeros_answer": lambda: _zeros_answer(e),
        "engine_80": lambda: _engine(e)[0.8],
        "engine_90": lambda: _engine(e)[0.9],
        "trained_zeros_pct": lambda: 100 * _trained(e)["sparsity_of_weights"],
        "trained_kept_pct": lambda: _trained(e)["kept_pct"],
        "advice": lambda: _advice(e),
    } | {
        f"recipe_{name}": partial(lambda name: recipe.numbers(e.recipe())[name], name)
        for name in ("candidates", "five_not_larger", "chance_as_many_low_pct", "chance_as_many_high_pct")
    }


def _engine(e: Evidence) -> dict[float, float]:
    """Times as fast as dense PyTorch, by sparsity: the engine on the whole n with evenly spread zeros."""
    rows = uniform_table(e).query("runtime == 'sparse engine' and imgsz_px == @e.study.imgsz")
    rows = rows[rows["model"] == NAMES["n"]]
    return dict(zip(rows["sparsity"], 1 / rows["ratio"], strict=True))


def _trained(e: Evidence) -> pd.Series:
    """n with zeros trained in, at the sparsity of the controls: the row of its table."""
    table = trained_zeros_table(e)
    return table[table["sparsity_of_weights"] == e.control_sparsity()].iloc[0]


def _zeros_answer(e: Evidence) -> str:
    """What zeros bring when something skips them, in words."""
    if not e.trained_zeros:
        return "This study trains no zeros and times no engine that skips them; bccd does."
    faster, trained = _engine(e), _trained(e)
    columns = ("sparsity_of_weights", "kept_pct", "kept_low_pct", "kept_high_pct")
    share, kept, low, high = (trained[name] for name in columns)
    keeps = (
        f"n keeps {kept:.0f} % ({low:.0f} to {high:.0f} %) of the mAP50-95 that the same training gives without zeros"
    )
    if kept != kept:
        keeps = "there is nothing to keep: the same training without zeros has a mAP50-95 of 0"
    return (
        f"An engine that skips zeros runs n {faster[0.8]:.1f} times as fast as PyTorch at 80 % zeros and {faster[0.9]:.1f} times "
        f"at 90 % (with none: {faster[0.0]:.2f} times). With {share:.0%} zeros trained in, {keeps}."
    )


def _advice(e: Evidence) -> str:
    """Which road to take, in words: the most accurate within a quarter of dense n's time in PyTorch, and the fastest ones that
    lose at most two points of its mAP50-95."""
    if not e.trained_zeros:
        return "No roads were measured in this study."
    table = roads_table(e).sort_values("ratio")
    dense = float(table.loc[0, "mAP50_95"])
    within = table[table["ratio"] <= 0.25].nlargest(1, "mAP50_95")
    best = f"Within a quarter of its time the most accurate is {_named(within)}. " if len(within) else ""
    fastest = _named(table[table["mAP50_95"] >= dense - 0.02].head(3))
    return f"Dense n in PyTorch has mAP50-95 {dense:.3f}. {best}The fastest that lose at most two points: {fastest}."


def _named(roads: pd.DataFrame) -> str:
    return "; ".join(
        f"{row.what} ({1 / row.ratio:.1f} times as fast, mAP50-95 {row.mAP50_95:.3f})" for row in roads.itertuples()
    )


def _seed_note(seeds: int) -> str:
    if seeds == 1:
        return (
            "95 % intervals by a bootstrap over the test images; one training seed, so luck of training is not in them"
        )
    return f"means of {seeds} training seeds; 95 % intervals by a bootstrap over seeds and test images"


def _points(x: dict, y: dict) -> str:
    """Points of mAP50 that x has over y, with the interval, in words."""
    value, low, high = difference(x, y)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _grid_n_filters(e: Evidence) -> str:
    """Time that p's depth saves with all of n's filters, in %, with the interval."""
    row = grid_table(e).query("depth_multiple == depth_multiple.min() and width_multiple == 0.25").iloc[0]
    low, high = (100 * (1 - row[name]) for name in ("ratio_high", "ratio_low"))
    return f"{100 * (1 - row['ratio_to_n']):.1f} % ({low:.1f} to {high:.1f} %)"


def _share(e: Evidence, module: str) -> float:
    layers = e.census("own")["p"]
    return 100 * sum(r["parameters"] for r in layers if r["module"] == module) / sum(r["parameters"] for r in layers)


def _kept(e: Evidence, method: str) -> str:
    """Up to which ratio, all modules alike, 90 % of the unpruned mAP50 is kept (mean of random seeds), in words."""
    dense = scores(e, "p-best")["mAP50"]
    table = sweeps_table(e).query("method == @method and modules == 'all'")
    kept = table.groupby("ratio")["mAP50"].mean() >= 0.9 * dense
    below = kept[~kept].index.min()
    passed = [ratio for ratio in kept.index if not ratio >= below]
    return f"up to a ratio of {max(passed):g}" if passed else "at no ratio tried"


class _Lazy(dict):
    """Numbers by name for `str.format_map`, computed when asked for."""

    def __missing__(self, name: str):
        raise KeyError(f"no number is called {name}: reporting.numbers lists them")

    def __getitem__(self, name: str):
        return super().__getitem__(name)()


def sentence(e: Evidence, template: str) -> str:
    """A sentence with its numbers filled in: "{p_mAP50:.3f}" and so on, names as of `numbers`."""
    return template.format_map(_Lazy(numbers(e)))


# --- formats ----------------------------------------------------------------------------------------------------------

DECIMALS = {  # by the end of a column's name, first match wins
    "parameters": 0,
    "_pct": 1,
    "gflops": 3,
    "_ms": 2,
    "_ms_paper": 1,
    "fps": 0,
    "_px": 0,
    "sparsity_of_weights": 2,
    "speed_up": 2,
    "own_dense": 2,
    "_mb": 2,
    "sparsity": 4,
    "sparsity_paper": 4,
    "multiple": 4,
    "max_difference": 7,
    "lr": 6,
    "loss": 4,
    "box": 4,
    "obj": 4,
    "cls": 4,
}
SIGNED = ("_difference", "_gain", "gain_low", "gain_high", "_lost")


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text with the decimals of its columns; empty where there is no value."""

    def text(name: str, value) -> str:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return ""
        if isinstance(value, (float, np.floating)):
            if name in ("ratio", "conv", "c3", "sppf") and "ratio_low" not in table:
                return f"{value:g}"
            decimals = next((d for end, d in DECIMALS.items() if name.endswith(end)), 3)
            return (
                f"{value:+.{decimals}f}"
                if name.endswith(SIGNED) and name != "max_difference"
                else f"{value:.{decimals}f}"
            )
        if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
            return f"{value:,}"
        return str(value)

    return pd.DataFrame({name: [text(name, v) for v in table[name]] for name in table.columns})


def heading(name: str) -> str:
    """A column's name as people read it."""
    return name.replace("mAP50_95", "mAP50-95").replace("_", " ")


# what no cell of a table may begin: a column, HTML, a link or an image, a formula
INERT = str.maketrans({"|": "\\|", "<": "&lt;", "[": "&#91;", "$": "&#36;"})


def to_markdown(table: pd.DataFrame) -> str:
    """GitHub's Markdown; numbers to the right. Cells are plain text: names of classes come from strangers."""
    text = shown(table)
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    head = [heading(name) for name in text]
    lines = [head, ["---:" if right else "---" for right in numeric], *text.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).translate(INERT) for cell in line) + " |" for line in lines) + "\n"


def to_csv(table: pd.DataFrame) -> str:
    """CSV with six significant digits, the same bytes on every machine."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


# --- the report -------------------------------------------------------------------------------------------------------


class Report:
    """What a notebook holds: tables, figures and sentences of one study, shown and, if asked, written to its folder.

    Args:
        study, records, fields: as of `study.open_study`.
        write_report: also write CSV, Markdown and SVG to `reports/<study>/`.
    """

    def __init__(self, study: str = "digits", records: str = "committed", write_report: bool = False, **fields):
        self.evidence = open_study(study, records, **fields)
        self.folder = store.ROOT / "reports" / self.evidence.study.name if write_report else None
        self.frames: dict[str, pd.DataFrame] = {}

    def frame(self, name: str) -> pd.DataFrame:
        """A table as data, built once."""
        if name not in self.frames:
            self.frames[name] = TABLES[name](self.evidence)
        return self.frames[name]

    def table(self, name: str, columns: list[str] | None = None, head: int | None = None):
        """Show a table, or some of its columns and first rows; the whole of it is written."""
        from IPython.display import Markdown

        frame = self.frame(name)
        if frame.empty:
            return Markdown(f"*The table `{name}` is no part of the study {self.evidence.study.name}.*")
        self._write(f"tables/{name}.csv", to_csv(frame))
        self._write(f"tables/{name}.md", to_markdown(frame))
        frame = frame[columns] if columns else frame
        return Markdown(to_markdown(frame.head(head) if head else frame))

    def figure(self, name: str):
        """Show a figure drawn from tables; on disk it is an SVG, or a JPEG where it is made of photographs."""
        from IPython.display import Image, Markdown

        from yolop.report import plots

        if name in plots.OF_ZEROS and not self.evidence.trained_zeros:
            return Markdown(f"*The figure `{name}` is no part of the study {self.evidence.study.name}.*")
        figure = plots.draw(name, self.frame, self.evidence)
        if name in plots.PHOTOGRAPHIC:
            jpeg = plots.to_jpeg(figure)
            self._write(f"figures/{name}.jpg", jpeg)
            return Image(jpeg, format="jpeg")
        self._write(f"figures/{name}.svg", plots.to_svg(figure))
        return Image(plots.to_png(figure), format="png")

    def say(self, *templates: str):
        """Show sentences with their numbers filled in."""
        from IPython.display import Markdown

        return Markdown(sentence(self.evidence, " ".join(templates)))

    def claims(self, *ids: str):
        """Show the verdicts on some of the paper's claims, or on all."""
        from IPython.display import Markdown

        from yolop.paper.claims import verdicts

        frame = pd.DataFrame(verdicts(self.evidence, ids))
        return Markdown(to_markdown(frame[["claim", "estimate", "threshold", "verdict"]]))

    def ledger(self):
        """Show every claim's verdict on this study and on the others that are published."""
        from IPython.display import Markdown

        from yolop.paper.claims import ledger

        return Markdown(to_markdown(ledger(self.evidence)))

    def _write(self, file: str, content: str | bytes) -> None:
        if self.folder:
            write_atomically(self.folder / file, content)


def texts(study: Study, records: str = "committed") -> dict[str, str]:
    """Every table and the claims of a study, recomputed from its records: file name in the report -> content."""
    evidence = Evidence(study, records == "fresh")
    files = {}
    for name, build in TABLES.items():
        table = build(evidence)
        if table.empty:
            continue
        files |= {f"tables/{name}.csv": to_csv(table), f"tables/{name}.md": to_markdown(table)}
    claims = json.loads(claims_table(evidence).to_json(orient="records"))
    files["claims.json"] = json.dumps(claims, indent=1, ensure_ascii=False) + "\n"
    evidence.pictures()  # shown, but in no table
    used = {name: json.loads(record.to_json())["checksum"] for name, record in sorted(evidence.store.used.items())}
    files["manifest.json"] = json.dumps({"study": study.name, "records": used}, indent=1, sort_keys=True) + "\n"
    return files


def write_index(study: Study, folder: Path, records: str) -> None:
    """Write tables, claims.json, manifest.json and the index.html that stands alone, from the records just used."""
    from yolop.report.page import index_html

    for file, text in texts(study, records).items():
        write_atomically(folder / file, text)
    write_atomically(folder / "index.html", index_html(Evidence(study, records == "fresh"), folder))


README_STUDY = "bccd"
README_COLUMNS = [
    "model",
    "mAP50_paper",
    "mAP50",
    "mAP50_low",
    "mAP50_high",
    "mAP50_95_paper",
    "mAP50_95",
    "latency_ms_paper",
    "latency_ms",
    "ratio_to_n",
]
README_SENTENCES = {
    "README.md": """\
On {data_set}: of {claims} claims of the paper {claims_hold} hold, {claims_fail} do not, {claims_open} are
undecided, {claims_not_run} not run. Our p takes {p_less_time_pct:.0f} % less time than n; its mAP50 differs by {p_points}
points. Custom pretraining changes p by {best_points} points; against p trained from scratch for as many steps in all the
difference is {best_over_same_steps_points}.
Without retraining, 90 % of mAP50 is kept {keeps_90_unstructured} for single weights, {keeps_90_global} if they are ranked
globally, and {keeps_90_structured} for whole filters. By type of module, at the same sparsity, the difference is {control_points}
points. {masks_equivalent} of {masks} pruned networks are shown to take the dense one's time within 2 %.
{zeros_answer}
{advice}
({test_images} test images; {seed_note}.)""",
    "README.ko.md": """\
논문의 주장 {claims}개 가운데 {claims_hold}개는 성립하고 {claims_fail}개는 성립하지 않으며,
{claims_open}개는 판단할 수 없고 {claims_not_run}개는 실행하지 않았습니다.
이 연구의 p는 n보다 추론 시간이 {p_less_time_pct:.0f} % 짧고, mAP50의 차이는 {p_points} 포인트입니다.
사용자 사전 학습은 p의 mAP50을 {best_points} 포인트 바꾸지만, 처음부터 같은 총 스텝만큼 학습한 p와 비교하면 차이는
{best_over_same_steps_points} 포인트입니다. 모듈 종류별 비율은 같은 희소도의 단일 비율에 비해 {control_points} 포인트 차이가 납니다.
가지치기한 네트워크 {masks}개 중 {masks_equivalent}개는 원래 네트워크와 추론 시간이 2 % 이내로 같음이 검정으로 확인되었습니다.
즉, PyTorch에서는 0을 채우는 것만으로는 빨라지지 않습니다. 그러나 0을 건너뛰는 이 연구의 엔진에서 n은 PyTorch보다
가중치의 80 %가 0일 때 {engine_80:.1f}배, 90 %일 때 {engine_90:.1f}배 빠르고,
{trained_zeros_pct:.0f} %를 0으로 두고 학습한 n은 mAP50-95의 {trained_kept_pct:.0f} %를 유지합니다.
(테스트 이미지 {test_images}장, 학습 시드 {seeds}개, 괄호 안은 95 % 구간.)""",
}
MARKERS = ("<!-- results: written by `python -m yolop publish`, held by a test -->\n", "<!-- /results -->")


LEDGER_HEAD = """\
# Every claim of the paper, judged on every study

Written by `python -m yolop publish`, held by a test. The tables behind each estimate are named in `<study>/claims.json`.

"""


def front_pages() -> dict[str, str]:
    """README.md and README.ko.md with the results between their markers written anew, and the ledger, from records."""
    from yolop.paper.claims import ledger

    e = Evidence(STUDIES[README_STUDY], False)
    table = to_markdown(figure_2(e)[README_COLUMNS])
    judged = ledger(e).drop(columns=["claim", "where"]).apply(pd.Series.value_counts).fillna(0).astype(int)
    counts = to_markdown(judged.rename_axis("verdict").reset_index())
    pages = {"reports/ledger.md": LEDGER_HEAD + to_markdown(ledger(e, estimates=True))}
    for file, sentences in README_SENTENCES.items():
        text = (store.ROOT / file).read_text(encoding="utf-8")
        begin, end = text.index(MARKERS[0]) + len(MARKERS[0]), text.index(MARKERS[1])
        pages[file] = f"{text[:begin]}\n{table}\n{sentence(e, sentences)}\n\n{counts}\n{text[end:]}"
    return pages
