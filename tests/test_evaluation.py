"""mAP against an independent COCO implementation, matching against a literal loop, resampling, and odd inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolop import evaluation


def random_case(seed: int, images: int = 12, classes: int = 3, ties: bool = False):
    """Targets and detections per image: jittered targets of right and wrong class, and noise."""
    rng = np.random.default_rng(seed)
    targets, found = [], []
    for _ in range(images):
        n = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 70, (n, 2)), rng.uniform(10, 40, (n, 2))
        labels = rng.integers(0, classes, (n, 1))
        targets.append(np.hstack([labels, corner, corner + side]))
        jittered = np.hstack([corner, corner + side]) + rng.normal(0, 4, (n, 4))
        noise = rng.uniform(0, 70, (4, 2))
        boxes = np.vstack([jittered, np.hstack([noise, noise + 20])])
        confidence = rng.uniform(0.01, 1, len(boxes))
        confidence = confidence.round(1) if ties else confidence
        kinds = np.concatenate([np.where(rng.random(n) < 0.8, labels[:, 0], 0), rng.integers(0, classes, 4)])
        rows = np.column_stack([boxes, confidence, kinds])
        found.append(torch.from_numpy(rows[np.argsort(-confidence, kind="stable")]).float())
    return targets, found


def scores(targets, found, classes: int = 3) -> dict:
    hits = np.concatenate([evaluation.match(d, t) for d, t in zip(found, targets, strict=True)])
    rows = torch.cat(found).numpy()
    names = tuple(f"class {i}" for i in range(classes))
    return evaluation.summarise(hits, rows[:, 4], rows[:, 5], np.concatenate([t[:, 0] for t in targets]), names)


def coco_scores(targets, found) -> tuple[float, float]:
    """(mAP50, mAP50-95) of pycocotools on the same boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    annotations = [
        {
            "image_id": i,
            "category_id": int(t[0]),
            "bbox": xywh(t[1:]),
            "area": float(np.prod(t[3:] - t[1:3])),
            "iscrowd": 0,
        }
        for i, per_image in enumerate(targets)
        for t in per_image
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(len(targets))],
        "categories": [{"id": c} for c in range(3)],
        "annotations": [a | {"id": n + 1} for n, a in enumerate(annotations)],
        "info": {},
    }
    truth.createIndex()
    detections = [
        {"image_id": i, "category_id": int(d[5]), "bbox": xywh(d), "score": float(d[4])}
        for i, per_image in enumerate(found)
        for d in per_image
    ]
    judge = COCOeval(truth, truth.loadRes(detections), "bbox")
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 2]
    precision = precision[:, :, [c for c in range(3) if (precision[:, :, c] > -1).any()]]
    return float(precision[0].mean()), float(precision.mean())


@pytest.mark.parametrize("seed", range(6))
def test_map_agrees_with_an_independent_implementation(seed):
    targets, found = random_case(seed, images=30)
    ours, theirs = scores(targets, found), coco_scores(targets, found)
    # the two interpolate the precision curve differently (area against the mean of 101 points) and match differently
    # where one detection could take two targets: 0.02 on small sets, no more
    assert ours["mAP50"] == pytest.approx(theirs[0], abs=0.02)
    assert ours["mAP50_95"] == pytest.approx(theirs[1], abs=0.02)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25)
def test_every_detection_and_every_target_counts_once(seed, ties):
    targets, found = random_case(seed, images=3, ties=ties)
    for boxes, detections in zip(targets, found, strict=True):
        hits = evaluation.match(detections, boxes)
        assert hits.shape == (len(detections), 10)
        assert (np.diff(hits.astype(int), axis=1) <= 0).sum() >= 0
        for column in range(10):
            assert hits[:, column].sum() <= len(boxes)
            for c in range(3):
                right = hits[:, column] & (detections[:, 5].numpy() == c)
                assert right.sum() <= (boxes[:, 0] == c).sum()


def test_matching_by_hand():
    targets = np.array([[0, 0, 0, 10, 10], [1, 20, 20, 30, 30]], float)
    found = torch.tensor(
        [
            [0, 0, 10, 10, 0.9, 0],  # exact: all ten thresholds
            [0, 0, 10, 8, 0.8, 0],  # second for a taken target: none
            [20, 20, 30, 26, 0.7, 1],  # IoU 0.6: 0.50, 0.55, 0.60
            [20, 20, 30, 30, 0.6, 0],  # wrong class: none
        ]
    )
    assert evaluation.match(found, targets).sum(1).tolist() == [10, 0, 3, 0]


