"""PSPNet on PyTorch Lightning and Hydra: train, compare and understand scene-parsing networks."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and `pspnet_lightning.models` does not need it.
    if name == "load":
        from pspnet_lightning.runs.checkpoint import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
