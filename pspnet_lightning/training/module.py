"""The LightningModule: a PSPNet with its loss, optimiser, schedule and metric."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import torch
from annotated_types import Ge
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.inference.finite import REMEDY, NotFinite, require_finite
from pspnet_lightning.metrics import ConfusionMatrix, SegmentationScores, scores
from pspnet_lightning.models.upsampling import LowLogits
from pspnet_lightning.training.losses import REDUCTIONS, ValidationLoss, segmentation_loss
from pspnet_lightning.training.losses.criterion import SumsOverPixels
from pspnet_lightning.training.named import NamedNetwork

OptimizerFactory = Callable[[nn.Module], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]


class Batch(TypedDict):
    """What the data module's loaders yield."""

    image: Tensor  # uint8 (N, C, H, W), channels_last
    label: Tensor  # uint8 (N, H, W)
    name: list[str]
    index: Tensor  # int64 (N,)


class _PendingLoss(NamedTuple):
    loss: Tensor
    step: int
    names: list[str]


def step_seed(seed: int, batch_number: int, rank: int) -> int:
    """The seed of one training batch's random numbers (dropout): a function of its arguments alone.

    With it, a resumed run continues exactly without any generator's state in the checkpoint.
    """
    return zlib.crc32(f"{seed}/{batch_number}/{rank}".encode())


