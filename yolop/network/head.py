"""The anchor-based detection head of YOLOv5 v6, its training loss, and anchors fitted to a data set.

ultralytics' package has the anchor-free head only, so these three are ours. They follow the original implementation
(github.com/ultralytics/yolov5, v6.0 to v7.0) and are held against its numbers in tests/test_head.py.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from ultralytics.utils.metrics import bbox_iou

ANCHORS = (  # width, height in pixels; one row per stride
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
STRIDES = (8, 16, 32)
ANCHOR_T = 4.0  # a box and an anchor belong together if no side differs by more than this factor
BALANCE = (4.0, 1.0, 0.4)  # weight of the objectness loss at strides 8, 16, 32


class Detect(nn.Module):
    """Boxes, objectness and class scores from three feature maps by one 1x1 convolution each.

    Training mode returns the raw maps, a list of (B, 3, ny, nx, 5 + nc). Evaluation mode returns decoded predictions
    (B, 3 * (ny8 * nx8 + ny16 * nx16 + ny32 * nx32), 5 + nc): x, y, w, h in pixels, then objectness and class scores
    in 0..1.

    Args:
        nc: number of classes.
        anchors: (3, 3, 2) widths and heights in pixels.
        channels: channels of the three inputs.
    """

    def __init__(self, nc: int, anchors=ANCHORS, channels: tuple[int, ...] = ()):
        super().__init__()
        self.nc, self.no = nc, 5 + nc
        self.register_buffer("anchors", torch.as_tensor(anchors, dtype=torch.float32).reshape(3, 3, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * self.no, 1) for c in channels)
        self.bias_init()

    def bias_init(self) -> None:
        """Start from the prior of the original: 8 objects in an image of 640 px, every class at 0.6 / nc."""
        for conv, stride in zip(self.m, STRIDES, strict=True):
            with torch.no_grad():
                bias = conv.bias.view(3, self.no)
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (self.nc - 0.99999))

    def forward(self, features: list[torch.Tensor]):
        """Raw maps in training mode, decoded predictions otherwise."""
        raw = self.raw([conv(feature) for conv, feature in zip(self.m, features, strict=True)])
        return raw if self.training else self.decode(raw)

    def raw(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the convolutions give, (B, 3 * (5 + nc), ny, nx), as (B, 3, ny, nx, 5 + nc)."""
        return [x.view(len(x), 3, self.no, *x.shape[2:]).permute(0, 1, 3, 4, 2) for x in maps]

    def decode(self, raw: list[torch.Tensor]) -> torch.Tensor:
        """Raw maps to predictions: centres move up to 1.5 cells from their cell, sides are 0 to 4 times the anchor's."""
        decoded = []
        for x, anchors, stride in zip(raw, self.anchors, STRIDES, strict=True):
            ny, nx = x.shape[2:4]
            grid = torch.stack(torch.meshgrid(torch.arange(nx), torch.arange(ny), indexing="xy"), -1).to(x.device)
            y = x.sigmoid()
            xy = (y[..., :2] * 2 - 0.5 + grid) * stride
            wh = (y[..., 2:4] * 2) ** 2 * anchors.view(1, 3, 1, 1, 2)
            decoded.append(torch.cat((xy, wh, y[..., 4:]), -1).flatten(1, 3))
        return torch.cat(decoded, 1)


def decode_arrays(detect: Detect, maps: list[np.ndarray]) -> np.ndarray:
    """As `Detect.decode`, without PyTorch: for runtimes that leave decoding to their caller.

    PyTorch would split even this among its threads, and these then wait, spinning, on the cores of the other runtime.

    Args:
        maps: three, (3 * (5 + nc), ny, nx) float32, as the convolutions of Detect give them.

    Returns:
        (1, boxes, 5 + nc) float32.
    """
    decoded = []
    for x, anchors, stride in zip(maps, detect.anchors.numpy(), STRIDES, strict=True):
        _, ny, nx = x.shape
        with np.errstate(over="ignore"):
            y = (1 / (1 + np.exp(-x))).reshape(3, detect.no, ny, nx)
        y[:, :2] = (y[:, :2] * 2 - 0.5 + np.mgrid[:ny, :nx][::-1].astype(np.float32)) * stride
        y[:, 2:4] = (y[:, 2:4] * 2) ** 2 * anchors[:, :, None, None]
        decoded.append(y.transpose(0, 2, 3, 1).reshape(-1, detect.no))
    return np.concatenate(decoded)[None]


