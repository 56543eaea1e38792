"""A metric of one's own, as a callback: the IoU of the worst class. callbacks=own_metric objective=val/worst_iou"""

from lightning.pytorch import Callback, LightningModule, Trainer

from pspnet_lightning.metrics import scores


class WorstClass(Callback):
    """Logs ``val/worst_iou`` from the confusion matrix over all ranks; all that is logged can be an objective."""

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        iou = scores(module.confusion.compute()).iou  # type: ignore[operator,union-attr]
        worst = min((float(value) for value in iou if value == value), default=float("nan"))
        module.log("val/worst_iou", worst, batch_size=1, sync_dist=True)