class SegmentationModule(NamedNetwork):
    """Trains and validates a scene-parsing network.

    ``model(x)`` answers logits (N, K, H, W) in eval mode and ``(logits, aux_logits)`` in training
    mode; ``criterion(logits, target)`` a scalar (see ``losses/criterion.py``), over several devices put together as
    ``reduction`` says (see ``losses.segmentation_loss``). Where the network takes ``upsample=False`` and the criterion
    ``LowLogits``, no full-size logits are made. Images arrive as uint8 (N, C, H, W) and are
    normalised on the device with ``mean`` and ``std`` (0..255 units).

    ``optimizer(model)`` makes the optimiser, ``scheduler(optimizer, total_steps=...)`` its schedule
    per optimiser step over the whole run; both may be None for a module that only predicts.
    ``description`` (plain Python types only) is stored in every checkpoint: the resolved config
    and the data set's spec, from which ``pspnet_lightning.runs.checkpoint.load`` rebuilds the module.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        *,
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        ignore_index: int = 255,
        aux_weight: Annotated[float, Ge(0)] = 0.4,
        reduction: Literal["global", "rank"] = "global",
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        seed: int = 0,
        channels_last: bool = True,
        fast: bool = True,
        description: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, mean=mean, std=std, channels_last=channels_last, fast=fast)
        self._compiled: Callable[..., Any] | None = None
        self.criterion = criterion
        self.aux_weight = aux_weight
        if reduction not in REDUCTIONS:
            raise ValueError(f"loss.reduction={reduction!r} must be one of {', '.join(REDUCTIONS)}")
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.seed = seed
        self.description = description
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._pending: _PendingLoss | None = None
        self.confusion = ConfusionMatrix(num_classes, ignore_index=ignore_index)
        self.val_loss = ValidationLoss(criterion, num_classes, ignore_index=ignore_index)
        self.val_scores: SegmentationScores | None = None
        # How validation and test predict; None: whole images at their own size, in one pass.
        self.protocol: SlidingWindow | None = None
        # Whether they answer probabilities too.
        self.with_probabilities = False

    def compile_training(self) -> None:
        """Has training steps run the network by ``torch.compile``; the first of them takes minutes.

        Training batches have one size, so there is one graph. What is validated or predicted has many: it runs as it
        is, where each size would be compiled anew until torch gives up at the eighth.
        """
        # The jobs of a sweep share a process, and torch counts all their graphs as the same function's.
        torch.compiler.reset()
        self._compiled = torch.compile(self.model.forward, dynamic=False)

    def _logits_for_loss(self, image: Tensor) -> Any:
        """``forward``, with ``LowLogits`` where both the network and the criterion know them."""
        network = self._compiled if self._compiled is not None and self.training else self.model
        if isinstance(self.criterion, SumsOverPixels) and self._answers_low_logits:
            return network(self.normalize(image), upsample=False)
        return network(self.normalize(image))

    # ------------------------------------------------------------------ training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(step_seed(self.seed, number, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        target = batch["label"].long()
        output = self._logits_for_loss(batch["image"])
        if isinstance(output, Tensor | LowLogits):  # a network without auxiliary head may answer one thing alone
            output = output, None
        loss = segmentation_loss(
            output, target, self.criterion, self.aux_weight, self.reduction, ignore_index=self.ignore_index
        )
        self._watch(_PendingLoss(loss.total.detach(), self.global_step, batch["name"]))
        options: dict[str, Any] = {"batch_size": len(target)}
        self.log("train/loss", loss.total.detach(), prog_bar=True, **options)
        if loss.aux is not None:
            self.log("train/main_loss", loss.main.detach(), **options)
            self.log("train/aux_loss", loss.aux.detach(), **options)
        for group in self.trainer.optimizers[0].param_groups:
            # The head's rate is the larger one; the bar has room for the one that papers quote, the backbone's.
            name = group.get("name", "all")
            self.log(f"lr/{name}", float(group["lr"]), prog_bar=name in ("backbone", "all"), **options)
        return loss.total

    def _watch(self, pending: _PendingLoss) -> None:
        """Looks at the loss at once on a CPU, one step late on an accelerator so as not to wait for it."""
        if pending.loss.device.type == "cpu":
            _check_finite(pending)
            return
        self._flush_pending()
        self._pending = pending

    def _flush_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            _check_finite(pending)

    def on_train_epoch_end(self) -> None:
        self._flush_pending()

    # ------------------------------------------------------------------ validation

    def on_validation_epoch_start(self) -> None:
        self.confusion.reset()
        self.val_loss.reset()

    def validation_step(self, batch: list[Batch], batch_idx: int) -> dict[str, Any]:
        """Whole images, one group of equal sizes after the other; returns the label maps, (n, H, W) each.

        ``with_probabilities``: also those of each group, (K, H, W) an image.
        """
        predictions: list[Tensor] = []
        probabilities: list[list[Tensor]] = []
        for group in batch:
            target = group["label"].long()
            if self.protocol is not None:
                slid = [
                    self._slide_named(image, name, self.protocol)
                    for image, name in zip(group["image"], group["name"], strict=True)
                ]
                prediction = torch.stack([labels for labels, _ in slid])
                probabilities.append([own for _, own in slid if own is not None])
            else:
                logits = self._logits_for_loss(group["image"])
                require_finite(logits.values if isinstance(logits, LowLogits) else logits, group["name"])
                self.val_loss.update(logits, target)
                prediction = logits.labels() if isinstance(logits, LowLogits) else logits.argmax(dim=1)
                if self.with_probabilities:
                    whole = logits.full() if isinstance(logits, LowLogits) else logits
                    probabilities.append([self.calibrated(own) for own in whole.float().softmax(dim=1)])
            self.confusion.update(prediction, target)
            predictions.append(prediction)
        return {"predictions": predictions, **({"probabilities": probabilities} if self.with_probabilities else {})}

    def _slide_named(self, image: Tensor, name: str, protocol: SlidingWindow) -> tuple[Tensor, Tensor | None]:
        """The label map and, if wanted, the probabilities."""
        try:
            found = self._slide(image, protocol)
        except NotFinite:
            raise NotFinite([name]) from None
        return found.argmax(0), self.calibrated(found) if self.with_probabilities else None

    def on_validation_epoch_end(self) -> None:
        confusion = self.confusion.compute()
        self.val_scores = scores(confusion)
        values: dict[str, float] = {
            # Windows overlap and scales are averaged: there is no one loss of them.
            **({"val/loss": float(self.val_loss.compute())} if self.protocol is None else {}),
            "val/miou": self.val_scores.miou,
            "val/macc": self.val_scores.macc,
            "val/aacc": self.val_scores.aacc,
        }
        for key, value in values.items():
            # The same on all ranks: they come from sums over all of them. What `trainer.validate` finds of the best
            # checkpoint is no point of the curves.
            logger = self.trainer.state.fn == "fit"
            self.log(key, value, prog_bar=key == "val/miou", logger=logger, batch_size=1, sync_dist=True)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    # ------------------------------------------------------------------ optimisation and checkpoints

    def rates(self) -> dict[str, float]:
        """The base rate of each parameter group by its name, as the optimiser is made with; empty without one."""
        groups = [] if self._optimizer is None else self._optimizer(self.model).param_groups
        return {group.get("name", str(number)): float(group["lr"]) for number, group in enumerate(groups)}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self._optimizer is None:
            raise ValueError("this module was made without optimizer=; it can predict and be evaluated, not trained")
        optimizer = self._optimizer(self.model)
        if self._scheduler is None:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            raise ValueError(
                f"the schedule needs an end: trainer.max_epochs={self.trainer.max_epochs} and "
                f"trainer.max_steps={self.trainer.max_steps} give none; set one of them"
            )
        schedule = self._scheduler(optimizer, total_steps=int(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._flush_pending()
        self._require_finite_weights(checkpoint.get("state_dict", {}))
        if self.description is not None:
            checkpoint["pspnet_lightning"] = self.description

    def _require_finite_weights(self, state_dict: dict[str, Tensor]) -> None:
        """Nothing is resumed from, or chosen, that cannot answer: the loss shows it one step later than the weights."""
        floating = {key: value for key, value in state_dict.items() if value.is_floating_point()}
        if not floating:
            return
        # A buffer may be infinite by design, such as a mask.
        trained = {key for key, _ in self.named_parameters()}
        finite = torch.stack(
            [value.isfinite().all() if key in trained else ~value.isnan().any() for key, value in floating.items()]
        )
        if not bool(finite.all()):
            broken = [key for key, fine in zip(floating, finite.tolist(), strict=True) if not fine]
            raise ValueError(
                f"{len(broken)} of the network's {len(floating)} weights are no finite numbers (the first is "
                f"{broken[0]}): no checkpoint is written, earlier ones are left as they are. The training has "
                f"diverged: {REMEDY}"
            )


def _check_finite(pending: _PendingLoss) -> None:
    value = float(pending.loss)
    if not math.isfinite(value):
        raise ValueError(
            f"the training loss is {value} at step {pending.step}; the batch's images: "
            f"{', '.join(pending.names)}. Look at these files; {REMEDY}"
        )
