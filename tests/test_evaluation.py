"""mAP against an independent COCO implementation, matching against a literal loop, resampling, and odd inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from yolop.data.folder import Dataset, Split
from yolop.measure import evaluation, pictures
from yolop.network import weights, yolov5
from yolop.specs import MODELS, EvaluationSpec, PicturesSpec, PruneSpec, Variant
from yolop.store import get_or_run


def random_case(seed: int, images: int = 12, classes: int = 3, ties: bool = False):
    """Targets and, per image, two jittered detections of each, of right and wrong class, and unsure noise."""
    rng = np.random.default_rng(seed)
    targets, found = [], []
    for _ in range(images):
        n = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 70, (n, 2)), rng.uniform(10, 40, (n, 2))
        labels = rng.integers(0, classes, (n, 1))
        targets.append(np.hstack([labels, corner, corner + side]))
        jittered = np.tile(np.hstack([corner, corner + side]), (2, 1)) + rng.normal(0, 3, (2 * n, 4))
        noise = rng.uniform(0, 70, (20, 2))
        boxes = np.vstack([jittered, np.hstack([noise, noise + 20])])
        confidence = np.concatenate([rng.uniform(0.01, 1, 2 * n), rng.uniform(0.001, 0.05, 20)])
        confidence = confidence.round(1) if ties else confidence
        right = np.where(rng.random(2 * n) < 0.8, np.tile(labels[:, 0], 2), 0)
        kinds = np.concatenate([right, rng.integers(0, classes, 20)])
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
        {"image_id": i, "category_id": int(t[0]), "bbox": xywh(t[1:]), "area": float(np.prod(t[3:] - t[1:3])), "iscrowd": 0}
        for i, per_image in enumerate(targets)
        for t in per_image
    ]  # fmt: skip
    truth = COCO()
    images, categories = ([{"id": i} for i in range(count)] for count in (len(targets), 3))
    annotations = [a | {"id": n + 1} for n, a in enumerate(annotations)]
    truth.dataset = {"images": images, "categories": categories, "annotations": annotations, "info": {}}
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
    # YOLOv5 interpolates the curve differently, joins its end to recall 1, and does not let a second detection of a target
    # go to another one: 0.03 on small sets, no more
    assert ours["mAP50"] == pytest.approx(theirs[0], abs=0.03)
    assert ours["mAP50_95"] == pytest.approx(theirs[1], abs=0.03)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25)
def test_every_detection_and_every_target_counts_once(seed, ties):
    targets, found = random_case(seed, images=3, ties=ties)
    for boxes, detections in zip(targets, found, strict=True):
        hits = evaluation.match(detections, boxes)
        assert hits.shape == (len(detections), 10)
        assert (np.diff(hits.sum(0)) <= 0).all()  # a stricter threshold cannot give more hits
        for column in range(10):
            assert hits[:, column].sum() <= len(boxes)
            for c in range(3):
                right = hits[:, column] & (detections[:, 5].numpy() == c)
                assert right.sum() <= (boxes[:, 0] == c).sum()


def test_matching_by_hand():
    targets = np.array([[0, 0, 0, 10, 10], [1, 20, 20, 30, 30]], float)
    exact, second = [0, 0, 10, 10, 0.9, 0], [0, 0, 10, 8, 0.8, 0]
    partly, wrong = [20, 20, 30, 26, 0.7, 1], [20, 20, 30, 30, 0.6, 0]  # of IoU 0.6: three thresholds; of another class
    found = torch.tensor([exact, second, partly, wrong])
    assert evaluation.match(found, targets).sum(1).tolist() == [10, 0, 3, 0]


def test_perfect_none_and_empty():
    targets, _ = random_case(1)
    perfect = [torch.from_numpy(np.hstack([t[:, 1:], np.ones((len(t), 1)), t[:, :1]])).float() for t in targets]
    assert scores(targets, perfect)["mAP50_95"] == pytest.approx(0.995, abs=0.006)  # the curve's last point is 0
    nothing = [torch.zeros(0, 6) for _ in targets]
    assert scores(targets, nothing)["mAP50"] == 0
    with pytest.raises(ValueError, match="no labelled box"):
        scores([np.zeros((0, 5))], [torch.zeros(0, 6)])


def test_of_two_on_one_target_the_more_confident_hits():
    targets = np.array([[0, 0, 0, 10, 10]], float)
    found = torch.tensor([[0, 0, 10, 7.2, 0.9, 0], [0, 0, 10, 9.2, 0.2, 0]])  # IoU 0.72 and 0.92
    assert evaluation.match(found, targets).T.tolist() == [[True, False]] * 5 + [[False, True]] * 4 + [[False, False]]


def test_matching_is_the_originals():
    from ultralytics.utils.metrics import box_iou

    rng = np.random.default_rng(0)
    for _ in range(30):
        corners = rng.uniform(0, 60, (12, 2))
        boxes = np.hstack([corners, corners + rng.uniform(10, 40, (12, 2))])
        targets = np.hstack([rng.integers(0, 2, (12, 1)), boxes])
        near = np.repeat(boxes, 5, axis=0) + rng.normal(0, 3, (60, 4))  # crowded: several on each target
        found = np.hstack([near, np.sort(rng.random((60, 1)), axis=0)[::-1], rng.integers(0, 2, (60, 1))])
        iou = box_iou(torch.from_numpy(boxes).float(), torch.from_numpy(found[:, :4]).float()).numpy()
        literal = np.zeros((60, 10), bool)
        for column, threshold in enumerate(evaluation.IOU_THRESHOLDS):
            pairs = [(t, d) for t in range(12) for d in range(60) if targets[t, 0] == found[d, 5]]
            pairs = sorted((p for p in pairs if iou[p] >= threshold), key=lambda p: -iou[p])
            best = {d: t for t, d in reversed(pairs)}  # each detection with the target it overlaps most
            for target in set(best.values()):
                literal[min(d for d, t in best.items() if t == target), column] = True
        ours = evaluation.match(torch.from_numpy(found).float(), targets)
        assert (ours == literal).all() and 5 < ours[:, 0].sum() <= 12


def original_ap(hits: np.ndarray, targets: int) -> float:
    """AP of one class from hits by falling confidence, as the formula of YOLOv5's compute_ap says."""
    right, seen = hits.cumsum(), np.arange(1, len(hits) + 1)
    recall, precision = np.r_[0, right / targets, 1], np.r_[1, right / seen, 0]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    grid = np.linspace(0, 1, 101)
    return float(np.trapezoid(np.interp(grid, recall, envelope), grid))


