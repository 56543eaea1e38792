"""Writes a network's program into a file, batch and size dynamic, and opens such a file to run it.

Metadata, names to strings, travels in the file: ``metadata_props`` of ONNX, ``extra_files`` of torch.export, and
``_extra_files`` of TorchScript.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pspnet_lightning.export.exportable import ExportableProgram

Program = Callable[[Tensor], Tensor]
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".pt", "safetensors": ".safetensors"}
FORMATS = tuple(SUFFIXES)
# The one extra file of the torch formats: they can only be asked for names that one knows.
_METADATA = "metadata.json"
_DYNAMIC = {0: "batch", 2: "height", 3: "width"}


def write_program(
    program: ExportableProgram, image: Tensor, path: Path, file_format: str, metadata: Mapping[str, str]
) -> None:
    """Writes ``program``, seen at work on the example ``image`` (N, C, H, W), whose N, H and W become dynamic.

    The file is for the CPU wherever the program lies; it stays there.

    ``file_format``: "onnx", "torch_export" or "torchscript". N must be above 1 in the example, sides twice the output
    stride or more. Raises ValueError where onnx or onnxscript is not installed.
    """
    assert image.shape[0] > 1
    if any(tensor.device.type != "cpu" for tensor in program.state_dict().values()):
        program = copy.deepcopy(program).cpu()
    image = image.cpu()
    with warnings.catch_warnings(), torch.no_grad(), _quiet():
        # That TorchScript is on its way out, and what exporters say of their own insides, is not the user's to mend.
        warnings.simplefilter("ignore")
        writers = {"onnx": _write_onnx, "torch_export": _write_torch_export, "torchscript": _write_torchscript}
        try:
            writers[file_format](program, image, path, metadata)
        except (RuntimeError, TypeError, NotImplementedError, AssertionError, torch.jit.TracerWarning) as error:
            what = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(
                f"format={file_format}: torch cannot write {type(program.network).__name__} for images of any size: "
                f"{what.strip()}. Another format may; a part of the network can offer a form of its own, portable() "
                f"(docs/extending.md)"
            ) from error


def open_program(path: str | Path, file_format: str) -> Program:
    """The file as a function from images (N, C, H, W), CPU tensors of the file's input type, to its answer.

    Runs on the CPU: ONNX by onnxruntime, the others by torch. Raises ValueError where onnxruntime is not installed,
    and the function for an image that torch's program does not take.
    """
    if file_format == "onnx":
        return _open_onnx(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit.load
        run: Any = torch.export.load(path).module() if file_format == "torch_export" else torch.jit.load(path).eval()

    def program(image: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                answer: Tensor = run(image)
        except (RuntimeError, AssertionError) as error:
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"{path} does not take an image of shape {tuple(image.shape)}: {why.strip()}") from error
        return answer

    return program


def read_metadata(path: str | Path, file_format: str) -> dict[str, str]:
    """What ``write_program`` was given, read from the file."""
    if file_format == "onnx":
        return {
            item.key: item.value for item in require("onnx").load(str(path), load_external_data=False).metadata_props
        }
    extra = {_METADATA: ""}
    if file_format == "torch_export":
        torch.export.load(path, extra_files=extra)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.load(path, _extra_files=extra)
    content: dict[str, str] = json.loads(extra[_METADATA])
    return content


def require(*names: str) -> Any:
    """The first of these modules, all imported; ValueError with the remedy where one is not installed."""
    modules = []
    for name in names:
        try:
            modules.append(__import__(name))
        except ImportError as error:
            raise ValueError(f"this needs {name}: pip install 'pspnet-lightning[export]' ({error})") from error
    return modules[0]


def _write_onnx(program: ExportableProgram, image: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    onnx = require("onnx", "onnxscript")
    exported = torch.onnx.export(
        program,
        (image,),
        dynamo=True,
        dynamic_shapes=(_DYNAMIC,),
        input_names=["image"],
        output_names=["labels" if program.labels else "logits"],
        verbose=False,
    )
    assert exported is not None
    proto = exported.model_proto
    # Where each operation stands in this machine's source files is nobody's business.
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    onnx.helper.set_model_props(proto, dict(metadata))
    proto.producer_name = "pspnet-lightning"
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


def _write_torch_export(program: ExportableProgram, image: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    dynamic = dict.fromkeys(_DYNAMIC, torch.export.Dim.DYNAMIC)
    exported = torch.export.export(program, (image,), dynamic_shapes=(dynamic,))
    for module in exported.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
    content = io.BytesIO()  # torch ends the process where its own writer meets a disk that is full
    torch.export.save(exported, content, extra_files={_METADATA: json.dumps(dict(metadata))})
    path.write_bytes(content.getbuffer())


def _write_torchscript(program: ExportableProgram, image: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    # A TracerWarning says that a size was frozen: an error here, not a file that works for one size.
    warnings.simplefilter("error", torch.jit.TracerWarning)
    traced = torch.jit.trace(program, (image,), check_trace=False)
    content = io.BytesIO()
    torch.jit.save(traced, content, _extra_files={_METADATA: json.dumps(dict(metadata))})
    path.write_bytes(content.getbuffer())


def _open_onnx(path: str | Path) -> Program:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    # As many threads as torch uses: onnxruntime would take one a core, whatever OMP_NUM_THREADS says.
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = [item.name for item in session.get_inputs()]

    def program(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.contiguous().numpy()})[0])

    return program


class _quiet:
    """Exporters log their progress through ``logging``, at levels meant for their authors."""

    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")

    def __enter__(self) -> None:
        self.levels = {name: logging.getLogger(name).level for name in self.names}
        for name in self.names:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
