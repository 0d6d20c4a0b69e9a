"""mAP of a model on a split that stays in memory.

The images of a split are read and letterboxed once; after that, a point of a sweep costs its forward passes, NMS and
matching. Images for which memory has no room are read again each time (`images.Kept`). AP is YOLOv5's (ultralytics'
metrics: area under 101 interpolated points); confidence 0.001, IoU of NMS 0.6, several labels per box, at most 300
detections per image, as the original's val.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from ultralytics.utils.metrics import ap_per_class, box_iou
from ultralytics.utils.ops import xywh2xyxy

from yolop.data import Dataset
from yolop.data.images import Kept, image_size, load_image, placement
from yolop.data.load import dataset_of
from yolop.network import yolov5
from yolop.network.weights import model_of
from yolop.progress import progress
from yolop.specs import EvaluationSpec, TieOrdersSpec
from yolop.store import Record

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DET = 300  # detections per image
CANDIDATES = (400, 2_000, 8_000, 30_000)  # that NMS takes at first, then, ...; the last is the original's limit
RESAMPLES = 200  # of the images of a split, for intervals of mAP and of its differences
WEIGHTS = 4_000_000  # numbers of 8 bytes, detections x bootstrap samples, that are worked on at once
Array = np.ndarray


class Validation:
    """A split in memory, in batches of like shape, as the original's val.py does with `rect`.

    Sorted by their sides' ratio, images share the smallest rectangle of multiples of 32 that holds their batch and at least
    half a stride more: objects at an edge are then seen whole. A square frame instead costs n 5 points of AP50 on bccd's
    densest class (and 0.5 points of mAP50 on coco128).

    With `square` all are letterboxed to imgsz x imgsz, what a runtime with a fixed input sees. `ties`: seed of the order of
    images of equal shape, else as they are listed; it decides which of them share a batch, and so its rectangle.

    Attributes:
        images: N tensors (3, height, width) uint8, letterboxed; read when first asked for.
        targets: N arrays (n, 5): class, then x1, y1, x2, y2 in pixels of the letterboxed image.
        borders: (N, 4) x1, y1, x2, y2 of the photograph inside the letterbox.
        batches: indices of images, list by list.
        groups: (N,) number of the group of images that are drawn together by the bootstrap: each its own, or those that
            were made from one photograph.
    """

    def __init__(self, dataset: Dataset, split: str, imgsz: int, batch: int = 32, square: bool = False, ties: int | None = None):
        paths, labels = dataset.splits[split].images, dataset.splits[split].labels
        sizes = np.array([image_size(path) for path in paths])
        ratios = sizes[:, 1] / sizes[:, 0]  # height over width
        start = np.arange(len(paths)) if ties is None else np.random.default_rng(ties).permutation(len(paths))
        order = start[np.argsort(ratios[start], kind="stable")].tolist()
        self.names, self.batches = dataset.names, [order[i : i + batch] for i in range(0, len(order), batch)]
        shapes, self.targets, self.borders = ([None] * len(paths) for _ in range(3))
        for indices in self.batches:
            shape = (imgsz, imgsz) if square else _rectangle(ratios[indices], imgsz)
            for i in indices:
                _, (ratio, pad_x, pad_y) = placement(sizes[i], imgsz, shape)
                (width, height), boxes = sizes[i] * ratio, labels[i]  # of the photograph inside
                centre, half = boxes[:, 1:3] * (width, height) + (pad_x, pad_y), boxes[:, 3:5] * (width / 2, height / 2)
                shapes[i] = shape
                self.targets[i] = np.concatenate((boxes[:, :1], centre - half, centre + half), 1)
                self.borders[i] = (pad_x, pad_y, pad_x + width, pad_y + height)

        def letterboxed(i: int) -> torch.Tensor:
            return torch.from_numpy(load_image(paths[i], imgsz, shapes[i])[0]).permute(2, 0, 1)

        self.images = Kept(letterboxed, len(paths))
        groups = dataset.splits[split].groups
        self.groups = np.unique(groups, return_inverse=True)[1] if groups else np.arange(len(paths))

    def __len__(self) -> int:
        return len(self.images)


def _rectangle(ratios: np.ndarray, imgsz: int) -> tuple[int, int]:
    """(height, width) of a batch of images with these ratios of height to width."""
    low, high = ratios.min(), ratios.max()
    sides = (high, 1) if high < 1 else (1, 1 / low) if low > 1 else (1, 1)
    return tuple(math.ceil(side * imgsz / 32 + 0.5) * 32 for side in sides)


@torch.inference_mode()
def detect(
    model: nn.Module, images: torch.Tensor, conf: float = 0.25, iou: float = 0.45, multi_label: bool = False
) -> list[torch.Tensor]:
    """Detections (n, 6) per image: x1, y1, x2, y2 in pixels of the input, confidence, class; best first.

    Args:
        model: in evaluation mode; anchor-based predictions (B, boxes, 5 + nc) or ultralytics' (B, 4 + nc, boxes).
        images: (B, 3, H, W) uint8.
        conf, iou: thresholds 0..1; the defaults are those of the original's detect.py.
        multi_label: several classes per box, as in validation.

    Raises:
        ValueError: predictions that are not finite; such a model belongs in no table.
    """
    inputs = (images.float() / 255).to(next(model.parameters()).device, memory_format=torch.channels_last)
    output = model(inputs)
    output = with_confidences(output.float()) if isinstance(output, torch.Tensor) else output[0].float()
    if not output.sum().isfinite():  # else NMS would drop what is NaN, and mAP be 0
        raise ValueError("the model predicts NaN or infinity: its weights are broken, train it again")
    return [_suppress(image, conf, iou, multi_label) for image in output]


def with_confidences(output: torch.Tensor) -> torch.Tensor:
    """Predictions of our head (B, boxes, 5 + nc) as ultralytics' are, (B, 4 + nc, boxes): objectness times class score."""
    boxes, objectness, scores = output.split((4, 1, output.shape[-1] - 5), -1)
    return torch.cat((boxes, objectness * scores), -1).transpose(1, 2)


