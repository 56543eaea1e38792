"""Networks as files that run without this package: ONNX, torch.export and TorchScript programs, safetensors weights."""

from pspnet_lightning.export.check import AGREEMENT_INT8, TOLERANCE, TOLERANCE_BFLOAT16, Comparison, agreement, check
from pspnet_lightning.export.exportable import ExportableProgram
from pspnet_lightning.export.formats import FORMATS, SUFFIXES, open_program, read_metadata, write_program
from pspnet_lightning.export.quantize import quantize
from pspnet_lightning.export.weights import read_weights, write_weights

__all__ = [
    "AGREEMENT_INT8",
    "FORMATS",
    "SUFFIXES",
    "TOLERANCE",
    "TOLERANCE_BFLOAT16",
    "Comparison",
    "ExportableProgram",
    "agreement",
    "check",
    "open_program",
    "quantize",
    "read_metadata",
    "read_weights",
    "write_program",
    "write_weights",
]
