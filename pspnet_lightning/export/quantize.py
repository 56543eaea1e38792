"""Static 8-bit quantisation of an ONNX file by onnxruntime, calibrated with images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from pspnet_lightning.export.formats import require


def quantize(source: Path, target: Path, images: Iterable[Tensor]) -> None:
    """Writes ``source`` with its convolutions in 8 bits: activations unsigned, weights signed, a scale each channel.

    ``images``: (1, C, H, W) each, of the file's input type; their activations' smallest and largest values give the
    scales. The pyramid's small products and everything after the convolutions stay float32; metadata are kept.
    """
    require("onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, images: Iterator[Tensor]) -> None:
            self.images = images

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image.contiguous().numpy()}

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # advice on preprocessing, which is done, goes through the root logger
    try:
        with TemporaryDirectory(dir=target.parent) as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                Reader(iter(images)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
            )
    finally:
        root.setLevel(level)
    onnx = require("onnx")
    proto = onnx.load(str(target))
    onnx.helper.set_model_props(proto, {item.key: item.value for item in onnx.load(str(source)).metadata_props})
    onnx.save(proto, str(target))
