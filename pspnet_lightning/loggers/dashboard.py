"""What the dashboards show beside curves and pictures: classes, confusion, the best scores, artifacts."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from pspnet_lightning.data import DataSpec
from pspnet_lightning.loggers.boards import boards, logged_step
from pspnet_lightning.loggers.wandb_run import WandbRun
from pspnet_lightning.metrics import scores
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import confusion_picture, confusion_shares


class Dashboard(Callback):
    """Sends to W&B and TensorBoard, from rank 0 and of all ranks' images, what there is no curve for.

    After each validation per-class IoU (a table that grows) and the normalised confusion matrix, under ``val/``; after
    the best checkpoint's validation the same under ``best/``, its scores as the run's summary, and the
    checkpoints that ``logger.wandb.log_model`` names. The data set's description at the start. Checkpoints hold the
    id of the W&B run and the table's rows.
    """

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = state_dict["rows"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        runs = _wandb_runs(trainer)
        if not runs:
            return
        spec, data = pl_module.description["spec"], getattr(trainer, "datamodule", None)
        lengths = {f"{name}_images": len(data.split(name)) for name in ("train", "val")} if data is not None else {}
        path = Path(trainer.default_root_dir) / "data.json"
        write_json({"spec": spec, "data": pl_module.description["config"]["data"], **lengths}, path)
        name = re.sub(r"[^\w.-]", "_", f"data-{spec['name']}")
        for run in runs:
            run.keep_file(path, name=name, kind="dataset", aliases=[], metadata=lengths)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        # On all ranks: these sum over them.
        confusion, loss = pl_module.confusion.compute().cpu(), float(pl_module.val_loss.compute())
        shown = boards(trainer)
        if not shown:
            return
        spec = DataSpec.from_dict(pl_module.description["spec"])
        result, step = scores(confusion), logged_step(trainer)
        shares = confusion_shares(confusion.numpy())
        picture = confusion_picture(shares, spec.classes)
        if trainer.state.fn == "validate":
            best = {"best/miou": result.miou, "best/macc": result.macc, "best/aacc": result.aacc, "best/loss": loss}
            for board in shown:
                board.show_confusion("best/confusion", shares, picture, spec.classes, step)
                board.show_best(best, step)
            return
        values = [None if math.isnan(value) else round(value, 4) for value in (result.miou, *result.iou)]
        self._rows.append([trainer.current_epoch, step, *values])
        for board in shown:
            board.show_confusion("val/confusion", shares, picture, spec.classes, step)
            board.show_classes("val/iou", ["epoch", "step", "mIoU", *spec.classes], self._rows, step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "validate":
            return
        for run in _wandb_runs(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):
                    run.keep_checkpoint(callback, final=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for board in boards(trainer):
            state = board.state()
            if state is not None:
                checkpoint["wandb"] = state


def _wandb_runs(trainer: L.Trainer) -> list[WandbRun]:
    return [board for board in boards(trainer) if isinstance(board, WandbRun)]