def test_average_precision_is_the_originals_also_on_resampled_images():
    rng = np.random.default_rng(1)
    for _ in range(300):
        n, images = rng.integers(1, 40), 5
        hits, confidences = rng.random(n) < rng.random(), rng.random(n)
        targets = int(hits.sum() + rng.integers(1, 5))
        image, image_of_truth = rng.integers(0, images, n), rng.integers(0, images, targets)
        times = rng.integers(0, 3, images)
        weight, truth_weight = times[image], times[image_of_truth]
        found = evaluation.average_precision(
            hits[:, None], confidences, np.zeros(n), np.zeros(targets), weight[None], truth_weight[None]
        )[0, 0, 0]
        if not truth_weight.sum():
            assert np.isnan(found)
            continue
        drawn = np.repeat(np.argsort(-confidences), weight[np.argsort(-confidences)])
        expected = original_ap(hits[drawn], truth_weight.sum()) if len(drawn) else 0.0
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_original_gives_more_than_ultralytics_for_the_recall_never_reached():
    from ultralytics.utils.metrics import compute_ap

    hits = np.array([1, 1, 0, 1, 0, 0])
    recall, precision = hits.cumsum() / 5, hits.cumsum() / np.arange(1, 7)
    assert compute_ap(recall, precision)[0] < original_ap(hits, 5) < compute_ap(recall, precision)[0] + 0.2


def test_resamples_are_the_same_images_for_every_model(data):
    validation = evaluation.Validation(data, "val", 96)
    torch.manual_seed(0)
    model = yolov5.fused(yolov5.build(MODELS["p"], data.nc))
    one, two = (evaluation.evaluate(model, validation, resamples=50) for _ in range(2))
    assert one == two and len(one["mAP50_resampled"]) == len(one["mAP50_95_resampled"]) == 50


def test_weights_are_evaluated_on_the_split_and_size_of_the_spec(made, parents, data):
    spec = EvaluationSpec(parents["weights"].run_id, data.digest, 96, "test")
    record = get_or_run(made, spec, parents)
    model = yolov5.fused(weights.model_of(parents["weights"]))
    at_96, at_64 = (evaluation.evaluate(model, evaluation.Validation(data, "test", size), 200) for size in (96, 64))
    assert record.metrics == at_96 != at_64 == parents["weights"].metrics["test"]


