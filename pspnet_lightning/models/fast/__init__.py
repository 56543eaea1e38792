"""The same functions with less to do: convolutions by fewer products, BatchNorm folded, networks made for inference."""

from pspnet_lightning.models.fast.convolution import exchange_convolutions, restore_convolutions
from pspnet_lightning.models.fast.folding import fold_batchnorm
from pspnet_lightning.models.fast.prepared import prepare_for_inference

__all__ = ["exchange_convolutions", "fold_batchnorm", "prepare_for_inference", "restore_convolutions"]