class Loss:
    """YOLOv5's training loss: CIoU for boxes, binary cross-entropy for objectness and classes.

    Args:
        detect: the head that made the predictions (its anchors and number of classes are used).
        box, obj, cls: gains of the three parts.

    Called with the raw maps and a batch of ultralytics' loader (`batch_idx` (n,), `cls` (n, 1), `bboxes` (n, 4) as
    centre, width, height in 0..1) it returns the loss times the batch size and a dict of the three parts.
    """

    def __init__(self, detect: Detect, box: float = 0.05, obj: float = 1.0, cls: float = 0.5):
        self.detect, self.gains = detect, {"box": box, "obj": obj, "cls": cls}
        self.bce = nn.BCEWithLogitsLoss()

    def __call__(self, raw: list[torch.Tensor], batch: dict) -> tuple[torch.Tensor, dict]:
        boxes = torch.cat((batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"]), 1)
        parts = dict.fromkeys(self.gains, raw[0].new_zeros((), dtype=torch.float32))
        for i, x in enumerate(raw):
            x = x.float()  # under autocast the maps arrive in bfloat16, too coarse for a loss
            (image, anchor, gy, gx), cls, target = self.assign(boxes.to(x.device), i, x.shape)
            objectness = torch.zeros_like(x[..., 4])
            if len(image):
                pred = x[image, anchor, gy, gx]
                sigmoid = pred[:, :4].sigmoid()
                scaled_anchor = self.detect.anchors[i][anchor] / STRIDES[i]
                pred_box = torch.cat((sigmoid[:, :2] * 2 - 0.5, (sigmoid[:, 2:] * 2) ** 2 * scaled_anchor), 1)
                iou = bbox_iou(pred_box, target, CIoU=True).squeeze(-1)
                parts["box"] = parts["box"] + (1 - iou).mean()
                objectness[image, anchor, gy, gx] = iou.detach().clamp(0)
                if self.detect.nc > 1:
                    parts["cls"] = parts["cls"] + self.bce(
                        pred[:, 5:], nn.functional.one_hot(cls, self.detect.nc).float()
                    )
            parts["obj"] = parts["obj"] + self.bce(x[..., 4], objectness) * BALANCE[i]
        parts = {name: part * self.gains[name] for name, part in parts.items()}
        return sum(parts.values()) * len(raw[0]), {name: part.detach() for name, part in parts.items()}

    def assign(self, boxes: torch.Tensor, layer: int, shape: torch.Size):
        """Which cells answer for which box at one stride.

        Every anchor whose sides are within a factor `ANCHOR_T` of the box takes part, in the cell of the box's centre
        and in the two neighbouring cells nearest to it.

        Returns:
            indices (image, anchor, gy, gx), classes (n,), and targets (n, 4): x, y relative to the cell, w, h in cells.
        """
        ny, nx = shape[2:4]
        size = boxes.new_tensor([nx, ny])
        centre, side = boxes[:, 2:4] * size, boxes[:, 4:6] * size
        anchors = self.detect.anchors[layer] / STRIDES[layer]
        factor = side[None] / anchors[:, None]  # (3, n, 2)
        anchor, index = torch.where(torch.maximum(factor, 1 / factor).amax(2) < ANCHOR_T)
        centre, side = centre[index], side[index]
        near = (centre % 1 < 0.5) & (centre > 1)  # closer to the cell before, and there is one
        from_end = size - centre
        far = (from_end % 1 < 0.5) & (from_end > 1)
        moves = boxes.new_tensor([[0, 0], [0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]])
        move, which = torch.where(torch.cat((torch.ones_like(near[:, :1]), near, far), 1).T)
        cell = (centre[which] - moves[move]).long()
        gx, gy = cell[:, 0].clamp(0, nx - 1), cell[:, 1].clamp(0, ny - 1)
        target = torch.cat((centre[which] - cell, side[which]), 1)
        rows = boxes[index[which]]
        return (rows[:, 0].long(), anchor[which], gy, gx), rows[:, 1].long(), target


def recall(wh_px: np.ndarray, anchors: np.ndarray) -> float:
    """Share of boxes (n, 2) in pixels that some anchor can learn (no side off by more than ANCHOR_T), 0..1."""
    factor = wh_px[:, None] / np.asarray(anchors, float).reshape(1, -1, 2)
    return float((np.maximum(factor, 1 / factor).max(2).min(1) < ANCHOR_T).mean())


def fit_anchors(wh_px: np.ndarray, threshold: float = 0.98) -> tuple:
    """The default anchors if they reach 98 % of the boxes, else nine fitted ones; (3, 3, 2) in pixels.

    Follows YOLOv5's autoanchor in the test (best possible recall) and in k-means over widths and heights scaled to unit
    variance; differs in leaving out the random evolution after it, so that the result depends on the boxes alone.

    Args:
        wh_px: (n, 2) widths and heights at training size, in pixels.
        threshold: recall from which the default anchors stay.
    """
    wh_px = np.asarray(wh_px, float)
    wh_px = wh_px[(wh_px >= 2).any(1)]
    if len(np.unique(wh_px, axis=0)) < 9 or recall(wh_px, ANCHORS) > threshold:
        return ANCHORS
    from sklearn.cluster import KMeans

    scale = wh_px.std(0) + 1e-9
    order = np.argsort(wh_px.prod(1), kind="stable")
    start = wh_px[order[np.linspace(0, len(order) - 1, 19).round().astype(int)[1::2]]] / scale  # quantiles of area
    fitted = (KMeans(9, init=start, n_init=1).fit(wh_px / scale).cluster_centers_ * scale).round(1)
    fitted = fitted[np.argsort(fitted.prod(1), kind="stable")]
    if recall(wh_px, fitted) <= recall(wh_px, ANCHORS):
        return ANCHORS
    return tuple(tuple(map(tuple, level)) for level in fitted.reshape(3, 3, 2).tolist())