def test_pictures_hold_the_boxes_that_each_variant_detects(made, parents, data, monkeypatch):
    monkeypatch.setattr(pictures, "detect", lambda *given: evaluation.detect(*given, conf=1e-4))  # it has hardly learnt
    run = parents["weights"].run_id
    variants = (Variant(MODELS["p"], run), Variant(MODELS["p"], run, PruneSpec(conv=1.0)), Variant(MODELS["n"]))
    spec = PicturesSpec(variants, data.digest, 64, images=2)
    found = pictures.compute(spec, parents | {run: parents["weights"]}, made)
    assert found["names"] == list(data.names) and len(found["pictures"]) == 2
    assert all(picture["jpeg"].startswith("/9j/") and len(picture["truth"]) >= 2 for picture in found["pictures"])
    assert [shown["label"] for shown in found["detections"]] == [variant.text for variant in variants]
    trained, pruned, other = (shown["boxes"] for shown in found["detections"])
    assert len(trained) == 2 and trained[0] and trained != pruned != other != trained


@pytest.mark.parametrize("raised", [-2.0, 2.0, 6.0])
def test_suppression_in_steps_equals_all_at_once(raised):
    from ultralytics.utils.nms import non_max_suppression

    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(4, 4000, generator=generator) * torch.tensor([[60.0], [60], [90], [90]]) + 20  # crowded
    output = torch.cat((boxes, (torch.randn(3, 4000, generator=generator) * 2 + raised - 4).sigmoid()))
    stepwise = evaluation._suppress(output, 0.001, 0.6, True)
    (at_once,) = non_max_suppression(output[None], 0.001, 0.6, multi_label=True, max_det=300, max_time_img=1e9)
    torch.testing.assert_close(stepwise, at_once)


