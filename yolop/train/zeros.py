"""Zeros that the network learns to live with: pruned gradually while it trains, and taught by the dense model.

The schedule is Zhu and Gupta's (arXiv 1710.01878): the share of zeros rises steeply at first and slowly at the end, and the
last epochs train what is left. A weight that is zero stays zero: in training, in the average of weights that is evaluated
and saved, and in any further training that starts from the saved file.
"""

from __future__ import annotations

import torch
from torch import nn

from yolop.measure import pruning
from yolop.network import yolov5
from yolop.network.head import BALANCE, Loss
from yolop.specs import SparseTrainSpec
from yolop.train.trainer import Trainer

EVERY = 5  # steps between two updates of the masks


class SparseTrainer(Trainer):
    """A training run that ends with `spec.sparsity` zeros among the weights of all convolutions."""

    def __init__(self, spec: SparseTrainSpec, model: nn.Module, *args, parent: nn.Module | None = None):
        super().__init__(spec, model, *args)
        self.convs = {name: conv for name, conv, _ in pruning.layers(self.model)}
        self.masks = {name: conv.weight != 0 for name, conv in self.convs.items()}  # a sparse start stays so
        self.scores = {
            name: pruning.random_scores(conv, name, spec.seed) for name, conv in self.convs.items()
        }  # who goes first where magnitude has no say
        self.done, self.pruned = 0, 0.0  # steps; share of the way to the last masks, when they were last updated
        if parent is not None and spec.distill:
            self.model.criterion = Distillation(self.model.init_criterion(), parent, spec)

    def optimizer_step(self) -> None:
        """One step of the optimizer, after which every masked weight is zero again, in the average of weights too."""
        super().optimizer_step()
        self.done += 1
        share = self.share()
        if self.pruned < 1 and (self.done % EVERY == 0 or share == 1):
            self.update_masks(self.spec.sparsity * (1 - (1 - share) ** 3))
            self.pruned = share
        average = dict(self.ema.ema.named_modules())
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.convs[name].weight.mul_(mask)
                average[name].weight.mul_(mask)

    def share(self) -> float:
        """How much of the way to the last mask is done, 0..1."""
        return min(self.done / max(self.spec.pruned_by * self.epochs * len(self.train_loader), 1), 1.0)

    def update_masks(self, sparsity: float) -> None:
        """Masks with that share of zeros, inside those that there are."""
        magnitude = self.spec.allocation != "random"
        kept = {name: conv.weight.detach().abs() if magnitude else self.scores[name] for name, conv in self.convs.items()}
        kept = {name: _by_blocks(scores, self.spec.block) for name, scores in kept.items()}
        if self.spec.allocation == "global":
            everything = torch.cat([scores.flatten() for scores in kept.values()])
            limits = dict.fromkeys(kept, _limit(everything, sparsity))
        else:
            limits = {name: _limit(scores, sparsity) for name, scores in kept.items()}
        self.masks = {name: self.masks[name] & (scores > limits[name]) for name, scores in kept.items()}

    def numbers(self) -> dict:
        """And how far the zeros are."""
        return super().numbers() | {"done": self.done, "pruned": self.pruned}

    def tensors(self) -> dict[str, torch.Tensor]:
        """And which weights live."""
        return self.masks

    def go_on_with(self, numbers: dict, tensors: dict[str, torch.Tensor]) -> None:
        """And the zeros that there were."""
        super().go_on_with(numbers, tensors)
        self.masks, self.done, self.pruned = tensors, numbers["done"], numbers["pruned"]

    def validate(self) -> tuple[dict, float | None]:
        """As ever, but no weights are kept from before the last zeros are in place."""
        found = super().validate()
        if self.pruned < 1:
            self.best_state = None
        return found


def _by_blocks(scores: torch.Tensor, block: int) -> torch.Tensor:
    """The mean score of each `block` input channels that lie side by side, for every one of them; as they are where channels
    do not come in whole blocks."""
    filters, channels = scores.shape[:2]
    if channels % block:
        return scores
    blocks = scores.reshape(filters, channels // block, block, *scores.shape[2:]).mean(dim=2, keepdim=True)
    return blocks.expand(-1, -1, block, -1, -1).reshape(scores.shape)


def _limit(scores: torch.Tensor, sparsity: float) -> float:
    """The score up to which the lowest `sparsity` of all lie; -1 (scores are not negative) where that is none."""
    count = round(sparsity * scores.numel())
    return float(scores.flatten().kthvalue(count).values) if count else -1.0


class Distillation:
    """The loss of training, and beside it how far the raw maps are from a teacher's, on the same images.

    Objectness everywhere, boxes and classes in proportion to the teacher's objectness; with the gains of the loss itself.
    What a dense model knows of cells without a label is what a short fine-tuning cannot relearn from labels alone.
    """

    def __init__(self, loss: Loss, teacher: nn.Module, spec: SparseTrainSpec):
        self.loss, self.weight, self.bfloat16 = loss, spec.distill, spec.precision == "bfloat16"
        self.teacher = yolov5.fused(teacher).to(memory_format=torch.channels_last)
        self.teacher.model[-1].train()  # raw maps
        self.bce = nn.BCEWithLogitsLoss(reduction="none")

    def __deepcopy__(self, memo):
        return self  # copies of the model are for evaluation, and need no teacher of their own

    def __call__(self, raw: list[torch.Tensor], batch: dict) -> tuple[torch.Tensor, dict]:
        loss, parts = self.loss(raw, batch)
        with torch.no_grad(), torch.autocast(batch["img"].device.type, torch.bfloat16, enabled=self.bfloat16):
            taught = self.teacher(batch["img"])
        soft = sum(self._distance(x.float(), t.float().sigmoid(), b) for x, t, b in zip(raw, taught, BALANCE, strict=True))
        return loss + self.weight * soft * len(raw[0]), parts

    def _distance(self, x: torch.Tensor, taught: torch.Tensor, balance: float) -> torch.Tensor:
        """Of one map (B, 3, ny, nx, 5 + nc) from the teacher's sigmoids."""
        gains, seen = self.loss.gains, taught[..., 4]
        share = seen / seen.sum()
        boxes = (x[..., :4].sigmoid() - taught[..., :4]).square().sum(-1)
        classes = self.bce(x[..., 5:], taught[..., 5:]).mean(-1)
        objectness = self.bce(x[..., 4], seen).mean() * balance
        return gains["obj"] * objectness + (share * (gains["box"] * boxes + gains["cls"] * classes)).sum()
