"""mAP of a model on a split that stays in memory.

The images of a split are read and letterboxed once; after that, a point of a sweep costs its forward passes, NMS and
matching. AP is YOLOv5's (ultralytics' metrics: area under 101 interpolated points); confidence 0.001, IoU of NMS 0.6, several
labels per box, at most 300 detections per image, as the original's val.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torchvision.ops import batched_nms
from ultralytics.utils.metrics import ap_per_class, box_iou
from ultralytics.utils.ops import xywh2xyxy

from yolop.datasets import Dataset, image_size, load_image

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DET = 300  # detections per image


class Validation:
    """A split in memory.

    Attributes:
        images: (N, 3, imgsz, imgsz) uint8, letterboxed.
        targets: N arrays (n, 5): class, then x1, y1, x2, y2 in pixels of the letterboxed image.
        borders: (N, 4) x1, y1, x2, y2 of the photograph inside the letterbox.
    """

    def __init__(self, dataset: Dataset, split: str, imgsz: int):
        self.names, images, self.targets, borders = dataset.names, [], [], []
        for path, labels in zip(dataset.splits[split].images, dataset.splits[split].labels, strict=True):
            image, (ratio, pad_x, pad_y) = load_image(path, imgsz)
            width, height = (side * ratio for side in image_size(path))  # of the photograph inside
            centre, half = labels[:, 1:3] * (width, height) + (pad_x, pad_y), labels[:, 3:5] * (width / 2, height / 2)
            images.append(torch.from_numpy(image).permute(2, 0, 1))
            self.targets.append(np.concatenate((labels[:, :1], centre - half, centre + half), 1))
            borders.append((pad_x, pad_y, pad_x + width, pad_y + height))
        self.images, self.borders = torch.stack(images), torch.tensor(borders, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.images)


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
    """
    inputs = (images.float() / 255).to(next(model.parameters()).device, memory_format=torch.channels_last)
    output = model(inputs)
    if isinstance(output, torch.Tensor):  # our head: confidence is objectness times class score
        boxes, objectness, scores = output.float().split((4, 1, output.shape[-1] - 5), -1)
        output = torch.cat((boxes, objectness * scores), -1).transpose(1, 2)
    else:
        output = output[0].float()
    return [_suppress(image, conf, iou, multi_label) for image in output]


def _suppress(output: torch.Tensor, conf: float, iou: float, multi_label: bool) -> torch.Tensor:
    """NMS, class by class, of one image's predictions (4 + nc, boxes); at most MAX_DET detections, best first.

    As the original's, on torchvision's NMS. NMS takes boxes by falling confidence, so the best 1,000 candidates decide
    whenever they leave MAX_DET boxes standing, and only otherwise more are asked (the original stops at 30,000, too): the
    same result at a fraction of the time where a pruned network sees something everywhere. ultralytics' NMS is not used,
    because it gives up after a time limit and leaves the remaining images without detections.
    """
    boxes, scores = xywh2xyxy(output[:4].T), output[4:].T
    if multi_label:
        index, classes = (scores > conf).nonzero(as_tuple=True)
    else:
        best, classes = scores.max(1)
        index = (best > conf).nonzero(as_tuple=True)[0]
        classes = classes[index]
    confidences = scores[index, classes]
    order = confidences.argsort(descending=True, stable=True)
    for limit in (1_000, 5_000, 30_000):
        chosen = order[:limit]
        kept = batched_nms(boxes[index[chosen]], confidences[chosen], classes[chosen], iou)[:MAX_DET]
        if len(kept) == MAX_DET or len(order) <= limit:
            break
    chosen = chosen[kept]
    return torch.cat((boxes[index[chosen]], confidences[chosen, None], classes[chosen, None].float()), 1)


def evaluate(model: nn.Module, validation: Validation, resamples: int = 0, batch: int = 32) -> dict:
    """mAP50, mAP50_95, precision, recall (at the best mean F1) and AP per class of a fused model, all 0..1.

    Args:
        model: fused, in evaluation mode.
        resamples: also give `mAP50_resampled`, as of `resampled_mAP50`, if above 0.
        batch: images per forward pass.

    Raises:
        ValueError: predictions that are not finite; such a model belongs in no table.
    """
    hits, confidences, classes = [], [], []
    for start in range(0, len(validation), batch):
        part = slice(start, start + batch)
        detections = detect(model, validation.images[part], 0.001, 0.6, multi_label=True)
        rows = zip(detections, validation.targets[part], validation.borders[part], strict=True)
        for found, targets, (x1, y1, x2, y2) in rows:
            if not found.isfinite().all():
                raise ValueError("the model predicts NaN or infinity: its weights are broken, train it again")
            found = found.cpu().clone()  # detections are inference tensors, which torch lets nobody change
            found[:, [0, 2]] = found[:, [0, 2]].clamp(x1, x2)
            found[:, [1, 3]] = found[:, [1, 3]].clamp(y1, y2)
            hits.append(match(found, targets))
            confidences.append(found[:, 4].numpy())
            classes.append(found[:, 5].numpy())
    truth = np.concatenate([t[:, 0] for t in validation.targets])
    found = [np.concatenate(parts) for parts in (hits, confidences, classes)]
    scores = summarise(*found, truth, validation.names)
    if resamples:
        image = np.repeat(np.arange(len(hits)), [len(h) for h in hits])
        image_of_truth = np.repeat(np.arange(len(validation)), [len(t) for t in validation.targets])
        scores["mAP50_resampled"] = resampled_mAP50(found[0][:, 0], *found[1:], image, truth, image_of_truth, resamples)
    return scores