def _suppress(output: torch.Tensor, conf: float, iou: float, multi_label: bool) -> torch.Tensor:
    """NMS, class by class, of one image's predictions (4 + nc, boxes); at most MAX_DET detections, best first.

    As the original's, on torchvision's NMS. NMS takes boxes by falling confidence, so the best CANDIDATES[0] decide
    whenever they leave MAX_DET boxes standing, and only otherwise more are asked: the same result at a fraction of the
    time where a pruned network sees something everywhere. ultralytics' NMS is not used, because it gives up after a time
    limit and leaves the remaining images without detections.
    """
    from torchvision.ops import batched_nms  # as long to import as PyTorch: processes that only time do without it

    boxes, scores = xywh2xyxy(output[:4].T), output[4:].T
    if multi_label:
        index, classes = (scores > conf).nonzero(as_tuple=True)
    else:
        best, classes = scores.max(1)
        index = (best > conf).nonzero(as_tuple=True)[0]
        classes = classes[index]
    confidences = scores[index, classes]
    order = confidences.argsort(descending=True, stable=True)
    for limit in CANDIDATES:
        chosen = order[:limit]
        kept = batched_nms(boxes[index[chosen]], confidences[chosen], classes[chosen], iou)[:MAX_DET]
        if len(kept) == MAX_DET or len(order) <= limit:
            break
    chosen = chosen[kept]
    return torch.cat((boxes[index[chosen]], confidences[chosen, None], classes[chosen, None].float()), 1)


