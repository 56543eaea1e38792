"""`pspnet-audit RUN_OR_SWEEP`: the regions whose label is most likely wrong, as a page and a table to review."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from pspnet_lightning.config import as_plain, build_eval_data, build_source, check_config
from pspnet_lightning.config.evaluation import trained_crop
from pspnet_lightning.data import FoldSource, SegmentationDataset
from pspnet_lightning.data.reviewed import fix_names
from pspnet_lightning.inference.predictor import Predictor
from pspnet_lightning.launch.app import relative, run, track
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.launch.words import command_words
from pspnet_lightning.metrics import Answer
from pspnet_lightning.report.audit import Find, write_audit
from pspnet_lightning.runs import Job, best_group, group_jobs, job_folders, read_job, read_sweep
from pspnet_lightning.runs.label_issues import LabelIssues
from pspnet_lightning.runs.stored_network import StoredNetwork, read_network


def main() -> None:
    """The console script."""
    _, sys.argv[1:] = command_words("audit", sys.argv[1:])
    run("audit", audit)


def audit(cfg: DictConfig) -> None:
    """Predicts the images that each run has not trained on, writes audit.html, audit.csv and the proposed labels.

    Raises ValueError for a folder without a run that has finished, and where the runs' classes differ.
    """
    check_config(cfg, "audit")
    networks = [read_network([str(path) for path in paths], cfg.trust) for paths in _checkpoints(Path(cfg.folder))]
    folder = Path(cfg.output or Path(cfg.folder) / "audit")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"output={str(folder)!r}", "give another output=..."):
        _audit(cfg, networks, folder)


def _audit(cfg: DictConfig, networks: Sequence[StoredNetwork], folder: Path) -> None:
    spec = networks[0].spec
    issues = LabelIssues(spec.num_classes, spec.ignore_index, cfg.smallest)
    images: list[tuple[SegmentationDataset, int]] = []
    for network in networks:
        if network.spec.classes != spec.classes:
            raise ValueError(f"{network.name} has other classes than {networks[0].name}: audit them one by one")
        node = {**network.config.node("data"), **as_plain(cfg.data)}
        data = build_eval_data(node, network.spec, seed=network.config.get("seed", 0)).split("val")
        protocol = network.protocol(cfg.evaluation, spec.name)
        predictor = Predictor(network.rebuild(), protocol, trained_crop(network.config), device=cfg.device)
        for index in track(range(len(data)), len(data), text=f"predicting by {network.paths[0]}"):
            image, label = data.read(index)
            probabilities = predictor.probabilities(image)
            prediction = probabilities.argmax(0).astype(np.uint8)
            issues.add(len(images), Answer(prediction, label, probabilities))
            images.append((data, index))
    regions = issues.regions()
    listed = [Find(region, *images[region.image]) for region in regions[: cfg.limit]]
    held = {find.name for find in listed}
    print(
        f"{len(images)} images of {spec.name}, predicted by {len(networks)} networks that were not trained on them; "
        f"{len(regions)} regions whose label may be wrong, {len(listed)} listed, of {len(held)} images"
    )
    node = {**networks[0].config.node("data"), **as_plain(cfg.data)}
    source = build_source(node)
    split = "train" if isinstance(source, FoldSource) else "val"
    whole = source.source(split) if isinstance(source, FoldSource) else source(split)
    paths = dict(zip((whole.name(index) for index in range(len(whole))), fix_names(whole), strict=True))
    for path in write_audit(listed, folder, spec, split, paths):
        print(relative(path), flush=True)


def _checkpoints(folder: Path) -> list[list[Path]]:
    """Of each fold, or of the one validation split, the best checkpoints of its seeds."""
    if not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} is no folder of a run or a sweep")
    jobs: Sequence[Job] = [read_job(folder)]
    if not _best(folder).is_file() and any(job_folders(folder)):
        group = best_group(group_jobs(read_sweep(folder)))
        jobs = () if group is None else group.jobs
    found: dict[str, list[Path]] = {}
    for job in jobs:
        if _best(job.folder).is_file():
            found.setdefault(job.setting("data.fold"), []).append(_best(job.folder))
    if not found:
        raise ValueError(f"folder={str(folder)!r} holds no finished run with checkpoints/best.ckpt")
    return list(found.values())


def _best(folder: Path) -> Path:
    return folder / "checkpoints" / "best.ckpt"
