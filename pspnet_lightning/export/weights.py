"""Weights alone, as safetensors: names, tensors and strings, nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pspnet_lightning.export.formats import require

# That of ResNet-269 with a description has 0.2 MB.
_LARGEST_HEADER = 16 * 2**20


def write_weights(state_dict: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Raises ValueError where safetensors is not installed."""
    require("safetensors")
    from safetensors.torch import save

    # Not save_file: its files can be read by their owner only.
    path.write_bytes(save({name: value.contiguous() for name, value in state_dict.items()}, metadata=dict(metadata)))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors on the CPU, and the metadata.

    Raises ValueError for a file that is none of this kind, and where safetensors is not installed.
    """
    safetensors = require("safetensors")
    _check_header(Path(path))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is torn: {error}") from error


def _check_header(path: Path) -> None:
    """The header is JSON that is parsed as a whole: names, shapes, and the description of a run."""
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is no safetensors file: it is no file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(_LARGEST_HEADER, path.stat().st_size):
        raise ValueError(f"{str(path)!r} is no safetensors file, or it is torn: a header of {length} bytes")