def test_broken_weights_are_refused(data):
    model = yolov5.fused(yolov5.build(MODELS["p"], data.nc))
    with torch.no_grad():
        model.model[-1].m[0].bias += 9.0
        model.model[-1].m[0].bias.view(3, -1)[:, :2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        evaluation.evaluate(model, evaluation.Validation(data, "val", 96))


def test_boxes_survive_the_letterbox(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((61, 200, 3), 200, np.uint8)).save(tmp_path / "a.png")  # odd padding when letterboxed
    label = np.array([[0, 0.5, 0.5, 1.0, 1.0]], np.float32)  # the whole photograph
    split = Split((tmp_path / "a.png",), (label,))
    validation = evaluation.Validation(Dataset("x", tmp_path, ("a",), {"val": split}, "d", ()), "val", 128)
    x1, y1, x2, y2 = validation.targets[0][0, 1:]
    assert validation.images[0].shape == (3, 64, 160)  # 39 x 128 px and half a stride more, in strides
    inside = (validation.images[0] != 114).any(0).numpy()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (x1, x2) == (columns[0], columns[-1] + 1)
    assert abs(y1 - rows[0]) < 0.5 and abs(y2 - (rows[-1] + 1)) < 0.5


def test_rectangles_are_the_originals():
    for ratios, imgsz, expected in (
        ([0.75, 0.75], 640, (512, 672)),
        ([0.5, 0.75], 320, (256, 352)),  # the tallest of a batch decides
        ([1.5, 2.0], 640, (672, 448)),
        ([0.75, 1.5], 640, (672, 672)),
        ([1.0], 128, (160, 160)),
    ):
        assert evaluation._rectangle(np.array(ratios), imgsz) == expected


# --- whole evaluations of a network that sees what it is told ----------------------------------------------------------


class Told(torch.nn.Module):
    """A network whose predictions, rows of (x1, y1, x2, y2, objectness, class scores ...), are the same on every image."""

    def __init__(self, *rows):
        super().__init__()
        corners = torch.tensor(rows, dtype=torch.float32)
        centres, sizes = (corners[:, :2] + corners[:, 2:4]) / 2, corners[:, 2:4] - corners[:, :2]
        self.rows = torch.nn.Parameter(torch.cat((centres, sizes, corners[:, 4:]), 1))

    def forward(self, images):
        return self.rows.expand(len(images), -1, -1)


def photographs(folder, *labels, groups=()) -> evaluation.Validation:
    """Images of 96 x 64 px with 16 px of padding on all sides; labels of (class, left, top, right, bottom) count the padding."""
    paths, boxes = [], []
    for i, rows in enumerate(labels):
        paths.append(folder / f"{i}.png")
        Image.new("RGB", (96, 64)).save(paths[-1])
        rows = np.array(rows, float).reshape(-1, 5) - [0, 16, 16, 16, 16]
        sides = np.array([96, 64])
        boxes.append(np.hstack([rows[:, :1], (rows[:, 1:3] + rows[:, 3:]) / 2 / sides, (rows[:, 3:] - rows[:, 1:3]) / sides]))
    split = Split(tuple(paths), tuple(boxes), groups)
    return evaluation.Validation(Dataset("told", folder, ("cat", "dog"), {"test": split}, "", ()), "test", 96)


HERE_IS_ONE = (32, 40, 64, 72)  # a box in px of the letterbox


@pytest.mark.parametrize(("labels", "rows", "expected"), [
    # of two boxes that share 0.67, suppression at 0.6 leaves the more confident: right at thresholds 0.5 to 0.65
    ([(0, *HERE_IS_ONE)], [(32, 40, 64, 72, 1, 0.8, 0), (32, 40, 64, 61.44, 1, 0.9, 0)], (1, 0.4)),
    # of two that share 0.5 both stay, and the right one counts after a false one
    ([(0, *HERE_IS_ONE)], [(32, 40, 64, 72, 1, 0.8, 0), (32, 56, 64, 88, 1, 0.9, 0)], (0.5, 0.5)),
    # a confidence of 0.004 counts, one of 0.0004 does not
    ([(0, *HERE_IS_ONE)], [(*HERE_IS_ONE, 1, 0.004, 0)], (1, 1)),
    ([(0, *HERE_IS_ONE)], [(*HERE_IS_ONE, 1, 0.0004, 0)], (0, 0)),
    # one box may be of several classes
    ([(0, *HERE_IS_ONE), (1, *HERE_IS_ONE)], [(*HERE_IS_ONE, 1, 0.9, 0.8)], (1, 1)),
    # what reaches over the edge of the photograph is cut off there
    ([(0, 16, 40, 32, 72)], [(-64, 40, 32, 72, 1, 0.9, 0)], (1, 1)),
    ([(0, 32, 16, 64, 48)], [(32, -32, 64, 48, 1, 0.9, 0)], (1, 1)),
])  # fmt: skip
def test_what_counts_as_seen(tmp_path, labels, rows, expected):
    found = evaluation.evaluate(Told(*rows), photographs(tmp_path, labels))
    assert (found["mAP50"], found["mAP50_95"]) == pytest.approx(expected, abs=0.01)


def test_a_resample_draws_images_with_their_boxes(tmp_path):
    """One image's only box is seen, another's three are not: a sample with the first twice has mAP 1, with the other twice 0."""
    missed = [(0, 0, 20, 8, 28), (0, 10, 20, 18, 28), (0, 20, 20, 28, 28)]
    labels, seen = [[(0, *HERE_IS_ONE)], missed], (*HERE_IS_ONE, 1, 0.9, 0)
    found = evaluation.evaluate(Told(seen), photographs(tmp_path, *labels), resamples=200)
    values, counts = np.unique(found["mAP50_resampled"], return_counts=True)
    assert values[0] == 0 and values[-1] == pytest.approx(1, abs=0.01) and len(values) == 3 and counts.min() > 30
    assert "groups" not in found


def test_images_of_one_photograph_are_drawn_together():
    groups, labelled = np.array([0, 0, 1, 1, 1, 2]), np.array([True, True, True, False, True, False])
    weights = evaluation.resampled_images(groups, labelled, 500)
    assert weights.shape == (500, 6)
    for members in (slice(0, 2), slice(2, 5)):
        assert (weights[:, members] == weights[:, members][:, :1]).all()
    assert set(np.unique(weights[:, 0])) == {0, 1, 2, 3}
    assert (weights[:, labelled].sum(1) > 0).all(), "a sample without a labelled box has no mAP"


def test_a_split_of_backgrounds_but_for_one_image_has_scores_in_every_sample(tmp_path):
    labels = [[(0, *HERE_IS_ONE)], *[[]] * 8]
    found = evaluation.evaluate(Told((*HERE_IS_ONE, 1, 0.9, 0)), photographs(tmp_path, *labels), resamples=100)
    assert np.isfinite(found["mAP50_resampled"]).all()


def test_groups_of_a_data_set_reach_the_scores(tmp_path):
    labels = [[(0, *HERE_IS_ONE)]] * 4
    found = evaluation.evaluate(
        Told((*HERE_IS_ONE, 1, 0.9, 0)), photographs(tmp_path, *labels, groups=("a", "b", "a", "b")), resamples=50
    )
    assert found["groups"] == 2


def test_images_of_equal_shape_come_in_a_drawn_order_where_one_is_asked_for(tmp_path):
    dataset = photographs(tmp_path, *[[]] * 8)
    split = Split(tuple(tmp_path / f"{i}.png" for i in range(8)), (np.zeros((0, 5)),) * 8)
    whole = Dataset("told", tmp_path, ("cat", "dog"), {"test": split}, "", ())
    orders = [evaluation.Validation(whole, "test", 96, batch=3, ties=ties).batches for ties in (None, 0, 0, 1)]
    assert orders[0] == [[0, 1, 2], [3, 4, 5], [6, 7]] and dataset.batches == [list(range(8))]
    assert orders[1] == orders[2] != orders[0] != orders[3] != orders[1]
