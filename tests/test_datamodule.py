"""The loaders: every validation image once, whatever its size; mistakes named with their remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_lightning.data import EvalTransform, TrainTransform, list_file
from pspnet_lightning.data.specs import IMAGENET_MEAN
from pspnet_lightning.training.datamodule import SegmentationDataModule


def make(root: Path, **options: object) -> SegmentationDataModule:
    def source(split: str) -> object:
        return list_file(split, root=str(root), train="train.txt", val="val.txt", classes=["a", "b", "c"])

    return SegmentationDataModule(
        source,
        transform=TrainTransform(33, mean=IMAGENET_MEAN),
        eval_transform=EvalTransform(),
        **{"batch_size": 2, "num_workers": 0, **options},
    )


@pytest.mark.parametrize("val_batch_size", [1, 2, 3])
def test_validation_sees_every_image_once_at_its_own_size(small_list: Path, val_batch_size: int) -> None:
    Image.fromarray(np.zeros((40, 70, 3), np.uint8)).save(small_list / "images" / "7.png")
    Image.fromarray(np.zeros((40, 70), np.uint8)).save(small_list / "labels" / "7.png")
    loader = make(small_list, val_batch_size=val_batch_size).val_dataloader()
    seen = {}
    for batch in loader:
        for group in batch:
            for image, label, name in zip(group["image"], group["label"], group["name"], strict=True):
                assert image.shape[1:] == label.shape
                assert name not in seen
                seen[name] = tuple(label.shape)
    assert sorted(seen.values()) == [(40, 70), (48, 64), (48, 64)]


def test_class_counts_are_the_training_labels(small_list: Path) -> None:
    labels = [np.array(Image.open(small_list / "labels" / f"{number}.png")) for number in range(6)]
    assert make(small_list).class_counts().tolist() == np.bincount(np.concatenate(labels).ravel()).tolist()


def test_training_batches(small_list: Path) -> None:
    batches = list(make(small_list).train_dataloader())
    assert len(batches) == 3
    assert batches[0]["image"].shape == (2, 3, 33, 33)
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"num_workers": -1}, r"data\.num_workers=-1"),
        ({"num_workers": "many"}, r"data\.num_workers='many'"),
        ({"batch_size": 7}, r"has 6 images, fewer than data\.batch_size=7"),
        ({"overfit": 9}, r"data\.overfit=9"),
    ],
)
def test_mistakes(small_list: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(small_list, **options).train_dataloader()
