"""What ``checkpoint=`` names: one checkpoint, or several that answer together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from pspnet_lightning.config.evaluation import build_protocol, sha256_of, trained_bands
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec
from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.runs.checkpoint import rebuild, spec_of, stored_config
from pspnet_lightning.training.module import SegmentationModule


@dataclass(frozen=True)
class StoredNetwork:
    """The checkpoints of ``paths``, read and checked, before anything is built; the first speaks for all."""

    paths: tuple[str, ...]
    configs: tuple[StoredConfig, ...]
    contents: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return ", ".join(self.paths)

    @property
    def config(self) -> StoredConfig:
        return self.configs[0]

    @property
    def spec(self) -> DataSpec:
        return spec_of(self.contents[0])

    def record(self) -> dict[str, Any]:
        """For results.json: path and SHA-256 of the ``checkpoint``, or of each of the ``ensemble``."""
        found = [{"path": path, "sha256": sha256_of(path)} for path in self.paths]
        return {"checkpoint": found[0]} if len(found) == 1 else {"ensemble": found}

    def fingerprint(self) -> str:
        """What tells whether a prediction is this network's: the SHA-256 of its files."""
        return " ".join(map(sha256_of, self.paths))

    def protocol(self, node: DictConfig, data_name: str) -> SlidingWindow:
        """The protocol of an ``evaluation`` node. Raises ValueError where members would take different windows."""
        first, *others = (build_protocol(node, config, data_name) for config in self.configs)
        for path, other in zip(self.paths[1:], others, strict=True):
            if other != first:
                raise ValueError(
                    f"{self.paths[0]} and {path} were trained with crops of {first.crop} and {other.crop}; give the "
                    f"window of both: evaluation.crop_size=..."
                )
        return first

    def rebuild(self, *, model: Mapping[str, Any] | None = None, spec: DataSpec | None = None) -> SegmentationModule:
        """The module, prepared for inference; ``model`` and ``spec`` as in ``checkpoint.rebuild``."""
        stored = zip(self.configs, self.contents, self.paths, strict=True)
        first, *others = (rebuild(*one, model=model, spec=spec).prepare_for_inference() for one in stored)
        return first.join(others) if others else first

    def require_unseen(self, split: str) -> None:
        """Raises ValueError where the ``split`` of one member's folds has trained another."""
        folds = [tuple((config.get("data") or {}).get(key) for key in ("folds", "fold")) for config in self.configs]
        if split != "test" and len(set(folds)) > 1:
            raise ValueError(
                f"checkpoint=[{self.name}]: these are folds (data.folds, data.fold: "
                f"{'; '.join(', '.join(map(str, fold)) for fold in folds)}), and the images that one validates on have "
                f"trained the others. split=test has images that none has seen; so may another data=NAME"
            )


def read_network(paths: str | Sequence[str], trust: Iterable[str] = ()) -> StoredNetwork:
    """Reads the checkpoints that ``checkpoint=`` names, one path or a list.

    Raises ValueError as ``stored_config`` does, and where members differ in classes, normalisation or bands.
    """
    listed = (paths,) if isinstance(paths, str) else tuple(paths)
    if len(set(listed)) < len(listed):
        raise ValueError(f"checkpoint=[{', '.join(listed)}] names a file twice")
    stored = [stored_config(path, trust) for path in listed]
    network = StoredNetwork(listed, tuple(config for config, _ in stored), tuple(content for _, content in stored))
    own = _agreed(network.config, network.spec)
    for path, (config, content) in zip(listed[1:], stored[1:], strict=True):
        other = _agreed(config, spec_of(content))
        for what, value in own.items():
            if other[what] != value:
                raise ValueError(
                    f"{listed[0]} and {path} cannot answer together: their {what} differ, {_short(value)} and "
                    f"{_short(other[what])}"
                )
    return network


def _agreed(config: StoredConfig, spec: DataSpec) -> dict[str, Any]:
    """What members must have in common."""
    normalisation = [[round(value, 3) for value in values] for values in (spec.mean, spec.std)]
    return {"classes": list(spec.classes), "mean and std": normalisation, "bands": trained_bands(config)}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