def test_perfect_none_and_empty():
    targets, _ = random_case(1)
    perfect = [torch.from_numpy(np.hstack([t[:, 1:], np.ones((len(t), 1)), t[:, :1]])).float() for t in targets]
    assert scores(targets, perfect)["mAP50_95"] == pytest.approx(0.995, abs=0.006)  # the curve's last point is 0
    nothing = [torch.zeros(0, 6) for _ in targets]
    assert scores(targets, nothing)["mAP50"] == 0
    with pytest.raises(ValueError, match="no labelled box"):
        scores([np.zeros((0, 5))], [torch.zeros(0, 6)])


def test_resampling_centres_on_the_estimate_and_is_paired():
    targets, found = random_case(3, images=40)
    hits = np.concatenate([evaluation.match(d, t) for d, t in zip(found, targets, strict=True)])[:, 0]
    rows, truth = torch.cat(found).numpy(), np.concatenate([t[:, 0] for t in targets])
    image = np.repeat(np.arange(40), [len(d) for d in found])
    image_of_truth = np.repeat(np.arange(40), [len(t) for t in targets])
    drawn = evaluation.resampled_mAP50(hits, rows[:, 4], rows[:, 5], image, truth, image_of_truth, 300)
    assert np.mean(drawn) == pytest.approx(scores(targets, found)["mAP50"], abs=0.03)
    assert 0.005 < np.std(drawn) < 0.2
    again = evaluation.resampled_mAP50(hits, rows[:, 4], rows[:, 5], image, truth, image_of_truth, 300)
    assert again == drawn  # the same images are drawn for whoever asks


def test_resampling_equals_drawing_images_literally():
    targets, found = random_case(5, images=8)
    hits = [evaluation.match(d, t)[:, :1] for d, t in zip(found, targets, strict=True)]
    rows, truth = torch.cat(found).numpy(), np.concatenate([t[:, 0] for t in targets])
    image = np.repeat(np.arange(8), [len(d) for d in found])
    image_of_truth = np.repeat(np.arange(8), [len(t) for t in targets])
    fast = evaluation.resampled_mAP50(
        np.concatenate(hits)[:, 0], rows[:, 4], rows[:, 5], image, truth, image_of_truth, 5
    )
    drawn = np.random.default_rng(0).integers(0, 8, (5, 8))
    for value, chosen in zip(fast, drawn, strict=True):
        parts = torch.cat([found[i] for i in chosen]).numpy()
        kinds = np.concatenate([targets[i][:, 0] for i in chosen])
        slow = evaluation.summarise(
            np.concatenate([hits[i] for i in chosen]), parts[:, 4], parts[:, 5], kinds, ("a", "b", "c")
        )
        missing = set(truth) - set(kinds)
        if not missing:  # a class without targets is left out by one and counts as 0 in the other
            assert value == pytest.approx(slow["mAP50"], abs=2e-3)


@pytest.mark.parametrize("raised", [-2.0, 2.0, 6.0])
def test_suppression_in_steps_equals_all_at_once(raised):
    from ultralytics.utils.nms import non_max_suppression

    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(4, 4000, generator=generator) * torch.tensor([[60.0], [60], [90], [90]]) + 20  # crowded
    output = torch.cat((boxes, (torch.randn(3, 4000, generator=generator) * 2 + raised - 4).sigmoid()))
    stepwise = evaluation._suppress(output, 0.001, 0.6, True)
    (at_once,) = non_max_suppression(output[None], 0.001, 0.6, multi_label=True, max_det=300, max_time_img=1e9)
    torch.testing.assert_close(stepwise, at_once)


def test_broken_weights_are_refused(tmp_path):
    from yolop import datasets, models
    from yolop.specs import MODELS, DigitsSpec

    data = datasets.generate(DigitsSpec(train=2, val=2, test=2, imgsz=96), tmp_path / "digits")
    model = models.fused(models.build(MODELS["p"], data.nc))
    with torch.no_grad():
        model.model[-1].m[0].bias += 9.0
        model.model[-1].m[0].bias.view(3, -1)[:, :2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        evaluation.evaluate(model, evaluation.Validation(data, "val", 96))


def test_boxes_survive_the_letterbox(tmp_path):
    from PIL import Image

    from yolop.datasets import Dataset, Split

    Image.fromarray(np.full((61, 200, 3), 200, np.uint8)).save(tmp_path / "a.png")  # odd padding when letterboxed
    label = np.array([[0, 0.5, 0.5, 1.0, 1.0]], np.float32)  # the whole photograph
    split = Split((tmp_path / "a.png",), (label,))
    validation = evaluation.Validation(Dataset("x", tmp_path, ("a",), {"val": split}, "d", ()), "val", 128)
    x1, y1, x2, y2 = validation.targets[0][0, 1:]
    inside = (validation.images[0] != 114).any(0).numpy()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (x1, x2) == (columns[0], columns[-1] + 1)
    assert abs(y1 - rows[0]) < 0.5 and abs(y2 - (rows[-1] + 1)) < 0.5
