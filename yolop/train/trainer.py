"""TrainSpec -> weights and learning curve: ultralytics' trainer, subclassed where the study differs from it.

What differs, and why: our model and loss; data checked before (never a `labels.cache` pickle, never a download); every
argument explicit; all threads used (its CPU selection leaves one core idle); bfloat16 autocast and channels-last, where
the processor gains from them; images stay in memory as far as there is room, those of the validation every few epochs too;
the best EMA weights are kept in float32 without pickle; a loss that is not finite stops the run instead of being papered
over.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from torch import nn
from ultralytics.data.dataset import YOLODataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer

from yolop import idle
from yolop.data import Dataset
from yolop.data.images import Kept
from yolop.data.load import dataset_of
from yolop.files import StoreError, sha256
from yolop.measure import pruning
from yolop.measure.evaluation import RESAMPLES, Validation, evaluate
from yolop.network import channels, transfer, weights, yolov5
from yolop.network.head import fit_anchors
from yolop.specs import SparseTrainSpec, TrainSpec
from yolop.store import UNFINISHED, Record
from yolop.train import resume

torch.utils.deterministic.fill_uninitialized_memory = False  # deterministic without it, and a tenth faster


class TrainingError(RuntimeError):
    """A training whose result belongs in no table; the message says what happened and what to change."""


class CheckedImages(YOLODataset):
    """A split of a checked data set for ultralytics' augmentation: labels are given, images kept in memory (`Kept`)."""

    def __init__(self, dataset: Dataset, split: str, **kwargs):
        self.split = dataset.splits[split]
        super().__init__(img_path="", data={"names": dict(enumerate(dataset.names)), "channels": 3}, **kwargs)
        self.kept = Kept(self.read, len(self))

    def get_img_files(self, img_path) -> list[str]:
        """Paths of the split's images, in the order of its labels."""
        return [str(path) for path in self.split.images]

    def get_labels(self) -> list[dict]:
        """Labels in ultralytics' layout, from the checked split instead of a cache file."""
        return [
            {
                "im_file": str(path),
                "shape": (0, 0),  # only rectangular batches read it
                "cls": labels[:, :1].copy(),
                "bboxes": labels[:, 1:].copy(),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for path, labels in zip(self.split.images, self.split.labels, strict=True)
        ]

    def build_transforms(self, hyp):
        """ultralytics' augmentations; "ram" lets mosaic draw from all images, in memory or not."""
        self.cache = "ram"
        return super().build_transforms(hyp)

    def load_image(self, i: int, rect_mode: bool = True, resize_short: bool = False):
        """BGR image with its longer side at imgsz, its size before and after."""
        image = self.kept[i]
        return image, self.im_hw0[i], image.shape[:2]

    def read(self, i: int) -> np.ndarray:
        """The image as of `load_image`, from its file."""
        image = cv2.imdecode(np.fromfile(self.im_files[i], np.uint8), cv2.IMREAD_COLOR)
        self.im_hw0[i] = height, width = image.shape[:2]
        ratio = self.imgsz / max(height, width)
        if ratio != 1:
            size = (max(round(width * ratio), 1), max(round(height * ratio), 1))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
        return image


class Trainer(DetectionTrainer):
    """One training run of a given model on a checked data set. `curve` and `best_state` are what it leaves."""

    def __init__(
        self, spec: TrainSpec, model: nn.Module, dataset: Dataset, folder: Path, threads: int, parent: nn.Module | None = None
    ):
        self.spec, self.dataset = spec, dataset
        super().__init__(overrides=arguments(spec, folder))
        torch.set_num_threads(threads)  # after ultralytics has set its own number
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.model.gains, self.model.bfloat16 = gains(spec), spec.precision == "bfloat16"
        self.validation = Validation(dataset, "val", spec.imgsz)
        self.curve, self.best_state, self.began = [], None, time.perf_counter()
        self.unfinished, self.kept, self.resumed = folder / UNFINISHED, self.began, []
        self.batches, self.last_step, self.waiting = 0, -1, {}  # so far; of the last step; gradients of before

    def get_dataset(self) -> dict:
        """What ultralytics would read from a data.yaml."""
        return {"train": "train", "val": "val", "nc": self.dataset.nc, "names": dict(enumerate(self.dataset.names)), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> CheckedImages:
        """The split named by `img_path`, augmented in training."""
        return CheckedImages(
            self.dataset, img_path, imgsz=self.args.imgsz, augment=mode == "train", hyp=self.args, batch_size=batch
        )

    def preprocess_batch(self, batch: dict) -> dict:
        """Images to 0..1, channels last."""
        self.batches += 1
        batch = super().preprocess_batch(batch)
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def build_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """ultralytics' parameter groups; Adam's step in one kernel on the CPU too, where it takes 1 ms instead of 10."""
        optimizer = super().build_optimizer(*args, **kwargs)
        if self.spec.optimizer in ("Adam", "AdamW"):
            for group in optimizer.param_groups:
                group.update(fused=True, foreach=False)
        return optimizer

    def _build_train_pipeline(self) -> None:
        """The base class's: DetectionTrainer's sets a limit of detections on heads that have one, ours has none.

        ultralytics builds it once more where memory ran out, with half the batch, and goes on: another training.
        """
        if getattr(self, "_oom_retries", 0):
            raise torch.OutOfMemoryError("a smaller batch would be another training")
        BaseTrainer._build_train_pipeline(self)

    def get_validator(self) -> SimpleNamespace:
        """Nothing: `validate` does its own."""
        return SimpleNamespace(metrics=SimpleNamespace(keys=[]))

    def validate(self) -> tuple[dict, float | None]:
        """One row of the curve; every `val_every` epochs with the mAP of the EMA weights on val."""
        epoch, epochs = self.epoch + 1, self.epochs
        row = {"epoch": epoch, "steps": epoch * len(self.train_loader), "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {name: float(value) for name, value in self.tloss.items()}
        way_out = f"not finite in epoch {epoch}: lower lr0 = {self.spec.lr0}"
        if not all(np.isfinite([*row.values(), self.loss.item()])):  # its parts so far, and all of the last one
            raise TrainingError(f"{self.spec.label}: the loss is {way_out}")
        fitness = None
        if epoch % self.spec.val_every == 0 or epoch == epochs:
            if not all(tensor.isfinite().all() for tensor in self.ema.ema.state_dict().values()):
                raise TrainingError(f"{self.spec.label}: the weights are {way_out}")
            metrics = evaluate(yolov5.fused(self.ema.ema), self.validation)
            row |= {name: metrics[name] for name in ("mAP50", "mAP50_95")}
            fitness = 0.1 * metrics["mAP50"] + 0.9 * metrics["mAP50_95"]  # YOLOv5's measure of the best epoch
            if self.best_state is None or fitness >= self.best_fitness:  # later wins among equals
                self.best_fitness, self.best_epoch = fitness, epoch
                self.best_state = copy.deepcopy(self.ema.ema.state_dict())
            report(self, row, epoch, epochs)
        self.curve.append(row)
        return {}, fitness

    def run_callbacks(self, event: str) -> None:
        """Those that somebody added; never ultralytics' own, which report to whomever the environment holds a key for."""
        for callback in self.callbacks.get(event, []):
            if not callback.__module__.startswith("ultralytics.utils.callbacks"):
                callback(self)

    def save_metrics(self, metrics: dict) -> None:
        """The curve is kept in memory and goes into the record. Now and then, all that is needed to go on from here."""
        batches = len(self.train_loader)
        warm = self.batches > self._get_warmup_iterations(batches)
        if warm and self.epoch + 1 < self.epochs and time.perf_counter() - self.kept >= resume.EVERY_S:
            try:
                resume.keep(self, self.unfinished)
            except StoreError as error:  # a full disk, say: the training itself needs none
                print(f"{self.spec.label}: {error}", flush=True)
            self.kept = time.perf_counter()

    def resume_training(self, ckpt) -> None:
        """Go on from what an interrupted run of the same spec has kept, if it has. ultralytics calls it when all is built."""
        resume.go_on(self, self.unfinished)

    def numbers(self) -> dict:
        """What a run that goes on needs to know, beside tensors and what ultralytics itself counts."""
        best = {name: getattr(self, name, None) for name in ("best_fitness", "best_epoch")}
        return best | {"curve": self.curve, "seconds": time.perf_counter() - self.began, "resumed": self.resumed}

    def tensors(self) -> dict[str, torch.Tensor]:
        """What it needs beside weights and the state of the optimizer."""
        return {}

    def go_on_with(self, numbers: dict, tensors: dict[str, torch.Tensor]) -> None:
        """Take up what `numbers` and `tensors` gave when the run was interrupted."""
        self.best_fitness, self.best_epoch, self.curve = (numbers[k] for k in ("best_fitness", "best_epoch", "curve"))
        self.began = time.perf_counter() - numbers["seconds"]
        self.resumed = [*numbers["resumed"], {"after_epoch": self.start_epoch, "seconds_before": numbers["seconds"]}]
        self.batches = self.start_epoch * len(self.train_loader)
        self.every = self.accumulate
        self.accumulate += self.last_step + 1  # until the step that is due: ultralytics takes the last one for step -1

    def _model_train(self) -> None:
        """Begin an epoch. ultralytics has dropped all gradients before the first: those that wait for a step come back."""
        super()._model_train()
        for name, p in self.model.named_parameters() if self.waiting else ():
            p.grad = torch.empty_like(p).copy_(self.waiting[name]) if name in self.waiting else None
        self.waiting = {}

    def optimizer_step(self) -> None:
        """One step, remembering when: ultralytics counts from the last one, and a run that goes on must too."""
        super().optimizer_step()
        self.last_step = self.batches - 1
        self.accumulate = getattr(self, "every", self.accumulate)

    def save_model(self) -> bool:
        """No pickles: the best state is kept in memory and written as safetensors."""
        return False

    def final_eval(self) -> None:
        """The record's own evaluation follows."""


def report(trainer: Trainer, row: dict, epoch: int, epochs: int) -> None:
    """One line of progress that reads well in a saved notebook."""
    seconds = time.perf_counter() - trainer.began
    print(
        f"{trainer.spec.label:<12} epoch {epoch:>3}/{epochs}  loss {row['box'] + row['obj'] + row['cls']:.4f}  "
        f"val mAP50 {row['mAP50']:.3f}  mAP50-95 {row['mAP50_95']:.3f}  "
        f"{seconds:4.0f} s, about {seconds / epoch * (epochs - epoch):.0f} s left",
        flush=True,
    )


def arguments(spec: TrainSpec, folder: Path) -> dict:
    """Every argument of ultralytics' trainer that could change a number, said explicitly (its defaults may move)."""
    h, s, v = spec.hsv
    return {
        "task": "detect", "mode": "train", "model": "yolop", "data": "checked", "pretrained": False, "resume": False,
        "epochs": spec.epochs, "time": None, "patience": 0, "batch": spec.batch,
        "nbs": spec.nominal_batch or spec.batch, "imgsz": spec.imgsz,
        "device": spec.device, "workers": 0, "seed": spec.seed, "deterministic": True, "compile": False, "cache": False,
        "amp": False, "optimizer": spec.optimizer, "lr0": spec.lr0,
        "lrf": spec.lrf, "momentum": spec.momentum, "weight_decay": spec.weight_decay, "cos_lr": spec.cos_lr,
        "warmup_epochs": spec.warmup_epochs, "warmup_momentum": 0.8, "warmup_bias_lr": spec.warmup_bias_lr, "freeze": None,
        "mosaic": spec.mosaic, "close_mosaic": 0, "mixup": 0.0, "cutmix": 0.0, "copy_paste": 0.0, "erasing": 0.0,
        "auto_augment": None, "hsv_h": h, "hsv_s": s, "hsv_v": v, "degrees": 0.0, "translate": spec.translate,
        "scale": spec.scale, "shear": 0.0, "perspective": 0.0, "flipud": 0.0, "fliplr": spec.fliplr, "bgr": 0.0,
        "multi_scale": 0.0, "rect": False, "single_cls": False, "classes": None, "fraction": 1.0, "cls_pw": 0.0,
        "dropout": 0.0, "max_det": 300, "val": True, "save": False, "save_period": -1, "plots": False,
        "verbose": False, "project": str(folder.resolve()), "name": "ultralytics", "exist_ok": True,
    }  # fmt: skip


def gains(spec: TrainSpec) -> dict:
    """Loss gains scaled to image size and number of classes, as the original's train.py does (3 detection layers)."""
    return {"box": spec.box, "obj": spec.obj * (spec.imgsz / 640) ** 2, "cls": spec.cls * spec.nc / 80}


def initial_model(spec: TrainSpec, dataset: Dataset, parent: nn.Module | None) -> nn.Module:
    """The model a run starts from: random from its seed, or with a parent's weights carried over."""
    torch.manual_seed(spec.seed)
    how = spec.init.split(":")[0]
    if how.startswith("narrowed-"):
        return channels.remove_channels(parent, float(how.removeprefix("narrowed-"))).train()
    if how.startswith("pruned-"):
        way, _, ratio = how.removeprefix("pruned-").rpartition("-")
        return pruning.prune(parent, pruning.before_retraining(parent, way, float(ratio))).train()
    boxes = np.concatenate(dataset.splits["train"].labels)[:, 3:] * spec.imgsz
    model = yolov5.build(spec.model, spec.nc, fit_anchors(boxes))
    if how == "matching":
        transfer.transfer_matching(model, parent.state_dict())
    elif how == "largest-l1":
        transfer.transfer_largest_l1(model, parent)
    return model


def train(spec: TrainSpec, dataset: Dataset, folder: Path, parent: nn.Module | None = None) -> dict:
    """Train, keep the EMA weights of the best epoch on val in `folder`/weights.safetensors, score them on test.

    Args:
        spec: what to do; `parent` is the model that `spec.init` speaks of.
        dataset: checked data with splits train, val, test.

    Returns:
        metrics: curve (one row per epoch), best_epoch, steps, parameters, anchors, threads, weights_sha256, and
        `val` and `test` as of `evaluation.evaluate`; `resumed`, where an interrupted run of the same spec went on here;
        `start`, where it began with a pruned network: its sparsity and its mAP on test.

    Raises:
        TrainingError: the loss or the weights are not finite, or ultralytics would halve the batch for lack of memory.
    """
    model, start = initial_model(spec, dataset, parent), {}
    if spec.init.startswith("pruned-"):
        scores = evaluate(yolov5.fused(model), Validation(dataset, "test", spec.imgsz))
        start = {"start": pruning.achieved(model) | {name: scores[name] for name in ("mAP50", "mAP50_95")}}
    anchors = model.model[-1].anchors.tolist() if spec.model.head == "anchor" else None
    before = torch.get_num_threads()
    threads = idle.threads()
    # by name, because `zeros` builds upon this module
    kind = resolve_name("yolop.train.zeros:SparseTrainer") if isinstance(spec, SparseTrainSpec) else Trainer
    trainer = kind(spec, model, dataset, folder, threads, parent=parent)
    try:
        trainer.train()
        best = copy.deepcopy(trainer.ema.ema).eval().cpu().float()
        best.load_state_dict(trainer.best_state)
        weights.save_weights(best, folder / "weights.safetensors")
        best = yolov5.fused(best)
        scores = {s: evaluate(best, Validation(dataset, s, spec.imgsz), RESAMPLES) for s in ("val", "test")}
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"out of memory with batch = {spec.batch}: lower it, or imgsz = {spec.imgsz}") from error
    finally:
        torch.set_num_threads(before)
    return {
        "curve": trainer.curve,
        "best_epoch": trainer.best_epoch,
        "steps": trainer.curve[-1]["steps"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "anchors": anchors,
        "threads": threads,
        "weights_sha256": sha256(folder / "weights.safetensors"),
        **({"resumed": trainer.resumed} if trainer.resumed else {}),
        **start,
        **scores,
    }


def compute(spec: TrainSpec, parents: dict[str, Record], folder: Path) -> dict:
    """Train what a spec says, from its parent's weights where it names one; metrics as of `train`."""
    parent = weights.model_of(parents["weights"]) if "weights" in parents else None
    return train(spec, dataset_of(parents["data"]), folder, parent)
