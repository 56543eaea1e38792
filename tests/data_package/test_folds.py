"""Folds: every image validates once, classes are spread, groups stay together, and the command takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Run, list_arguments

from pspnet_lightning.data import FoldSource
from pspnet_lightning.data.folds import group_names, stratified_folds
from pspnet_lightning.data.scenes import scenes


def rare_classes(count: int = 200) -> np.ndarray:
    generator = np.random.default_rng(3)
    return generator.random((count, 8)) < np.array([1.0, 0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03])


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_every_class_is_spread_over_the_folds(folds: int) -> None:
    found = rare_classes()
    assigned = stratified_folds(found, folds)
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.max() - sizes.min() <= 0.1 * sizes.mean() + 1
    for column in range(found.shape[1]):
        counts = np.bincount(assigned[found[:, column]], minlength=folds)
        wanted = found[:, column].sum() / folds
        assert abs(counts - wanted).max() <= max(1.0, 0.15 * wanted)


def test_better_than_chance_and_deterministic() -> None:
    found = rare_classes()
    assigned = stratified_folds(found, 5, seed=1)
    assert np.array_equal(assigned, stratified_folds(found, 5, seed=1))
    assert not np.array_equal(assigned, stratified_folds(found, 5, seed=2))

    def unevenness(folds: np.ndarray) -> float:
        # Of classes with more than a few images: six can be no more even over five folds than by chance.
        shares = np.stack([found[folds == fold][:, 1:6].mean(0) for fold in range(5)])
        return float((shares.std(0) / shares.mean(0)).mean())

    chance = np.mean([unevenness(np.random.default_rng(seed).permutation(200) % 5) for seed in range(20)])
    assert unevenness(assigned) < 0.35 * chance


def test_groups_stay_together() -> None:
    found = rare_classes()
    groups = [f"patient{number // 7}" for number in range(len(found))]
    assigned = stratified_folds(found, 4, groups=groups)
    for group in set(groups):
        assert len({fold for fold, name in zip(assigned.tolist(), groups, strict=True) if name == group}) == 1
    sizes = np.bincount(assigned, minlength=4)
    assert sizes.max() - sizes.min() <= 14
    with pytest.raises(ValueError, match="there are only 29 groups"):
        stratified_folds(found, 30, groups=groups)


def test_group_patterns() -> None:
    assert group_names(["a/seq1_001.png", "a/seq2_001.png"], r"(seq\d+)_") == ["seq1", "seq2"]
    assert group_names(["p01_x", "p02_x"], r"p\d\d") == ["p01", "p02"]
    with pytest.raises(ValueError, match="does not match the image 'x'"):
        group_names(["x"], r"p\d")
    with pytest.raises(ValueError, match="not a regular expression"):
        group_names(["x"], "(")


def test_every_image_validates_exactly_once() -> None:
    def source(split: str) -> object:
        return scenes(split, train_length=23, val_length=4)

    seen = []
    for fold in range(5):
        folded = FoldSource(source, folds=5, fold=fold)
        train, val = folded("train"), folded("val")
        names = {val.name(index) for index in range(len(val))}
        assert not names & {train.name(index) for index in range(len(train))}
        assert len(train) + len(val) == 23
        seen += sorted(names)
    assert len(seen) == len(set(seen)) == 23


def test_a_sweep_over_folds(command: Run, small_list: Path, tmp_path: Path) -> None:
    arguments = [*list_arguments(small_list), "data.folds=3", "callbacks.pictures=null", "hydra.sweep.dir=sweep"]
    result = command("train", "-m", "data.fold=0,1,2", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/results.json")) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.folds=3", "data.fold=3"], "data.fold=3 must lie in 0..2"),
        (["data.folds=1"], "data.folds=1 must be 0"),
        (["data.fold=2"], "data.fold=2 has no meaning without data.folds"),
        (["data.folds=7"], "there are only 6 images"),
        (["data.folds=2", "data.group='z(x)'"], "does not match the image"),
    ],
)
def test_mistakes(command: Run, small_list: Path, arguments: list[str], message: str) -> None:
    result = command("train", *list_arguments(small_list), *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