def match(found: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    """(n, 10) bool: which detections (n, 6) hit a target (m, 5) of their class at IoU 0.50, 0.55, ... 0.95.

    Pairs are taken by falling IoU, each detection and each target once, as YOLOv5 does.
    """
    hits = np.zeros((len(found), len(IOU_THRESHOLDS)), bool)
    if not len(found) or not len(targets):
        return hits
    iou = box_iou(torch.from_numpy(targets[:, 1:]).float(), found[:, :4]).numpy()
    iou = np.where(targets[:, :1] == found[:, 5].numpy(), iou, 0)
    target, detection = np.nonzero(iou >= IOU_THRESHOLDS[0])
    order = np.argsort(-iou[target, detection], kind="stable")
    target, detection = target[order], detection[order]
    for column, threshold in enumerate(IOU_THRESHOLDS):
        keep = iou[target, detection] >= threshold
        t, d = target[keep], detection[keep]
        first = np.unique(d, return_index=True)[1]  # best target of each detection
        t, d = t[np.sort(first)], d[np.sort(first)]
        hits[d[np.unique(t, return_index=True)[1]], column] = True  # best detection of each target
    return hits


def summarise(
    hits: np.ndarray, confidences: np.ndarray, classes: np.ndarray, truth: np.ndarray, names: tuple[str, ...]
) -> dict:
    """Metrics from matched detections; classes without a target are left out, no detections give zeros."""
    if not len(truth):
        raise ValueError("the split has no labelled box: mAP is not defined on it")
    # stable: equal confidences keep their order, so the result does not depend on the sort's implementation
    order = np.argsort(-confidences, kind="stable")
    result = ap_per_class(hits[order], confidences[order], classes[order], truth)
    precision, recall, ap, present = result[2], result[3], result[5], result[6]
    return {
        "mAP50": float(ap[:, 0].mean()),
        "mAP50_95": float(ap.mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "per_class": [
            {"name": names[c], "AP50": float(a[0]), "AP50_95": float(a.mean())}
            for c, a in zip(present.tolist(), ap, strict=True)
        ],
    }


def resampled_mAP50(
    hits: np.ndarray,
    confidences: np.ndarray,
    classes: np.ndarray,
    image: np.ndarray,
    truth: np.ndarray,
    image_of_truth: np.ndarray,
    resamples: int,
) -> list[float]:
    """mAP50 on `resamples` bootstrap samples of the images, the same samples for every model on the same split.

    Because the samples are the same, the difference of two models' lists is a paired bootstrap of their difference. An
    image drawn k times counts k times: that is a weight on its detections and its targets, so nothing is sorted again.

    Args:
        hits, confidences, classes, image: (n,) of each detection: hit at IoU 0.5, confidence, class, index of its image.
        truth, image_of_truth: (m,) class and image of each target.
    """
    images = int(image_of_truth.max()) + 1
    images = max(images, int(image.max()) + 1 if len(image) else 0)
    drawn = np.random.default_rng(0).integers(0, images, (resamples, images))
    weights = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float32)
    order = np.argsort(-confidences, kind="stable")
    grid, ap = np.linspace(0, 1, 101), []
    for c in np.unique(truth):
        own = order[classes[order] == c]
        weight, targets = weights[:, image[own]], weights[:, image_of_truth[truth == c]].sum(1)
        right, seen = (weight * hits[own]).cumsum(1), weight.cumsum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, precision = right / targets[:, None], np.where(seen > 0, right / seen, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ap.append(
            [
                np.trapezoid(np.interp(grid, np.r_[0, r, r[-1], 1], np.r_[1, e, 0, 0]), grid) if n and len(r) else 0.0
                for r, e, n in zip(recall, envelope, targets, strict=True)
            ]
        )
    return np.mean(ap, axis=0).round(5).tolist()