def evaluate(model: nn.Module, validation: Validation, resamples: int = 0) -> dict:
    """mAP50, mAP50_95, precision, recall (at the best mean F1) and AP per class of a fused model, all 0..1.

    Args:
        model: fused, in evaluation mode.
        resamples: also give `mAP50_resampled` and `mAP50_95_resampled`, mAP on so many bootstrap samples of the images, if
            above 0. The samples are the same for every model on the same split, so that the difference of two models'
            lists is a paired bootstrap of their difference. Then `groups`, too, is how many groups of images are drawn,
            where images share a photograph.

    Raises:
        ValueError: predictions that are not finite; such a model belongs in no table.
    """
    parts = [None] * len(validation)
    # Fewer at once than share a rectangle: maps of eight images stay in the processor's caches, a seventh faster.
    for indices in (some[i : i + 8] for some in validation.batches for i in range(0, len(some), 8)):
        detections = detect(model, torch.stack([validation.images[i] for i in indices]), 0.001, 0.6, multi_label=True)
        for i, boxes in zip(indices, detections, strict=True):
            boxes = boxes.cpu().clone()  # detections are inference tensors, which torch lets nobody change
            x1, y1, x2, y2 = validation.borders[i]
            boxes[:, [0, 2]] = boxes[:, [0, 2]].clamp(x1, x2)
            boxes[:, [1, 3]] = boxes[:, [1, 3]].clamp(y1, y2)
            parts[i] = (match(boxes, validation.targets[i]), boxes[:, 4].numpy(), boxes[:, 5].numpy())
    truth = np.concatenate([t[:, 0] for t in validation.targets])
    hits, confidences, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    scores = summarise(hits, confidences, classes, truth, validation.names)
    if resamples:
        boxes = np.array([len(t) for t in validation.targets])
        image = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        image_of_truth = np.repeat(np.arange(len(parts)), boxes)
        weights = resampled_images(validation.groups, boxes > 0, resamples)
        matched, step = (hits, confidences, classes, truth), max(WEIGHTS // max(len(hits), 1), 1)
        some = (weights[i : i + step] for i in range(0, resamples, step))
        ap = np.concatenate([average_precision(*matched, w[:, image], w[:, image_of_truth]) for w in some], axis=2)
        scores["mAP50_resampled"] = np.nanmean(ap[:, 0], axis=0).round(5).tolist()
        scores["mAP50_95_resampled"] = np.nanmean(ap, axis=(0, 1)).round(5).tolist()
        if (groups := len(set(validation.groups))) < len(parts):
            scores["groups"] = groups
    return scores


def resampled_images(groups: np.ndarray, labelled: np.ndarray, resamples: int) -> np.ndarray:
    """(resamples, N) how often each of N images counts in each bootstrap sample, which draws groups of images.

    Args:
        groups: (N,) number of each image's group, from 0.
        labelled: (N,) whether an image has a labelled box. A sample without any has no mAP, so it is drawn again.
    """
    count, rng = groups.max() + 1, np.random.default_rng(0)
    scored = np.bincount(groups, labelled) > 0
    drawn = rng.integers(0, count, (resamples, count))
    while (empty := ~scored[drawn].any(1)).any():
        drawn[empty] = rng.integers(0, count, (empty.sum(), count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn])[:, groups]


def match(detections: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    """(n, 10) bool: which detections (n, 6), best first, hit a target (m, 5) of their class at IoU 0.50, 0.55, ... 0.95.

    As YOLOv5: each detection goes to the target that it overlaps most; of those that go to one target the most confident
    hits, the others are false.
    """
    hits = np.zeros((len(detections), len(IOU_THRESHOLDS)), bool)
    if not len(detections) or not len(targets):
        return hits
    iou = box_iou(torch.from_numpy(targets[:, 1:]).float(), detections[:, :4]).numpy()
    iou = np.where(targets[:, :1] == detections[:, 5].numpy(), iou, 0)
    nearest, overlap = iou.argmax(0), iou.max(0)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        candidates = np.flatnonzero(overlap >= threshold)
        hits[candidates[np.unique(nearest[candidates], return_index=True)[1]], column] = True
    return hits


def summarise(hits: Array, confidences: Array, classes: Array, truth: Array, names: tuple[str, ...]) -> dict:
    """Metrics from matched detections; classes without a target are left out, no detections give zeros."""
    if not len(truth):
        raise ValueError("the split has no labelled box: mAP is not defined on it")
    once = np.ones((1, len(hits))), np.ones((1, len(truth)))
    ap = average_precision(hits, confidences, classes, truth, *once)[:, :, 0]
    # stable: equal confidences keep their order, so the result does not depend on the sort's implementation
    order = np.argsort(-confidences, kind="stable")
    result = ap_per_class(hits[order], confidences[order], classes[order], truth)
    rows = zip(np.unique(truth), ap, strict=True)
    per_class = [{"name": names[int(c)], "AP50": float(a[0]), "AP50_95": float(a.mean())} for c, a in rows]
    scores = {"mAP50": float(ap[:, 0].mean()), "mAP50_95": float(ap.mean()), "per_class": per_class}
    return scores | {"precision": float(result[2].mean()), "recall": float(result[3].mean())}


def average_precision(hits: Array, confidences: Array, classes: Array, truth: Array, weights: Array, truth_weights: Array) -> Array:
    """AP (classes with a target, thresholds, samples) as the original's: 101 points of the envelope, joined to (1, 0).

    ultralytics' today lets precision fall to 0 right after the last recall reached; the original, as the paper used it,
    draws a straight line from there to recall 1, which is worth a little more.

    Args:
        hits: (n, thresholds) bool; confidences, classes: (n,).
        truth: (m,) class of each target.
        weights, truth_weights: (samples, n) and (samples, m): how often each counts. A bootstrap sample in which an image
            is drawn k times is a weight of k on what belongs to it, so nothing is sorted again. A class without any target
            in a sample has AP NaN there.
    """
    order = np.argsort(-confidences, kind="stable")
    present = np.unique(truth)
    ap = np.zeros((len(present), hits.shape[1], len(weights)))
    for row, c in zip(ap, present, strict=True):
        own = order[classes[order] == c]
        weight, targets = weights[:, own].astype(np.float64), truth_weights[:, truth == c].sum(1)
        seen = weight.cumsum(1)
        for column, hit in zip(row, hits[own].T, strict=True):
            at = np.flatnonzero(hit)  # the envelope is flat between hits, so they tell all of it
            if len(at):
                column[:] = _areas(weight[:, at].cumsum(1), seen[:, at], seen[:, -1], targets)
        row[:, targets == 0] = np.nan
    return ap


def _areas(right: Array, seen: Array, seen_in_all: Array, targets: Array) -> Array:
    """AP of each sample from its hits by falling confidence: right and seen so far (samples, hits)."""
    grid = np.linspace(0, 1, 101)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / targets[:, None], np.where(seen > 0, right / seen, 0)
        last = np.where(seen_in_all > 0, right[:, -1] / seen_in_all, 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    ones = np.ones((len(right), 1))
    x = np.concatenate((0 * ones, recall.repeat(2, axis=1), ones), 1)
    y = np.concatenate((envelope.repeat(2, axis=1), last[:, None], 0 * ones), 1)
    return np.trapezoid(np.array([np.interp(grid, *xy) for xy in zip(x, y, strict=True)]), grid)


def compute_tie_orders(spec: TieOrdersSpec, parents: dict[str, Record], folder: Path) -> dict:
    """A row per drawn order of the images of equal shape: mAP50 and mAP50_95 of the same weights."""
    model, dataset, rows = yolov5.fused(model_of(parents["weights"])), dataset_of(parents["data"]), []
    for seed in progress(spec.seeds, "mAP, orders of images"):
        scores = evaluate(model, Validation(dataset, spec.split, spec.imgsz, ties=seed))
        rows.append({"seed": seed, "mAP50": scores["mAP50"], "mAP50_95": scores["mAP50_95"]})
    return {"rows": rows}


def compute(spec: EvaluationSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Scores of weights as they are on one split."""
    images = Validation(dataset_of(parents["data"]), spec.split, spec.imgsz)
    return evaluate(yolov5.fused(model_of(parents["weights"])), images, RESAMPLES)
