"""What tests of wrong values share: every primary composed, its leaves, and what each may be changed to."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from pspnet_lightning.config import CONFIG_DIR
from pspnet_lightning.config.schemas import PRIMARIES, register_schemas
from pspnet_lightning.config.values import Place, places

# Another type, nothing, too small, no whole number, no finite number, too large, a list, a mapping.
MUTATIONS: tuple[Any, ...] = ("abc", None, [], "", -1, 0, 1.5, math.inf, math.nan, 10**12, True, [1], [1, 1], {"a": 1})

TINY = ["data.train_length=8", "data.val_length=2", "data.num_workers=0", "data.batch_size=4", "data.crop_size=64"]
TINY += ["model.width=8", "model.output_stride=16", "trainer.accelerator=cpu", "data.epochs=1", "data.check=1"]
OWN = ["data.root=x", "data.classes=[a,b]"]
# Each primary, and the choices that bring other leaves.
COMPOSED: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in PRIMARIES if name not in ("train", "convert")},
    "convert": ("convert", ["data=ade20k"]),
    "train": ("train", TINY),
    "train, other parts": (
        "train",
        [*TINY, "optimizer=adamw", "scheduler=constant", "loss=ohem", "augment=strong", "callbacks=ema"],
    ),
    "train, a sum of losses": ("train", [*TINY, "loss=ce_dice"]),
    "train, another network": (
        "train",
        [
            *(word for word in TINY if "model.width" not in word),
            *(
                "model=efficientnet_lite0",
                "model.pretrained=null",
                "model.head=uper",
                "model.fusion=gate",
                "loss=focal",
            ),
        ],
    ),
    "train, in a sweep": ("train", [*TINY, "callbacks=pruning", "logger=wandb", "scheduler=cosine"]),
    "train, every 500 steps": ("train", [*TINY, "callbacks=every_steps", "trainer=ddp", "logger=tensorboard"]),
    "train, a folder": ("train", ["data=folder", *OWN]),
    "train, a list": ("train", ["data=list", "data.train=a.txt", "data.val=b.txt", *OWN]),
    **{
        f"train, {name}": ("train", [f"data={name}", "data.root=x"])
        for name in ("potsdam", "vaihingen", "kvasir_seg", "loveda", "voc2012_aug", "pascal_context", "ade20k")
    },
    "evaluate, single_scale": ("evaluate", ["evaluation=single_scale", "data=camvid"]),
}


class Case(NamedTuple):
    """One value of one composed primary, changed."""

    composed: str
    key: str
    value: Any


def composed(name: str, folder: Path) -> tuple[str, DictConfig]:
    """The primary's name and its config, as a run in ``folder`` would have it."""
    primary, overrides = COMPOSED[name]
    register_schemas()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose(primary, overrides=overrides, return_hydra_config=True)
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    text = OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in plain.items() if key != "hydra"}))
    text = text.replace("${hydra:runtime.output_dir}", str(folder)).replace("${now:", "${oc.decode:")
    result = OmegaConf.create(text.replace("runs/explain/${oc.decode:%Y-%m-%d}/${oc.decode:%H-%M-%S}", "explained"))
    with open_dict(result):
        return primary, result


def leaves(primary: str, cfg: DictConfig) -> list[Place]:
    """Every value that has no values below it of which something is known."""
    found = list(places(OmegaConf.to_container(cfg, resolve=True), primary))
    above = {place.key.rpartition(".")[0] for place in found}
    above |= {key.rpartition(".")[0] for key in above}
    return [place for place in found if place.key not in above]


def changed(cfg: DictConfig, key: str, value: Any) -> DictConfig:
    result = copy.deepcopy(cfg)
    OmegaConf.update(result, key, value, merge=False, force_add=True)
    return result


def cases(configs: Mapping[str, tuple[str, DictConfig]]) -> list[Case]:
    """Every leaf of everything composed, changed in every way; what two configs share only once."""
    found = []
    seen = set()
    for name, (primary, cfg) in configs.items():
        for place in leaves(primary, cfg):
            leaf = (primary, place.key, place.values and place.values.text)
            if leaf not in seen:
                seen.add(leaf)
                found += [Case(name, place.key, value) for value in MUTATIONS]
    return found


def sample(found: list[Case], count: int, seed: int = 0) -> list[Case]:
    """``count`` of the cases, in their order: one of each leaf before a second of any."""
    shuffled = random.Random(seed).sample(range(len(found)), len(found))
    firsts = {(found[index].composed, found[index].key): index for index in reversed(shuffled)}
    chosen = [*firsts.values(), *(index for index in shuffled if index not in set(firsts.values()))]
    return [found[index] for index in sorted(chosen[:count])]
