"""What each scale of context is worth: the head's sum taken apart, receptive fields, their tables and pictures."""

from pspnet_lightning.explain.context import ContextResult, ContextStudy
from pspnet_lightning.explain.pictures import ContextItem, context_figure, context_sheet, receptive_field_figure
from pspnet_lightning.explain.tables import context_table

__all__ = [
    "ContextItem",
    "ContextResult",
    "ContextStudy",
    "context_figure",
    "context_sheet",
    "context_table",
    "receptive_field_figure",
]
