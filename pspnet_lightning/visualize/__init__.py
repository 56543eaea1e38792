"""Pictures and tables for people."""

from pspnet_lightning.visualize.confusion import confusion_picture, confusion_shares
from pspnet_lightning.visualize.figures import plot_curves, plot_reliability
from pspnet_lightning.visualize.sheets import (
    SheetItem,
    as_rgb,
    cell_notes,
    colorize,
    error_map,
    label_sheet,
    legend,
    overlay,
    overlay_with_legend,
    prediction_sheet,
    read_cells,
    save_png,
)
from pspnet_lightning.visualize.tables import class_table

__all__ = [
    "SheetItem",
    "as_rgb",
    "cell_notes",
    "class_table",
    "colorize",
    "confusion_picture",
    "confusion_shares",
    "error_map",
    "label_sheet",
    "legend",
    "overlay",
    "overlay_with_legend",
    "plot_curves",
    "plot_reliability",
    "prediction_sheet",
    "read_cells",
    "save_png",
]
