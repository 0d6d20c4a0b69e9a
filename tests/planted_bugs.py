"""Plants bugs one at a time in a copy of the project, and says whether the fast tests notice: `python tests/planted_bugs.py`.

Those that survived the first version, and their like. A bug that no test notices, or whose text is no longer in the code, is
a failure. One argument or more: only bugs whose description holds one of them.
"""

# ruff: noqa: E501 (a table reads better in whole lines)

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
BUGS = [  # what is wrong, file, right text, wrong text, file of tests that should notice, and words of their names
    ("labels of every image are class 0", "train/trainer.py", '"cls": labels[:, :1].copy()', '"cls": 0 * labels[:, :1]', "trainer", "images_and_labels_reach"),
    ("labels shifted by one class", "train/trainer.py", '"cls": labels[:, :1].copy()', '"cls": (labels[:, :1] + 1) % 3', "trainer", "images_and_labels_reach"),
    ("test scored on val", "train/trainer.py", "Validation(dataset, s, spec.imgsz), RESAMPLES",
     'Validation(dataset, "val", spec.imgsz), RESAMPLES', "trainer", "average_of_the_best"),
    ("worst epoch kept", "train/trainer.py", "fitness >= self.best_fitness", "fitness <= self.best_fitness", "trainer", "average_of_the_best"),
    ("last epoch kept", "train/trainer.py", "fitness >= self.best_fitness", "True", "trainer", "average_of_the_best"),
    ("best by mAP50", "train/trainer.py", '0.1 * metrics["mAP50"] + 0.9', '0.9 * metrics["mAP50"] + 0.1', "trainer", "average_of_the_best"),
    ("raw weights kept", "train/trainer.py", "copy.deepcopy(self.ema.ema.state_dict())", "copy.deepcopy(self.model.state_dict())",
     "trainer", "average_of_the_best"),
    ("weights ignore the seed", "train/trainer.py", "torch.manual_seed(spec.seed)", "torch.manual_seed(0)", "trainer", "weights_order_and"),
    ("order and augmentation ignore the seed", "train/trainer.py", '"seed": spec.seed', '"seed": 0', "trainer", "weights_order_and"),
    ("nominal batch ignored", "train/trainer.py", "spec.nominal_batch or spec.batch", "spec.batch", "trainer", "gradients_of_a_nominal or every_field"),
    ("schedule ignored", "train/trainer.py", '"cos_lr": spec.cos_lr', '"cos_lr": False', "trainer", "every_field or learning_rates"),
    ("scale and translate swapped", "train/trainer.py", '"scale": spec.scale', '"scale": spec.translate', "trainer", "every_field"),
    ("gains never reach the loss", "train/trainer.py", "self.model.gains, self.model.bfloat16 = gains(spec),",
     "self.model.gains, self.model.bfloat16 = dict(box=0.05, obj=1.0, cls=0.5),", "trainer", "gains_reach"),
    ("BGR in training", "train/trainer.py", "cv2.IMREAD_COLOR", "cv2.IMREAD_COLOR_RGB", "trainer", "images_and_labels_reach"),
    ("images not resampled", "measure/evaluation.py", "drawn = rng.integers(0, count, (resamples, count))",
     "drawn = np.tile(np.arange(count), (resamples, 1))", "evaluation"),
    ("boxes not resampled with their images", "measure/evaluation.py", "w[:, image_of_truth]",
     "np.ones_like(w[:, image_of_truth])", "evaluation"),
    ("suppression at 0.7", "measure/evaluation.py", "0.001, 0.6, multi_label=True", "0.001, 0.7, multi_label=True", "evaluation"),
    ("confidence from 0.05", "measure/evaluation.py", "0.001, 0.6, multi_label=True", "0.05, 0.6, multi_label=True", "evaluation"),
    ("one class a box", "measure/evaluation.py", "0.6, multi_label=True", "0.6, multi_label=False", "evaluation"),
    ("boxes not cut at the photograph's sides", "measure/evaluation.py", "boxes[:, [0, 2]].clamp(x1, x2)", "boxes[:, [0, 2]]",
     "evaluation"),
    ("boxes not cut above and below", "measure/evaluation.py", "boxes[:, [1, 3]].clamp(y1, y2)", "boxes[:, [1, 3]]", "evaluation"),
    ("samples without labels are kept", "measure/evaluation.py", "while (empty :=", "while False and (empty :=", "evaluation"),
    ("teacher ignored", "train/zeros.py", "parent is not None and spec.distill", "False", "zeros", "listens_to_its"),
    ("weight of the teacher ignored", "train/zeros.py", "loss + self.weight * soft", "loss + soft", "zeros", "teacher_teaches"),
    ("linear schedule of zeros", "train/zeros.py", "(1 - (1 - share) ** 3)", "share", "zeros", "cubic"),
    ("pruned_by ignored", "train/zeros.py", "self.spec.pruned_by * self.epochs", "self.epochs", "zeros", "cubic"),
    ("the largest weights go first", "train/zeros.py", "conv.weight.detach().abs() if magnitude",
     "1 / (1e-9 + conv.weight.detach().abs()) if magnitude", "zeros", "smallest_weights"),
    ("channels removed at random", "network/channels.py", "GroupMagnitudeImportance(p=1)", "RandomImportance()", "zeros", "smallest_l1"),
    ("channels removed by L2", "network/channels.py", "GroupMagnitudeImportance(p=1)", "GroupMagnitudeImportance(p=2)", "zeros", "smallest_l1"),
    ("objectness prior of 80", "network/head.py", "math.log(8 / (640", "math.log(80 / (640", "trainer", "as_many_objects"),
    ("no prior at all", "network/head.py", "        self.bias_init()", "        pass", "trainer", "as_many_objects"),
    ("every seed's sweep prunes the first network", "study/graph.py", 'best = self.training("p-best", seed)\n        if label',
     'best = self.training("p-best", self.study.seeds[0])\n        if label', "graph", "own_network"),
    ("sensitivity on test", "measure/pruning.py", "dataset_of(parents[\"data\"]), spec.split",
     'dataset_of(parents["data"]), "test"', "pruning", "sensitivity"),
    ("int8 calibrated on test", "speed/configurations.py", 'Validation(dataset, "train"', 'Validation(dataset, "test"',
     "configurations", "calibration"),
    ("a slower variant counts as faster", "paper/claims.py", "ratio.high < low for ratio",
     "ratio.low > high or ratio.high < low for ratio", "claims"),
    ("a sweep with holes counts as kept", "report/tables.py", "if kept[kept.index <= ratio].all()", "if kept[ratio]", "tables"),
    ("about is twice as wide", "paper/claims.py", "ABOUT = 2**0.5", "ABOUT = 2.0", "claims"),
    ("luck of training left out", "report/scores.py", "        if k > 1:\n", "        if False:\n", "scores"),
    ("images left out", "report/scores.py", "images = growth * np", "images = 0 * growth * np", "scores"),
    ("a difference of unpaired images", "report/scores.py", "self._values(name) - other._values(name))",
     "self._values(name) - np.roll(other._values(name), 1, -1))", "scores"),
    ("control of times ignored", "report/scores.py", 'return "" if again.low <= 1', 'return "" if True or again.low <= 1',
     "scores"),
    ("Holm without order", "paper/claims.py", "LEVEL / (len(ordered) - rank)", "LEVEL", "claims"),
    ("corpus of another cut of the handwriting", "data/digits.py", "default_rng([CUT, digit])",
     "default_rng([CUT if len(parts[\"train\"]) else 1, digit])", "digits"),
    ("noise of drift ten times as wide", "run/drift.py", "np.std(test[", "10 * np.std(test[", "drift"),
]  # fmt: skip


def notices(bug: tuple, root: Path) -> str:
    """The first test that fails with a bug in the copy `root`; "" if none does."""
    _, file, right, wrong, tests, *words = bug
    path = root / "yolop" / file
    text = path.read_text(encoding="utf-8")
    if right not in text:
        return ""
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/test_{tests}.py"]
        command += ["-k", *words] if words else []
        done = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if done.returncode == 1 and failed else ""
    finally:
        path.write_text(text, encoding="utf-8")


def main(words: list[str]) -> int:
    """Print a line for each bug; the number of those that no test notices."""
    chosen = [bug for bug in BUGS if not words or any(word in bug[0] for word in words)]
    with TemporaryDirectory() as place:
        root = Path(place) / "main"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "downloads"))
        (Path(place) / "shared").symlink_to(ROOT.parent / "shared")
        survived = 0
        for bug in chosen:
            test = notices(bug, root)
            survived += not test
            print(f"{bug[0]}: {test or 'NO TEST NOTICES'}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} planted bugs are noticed")
    return survived


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
