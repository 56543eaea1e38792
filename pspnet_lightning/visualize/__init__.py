"""Pictures and tables for people."""

from pspnet_lightning.visualize.confusion import confusion_picture, confusion_shares
from pspnet_lightning.visualize.context import ContextItem, context_figure, context_sheet, receptive_field_figure
from pspnet_lightning.visualize.figures import plot_curves
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
from pspnet_lightning.visualize.tables import class_table, context_table

__all__ = [
    "ContextItem",
    "SheetItem",
    "as_rgb",
    "cell_notes",
    "class_table",
    "colorize",
    "confusion_picture",
    "confusion_shares",
    "context_figure",
    "context_sheet",
    "context_table",
    "error_map",
    "label_sheet",
    "legend",
    "overlay",
    "overlay_with_legend",
    "plot_curves",
    "prediction_sheet",
    "read_cells",
    "receptive_field_figure",
    "save_png",
]
