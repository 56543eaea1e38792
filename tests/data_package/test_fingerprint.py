"""The data set's fingerprint: the same for the same files anywhere, another for other content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pspnet_lightning.data import FoldSource, SegmentationDataset, Subset, fingerprint, list_file
from pspnet_lightning.data.scenes import scenes


def opened(root: Path, **options: object) -> list[SegmentationDataset]:
    return [
        list_file(split, root=str(root), train="train.txt", val="val.txt", classes=["a", "b", "c"], **options)
        for split in ("train", "val")
    ]


def test_the_same_wherever_it_lies_and_whenever_it_was_copied(small_list: Path, tmp_path: Path) -> None:
    expected = fingerprint(opened(small_list))
    moved = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(small_list, moved)
    for file in moved.rglob("*.png"):
        os.utime(file, (1, 1))
    assert fingerprint(opened(moved)) == expected
    assert fingerprint(opened(Path(os.path.relpath(moved)))) == expected


def test_another_for_other_content(small_list: Path) -> None:
    seen = {fingerprint(opened(small_list))}

    def changed() -> None:
        now = fingerprint(opened(small_list))
        assert now not in seen
        seen.add(now)

    label = small_list / "labels" / "2.png"
    content = bytearray(label.read_bytes())
    content[-20] ^= 1  # one bit, the size stays
    label.write_bytes(content)
    changed()
    (small_list / "images" / "5.png").write_bytes((small_list / "images" / "4.png").read_bytes())
    changed()
    lines = (small_list / "train.txt").read_text().splitlines(keepends=True)
    (small_list / "train.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))
    changed()
    (small_list / "train.txt").write_text("".join(lines[:-1]))
    changed()
    splits = opened(small_list)
    assert fingerprint(splits) != fingerprint(splits[::-1])


def test_big_files_are_read_at_both_ends(small_list: Path) -> None:
    splits = opened(small_list)  # only names, sizes and bytes count, not what decodes
    image = small_list / "images" / "0.png"
    big = bytearray(3 * 1024 * 1024)
    image.write_bytes(big)
    before = fingerprint(splits)
    for position, seen in ((0, True), (len(big) - 1, True), (len(big) // 2, False)):
        big[position] = 1
        image.write_bytes(big)
        assert (fingerprint(splits) != before) == seen
        big[position] = 0


def test_generated_data_by_its_parameters() -> None:
    first = fingerprint([scenes("train")])
    assert fingerprint([scenes("train")]) == first
    others = [
        scenes("val", val_length=1600),
        scenes("train", seed=1),
        scenes("train", size=97),
        scenes("train", train_length=1599),
        Subset(scenes("train"), range(1, 1600)),
    ]
    assert len({first, *(fingerprint([other]) for other in others)}) == 6


def test_folds_differ() -> None:
    source = lambda split: scenes(split, train_length=12)  # noqa: E731
    prints = {
        fingerprint([FoldSource(source, folds=3, fold=fold)(split) for split in ("train", "val")]) for fold in range(3)
    }
    assert len(prints) == 3
