"""Networks as files that run without this package: ONNX, torch.export and TorchScript programs, safetensors weights."""

from pspnet_lightning.export.check import Comparison, check
from pspnet_lightning.export.formats import FORMATS, SUFFIXES, open_program, read_metadata, write_program
from pspnet_lightning.export.weights import read_weights, write_weights

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Comparison",
    "check",
    "open_program",
    "read_metadata",
    "read_weights",
    "write_program",
    "write_weights",
]
