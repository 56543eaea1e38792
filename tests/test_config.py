"""Every config composes, builds and runs a step; every typo is an error that leads to the right key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra.utils
import lightning as L
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from pspnet_lightning.config import (
    CONFIG_DIR,
    as_plain,
    build,
    build_data,
    build_model,
    build_module,
    split_data_node,
)
from pspnet_lightning.config.evaluation import build_protocol
from pspnet_lightning.config.schemas import HYDRA, register_schemas
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.inference import SlidingWindow

GROUPS = ["model", "data", "augment", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger"]
GROUPS += ["experiment", "debug"]
CHOICES = [
    tuple(path.relative_to(CONFIG_DIR).with_suffix("").as_posix().split("/", 1))
    for path in sorted(CONFIG_DIR.rglob("*.yaml"))
    # Parts of others, and the group of commands that do not train.
    if path.parent not in (CONFIG_DIR, CONFIG_DIR / "evaluation")
    and path.stem not in ("base", "own")
    # Engines and recipes of sweeps: tests/cli/test_sweep.py.
    and path.relative_to(CONFIG_DIR).parts[0] not in ("hydra", "sweep")
]
TINY = ["data.train_length=8", "data.val_length=2", "data.num_workers=0", "data.batch_size=4", "data.crop_size=64"]


def composed(*overrides: str, folder: Path | None = None) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(CONFIG_DIR), **HYDRA):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    # What only a real run knows.
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder or "nowhere")
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    OmegaConf.set_struct(resolved, False)
    plain = OmegaConf.to_container(cfg, resolve=False)
    text = OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in plain.items() if key != "hydra"}))
    return OmegaConf.create(text.replace("${hydra:runtime.output_dir}", str(folder or "nowhere")))


def test_every_group_is_tested() -> None:
    assert {group for group, _ in CHOICES} == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_config_composes_and_builds(group: str, name: str, tmp_path: Path) -> None:
    if group == "experiment":
        text = (CONFIG_DIR / group / f"{name}.yaml").read_text()
        assert f"experiment={name}" in text.split("\n\n")[0], "its header shows the launch command"
    # What a user has to give: where the data lie, and the like.
    raw = composed(f"{group}={name}", folder=tmp_path)
    required = [key for key in raw.data if OmegaConf.is_missing(raw.data, key)]
    assert group in ("data", "experiment") or not required
    cfg = composed(f"{group}={name}", *(f"data.{key}=x" for key in required), folder=tmp_path)
    spec = DataSpec("x", ("a", "b"), default_palette(2))
    split_data_node(cfg.data)
    if group == "model" and "269" not in name and "152" not in name and "101" not in name:
        assert build_model(cfg.model, spec, pretrained=False).num_classes == 2
    build({**as_plain(cfg.augment), "crop_size": 33}, "augment", mean=spec.mean, ignore_index=255)
    loss = {
        key: value
        for key, value in as_plain(cfg.loss).items()
        if key not in ("aux_weight", "reduction", "class_weights")
    }
    build(loss, "loss", ignore_index=255)
    build(cfg.optimizer, "optimizer")
    build(cfg.scheduler, "scheduler")
    for part in (cfg.callbacks, cfg.logger):
        for key, node in part.items():
            if node and key != "wandb":  # a run of W&B is tested through the command line
                assert build(node, key) is not None
    trainer = as_plain(cfg.trainer)
    hydra.utils.get_object(trainer["_target_"])
    if trainer["accelerator"] != "gpu":
        assert isinstance(build({**trainer, "logger": False}, "trainer"), L.Trainer)


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONFIG_DIR / "evaluation").glob("*.yaml"))])
def test_every_protocol_composes_and_builds(name: str) -> None:
    register_schemas()
    with initialize_config_dir(str(CONFIG_DIR), **HYDRA):
        cfg = compose("evaluate", overrides=["checkpoint=x", f"evaluation={name}"])
    trained = StoredConfig(as_plain(composed("data=voc2012", "data.root=x")), "a.ckpt")
    protocol = build_protocol(cfg.evaluation, trained, "voc2012")
    assert (
        protocol.to_dict()
        == {
            "whole": SlidingWindow(None, flip=False),
            "single_scale": SlidingWindow(473, 512),
            "multi_scale": SlidingWindow(473, 512, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
        }[name].to_dict()
    )
    assert build_protocol(cfg.evaluation, trained, "other").base_size is None


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["loss=ohem", "loss.min_kept=100"],
        ["loss=weighted", "optimizer=adamw", "scheduler=cosine"],
        ["loss=ce_dice", "loss.class_weights=enet", "+loss.terms.lovasz.weight=0.5"],
        ["scheduler=constant", "loss.label_smoothing=0.1", "loss.class_weights=enet", "trainer.precision=bf16-mixed"],
        ["callbacks=ema", "callbacks.ema.decay=0.9"],
        ["model.bins=[]", "model.auxiliary=false", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1"],
        ["model.pooling=max", "model.reduction=false", "model.align_corners=false", "model.execution=concat"],
        ["model.head=uper", "model.fusion=sum"],
        ["model.head=aspp", "fast=false"],
        ["model.fusion=gate"],
        ["augment=paper", "channels_last=false"],
        ["augment=none"],
    ],
    ids=lambda overrides: " ".join(overrides) or "default",
)
def test_a_step_of_each_recipe(overrides: list[str], tmp_path: Path) -> None:
    cfg = composed(*TINY, "model.width=8", "trainer.max_steps=2", "logger=none", *overrides, folder=tmp_path)
    data = build_data(cfg)
    module = build_module(cfg, data.spec, data=data)
    before = module.model.head.classifier.weight.detach().clone()
    callbacks = [build(cfg.callbacks.ema, "ema")] if cfg.callbacks.ema else []
    options = {**as_plain(cfg.trainer), "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 1}
    trainer = build(
        {**options, "logger": False, "enable_checkpointing": False, "enable_model_summary": False},
        "trainer",
        callbacks=callbacks,
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 2
    assert (module.model.head.classifier.weight != before).any()
    assert 0 <= float(trainer.callback_metrics["val/miou"]) <= 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"bins": [1]}, "model: this node needs a _target_"),
        (
            {"_target_": "pspnet_lightning.models.build_pspnet", "binz": [1]},
            r"model\.binz: unknown key; did you mean 'bins'",
        ),
        ({"_target_": "pspnet_lightning.models.build_pspnett"}, "cannot be imported"),
        # The number of classes is the data set's; a config that sets it would be ignored.
        ({"_target_": "pspnet_lightning.models.build_pspnet", "num_classes": 3}, r"model\.num_classes: unknown key"),
    ],
)
def test_strict_nodes(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(node, "model", num_classes=2)


def test_data_keys_are_strict() -> None:
    cfg = composed()
    with pytest.raises(ValueError, match=r"data\.batchsize: unknown key; did you mean 'batch_size'"):
        split_data_node({**as_plain(cfg.data), "batchsize": 3})


def test_a_data_set_brings_its_recipe_and_the_command_line_has_the_last_word() -> None:
    assert composed().model.width == 16
    assert composed("model=pspnet50").model.depth == 50
    real = composed("data=camvid", "data.root=x")
    assert real.model.depth == 50
    assert list(real.augment.scale) == [0.5, 2.0]
    assert real.optimizer.lr == 0.01
    assert real.data.batch_size == 16
    assert composed("augment=paper").augment.rotation_probability == 0.5
    assert composed("seed=0").seed == 0
