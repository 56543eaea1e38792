"""The content of a .caffemodel file as a state dict: the few fields of Caffe's messages that hold weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# The four blobs of the BN layer, in the file's order (src/caffe/layers/bn_layer.cpp of hszhao/PSPNet).
_NORM_BLOBS = ("slope", "bias", "running_mean", "running_var")
# Message -> field: number, type, repeated. From src/caffe/proto/caffe.proto. `data` are packed floats, which are read
# as the bytes that they are: a list of 50 million numbers would take minutes and gigabytes.
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Shape": {"dim": (1, "int64", True)},
    "Blob": {
        "num": (1, "int32", False),
        "channels": (2, "int32", False),
        "height": (3, "int32", False),
        "width": (4, "int32", False),
        "data": (5, "bytes", False),
        "shape": (7, "Shape", False),
    },
    "Layer": {"name": (1, "string", False), "type": (2, "string", False), "blobs": (7, "Blob", True)},
    "Net": {"layer": (100, "Layer", True)},
}


def read_caffemodel(content: bytes) -> dict[str, Tensor]:
    """Names to tensors: ``<layer>.blobs.<n>``, and of BN layers ``.slope .bias .running_mean .running_var``.

    Raises ValueError for bytes that are no such message or that hold no weights.
    """
    from google.protobuf.message import DecodeError

    net = _net_message()()
    try:
        net.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"this is no .caffemodel, or it is torn: {error}") from error
    tensors = {}
    for layer in net.layer:
        norm = layer.type == "BN" and len(layer.blobs) == len(_NORM_BLOBS)
        for number, blob in enumerate(layer.blobs):
            legacy = [blob.num, blob.channels, blob.height, blob.width]
            shape = list(blob.shape.dim) if blob.HasField("shape") else legacy
            if len(blob.data) != 4 * int(np.prod(shape)):
                raise ValueError(
                    f"this is no .caffemodel, or it is torn: layer {layer.name!r} has {len(blob.data)} bytes of "
                    f"weights for the shape {tuple(shape)}"
                )
            values = torch.from_numpy(np.frombuffer(blob.data, dtype="<f4").astype(np.float32).reshape(shape))
            # A vector may be written as (1, C, 1, 1).
            vector = norm or (number == 1 and values.numel() == max(shape))
            tensors[f"{layer.name}.{_NORM_BLOBS[number] if norm else f'blobs.{number}'}"] = (
                values.flatten() if vector else values
            )
    if not tensors:
        raise ValueError("this .caffemodel holds no weights of layers; files of Caffe before 2014 have another form")
    return tensors


def _net_message() -> Any:
    """The class of Caffe's NetParameter, with the fields above."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pspnet_lightning/caffe.proto", package="pspnet_caffe")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            item = described.field.add(name=name, number=number)
            item.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in _MESSAGES:
                item.type, item.type_name = field_type.TYPE_MESSAGE, f".pspnet_caffe.{kind}"
            else:
                item.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pspnet_caffe.Net"))
