"""Medical sets: DRIVE (retinal vessels) and Kvasir-SEG (polyps)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset
from pspnet_lightning.data.encodings import BinaryLabels
from pspnet_lightning.data.pairing import Pair, pair_files, pair_stems, read_stems
from pspnet_lightning.data.public.layout import find_base, labelled_split
from pspnet_lightning.data.specs import DataSpec

DRIVE = DataSpec(name="drive", classes=("background", "vessel"), palette=((0, 0, 0), (255, 255, 255)))
KVASIR_SEG = DataSpec(name="kvasir_seg", classes=("background", "polyp"), palette=((0, 0, 0), (255, 255, 255)))


class FieldOfView:
    """DRIVE's labels: vessels within the camera's field of view; what lies outside is ignored."""

    def __init__(self) -> None:
        self.read = BinaryLabels()

    def __call__(self, path: Path, spec: DataSpec) -> np.ndarray:
        label = self.read(path, spec)
        number = path.name.split("_")[0]
        masks = sorted((path.parent.parent / "mask").glob(f"{number}_*_mask.*"))
        if not masks:
            raise FileNotFoundError(
                f"{str(path)!r} has no field of view {path.parent.parent / 'mask' / f'{number}_*_mask.gif'}: DRIVE's "
                f"mask/ has to lie beside 1st_manual/, because pixels outside the field of view are not scored"
            )
        label[self.read(masks[0], spec) == 0] = spec.ignore_index
        return label


def drive(split: str, *, root: str, val_images: Annotated[int, Ge(0)] | None = None) -> SegmentationDataset:
    """``data=drive``: ``training/{images/21_training.tif,1st_manual/21_manual1.gif,mask/...}``, the same in ``test/``.

    The 20 images of training/ train, those of test/ validate. Where test/ has no 1st_manual/ (the present download
    keeps it back), the last four of training/ validate and the others train.

    ``val_images``: so many of training/ validate, whatever test/ holds; with 0 all 20 train, for ``data.folds``.
    """
    labelled_split(split, {"train": "training", "val": "test", "test": "test"}, "DRIVE")
    base = find_base(root, "training", ["DRIVE"], "DRIVE: register at drive.grand-challenge.org and unpack it here")
    tested = (base / "test" / "1st_manual").is_dir()
    if split == "test" and not tested:
        raise ValueError(f"data.root={str(root)!r}: DRIVE's test/ has no 1st_manual/; its labels are not public")
    if split == "test" or (split == "val" and tested and val_images is None):
        folder, chosen = base / "test", slice(None)
    else:
        folder = base / "training"
        held = (0 if tested else 4) if val_images is None else val_images
        chosen = slice(-held or None) if split == "train" else slice(-held, None) if held else slice(0)
    pairs = _drive_pairs(folder)[chosen]
    if not pairs:
        raise ValueError(
            f"data.val_images={val_images} leaves no image of DRIVE's training/ for the {split} split; 0 is for "
            f"cross-validation, with data.folds=5"
        )
    return PairDataset(pairs, DRIVE, origin=str(folder), read_label=FieldOfView())


def kvasir_seg(
    split: str, *, root: str, val_images: Annotated[int, Ge(1)] = 120, split_seed: Annotated[int, Ge(0)] = 0
) -> SegmentationDataset:
    """``data=kvasir_seg``: ``images/*.jpg`` and ``masks/*.jpg`` of 1,000 polyps.

    The split is that of ``train.txt`` and ``val.txt`` where they are there (880 and 120 stems); else ``val_images``
    are drawn by ``split_seed``.
    """
    name = labelled_split(split, {"train": "train", "val": "val"}, "Kvasir-SEG")
    base = find_base(
        root,
        "masks",
        ["Kvasir-SEG", "kvasir-seg"],
        "Kvasir-SEG: download kvasir-seg.zip from datasets.simula.no/kvasir-seg and unpack it here",
    )
    listed = base / f"{name}.txt"
    if listed.is_file():
        stems = [Path(stem).stem for stem in read_stems(listed)]
        pairs = pair_stems(base / "images", base / "masks", stems, ".jpg", ".jpg")
    else:
        every = pair_files(base / "images", base / "masks")
        if not 0 < val_images < len(every):
            raise ValueError(f"data.val_images={val_images} must lie in 1..{len(every) - 1}, the images there are")
        order = np.random.default_rng(split_seed).permutation(len(every)).tolist()
        pairs = [every[index] for index in sorted(order[:val_images] if name == "val" else order[val_images:])]
    return PairDataset(pairs, KVASIR_SEG, origin=str(base), read_label=BinaryLabels())


def _drive_pairs(folder: Path) -> list[Pair]:
    """21_training.tif belongs to 21_manual1.gif: the number is the key."""
    images = {path.name.split("_")[0]: path for path in sorted((folder / "images").glob("*_*.tif"))}
    labels = {path.name.split("_")[0]: path for path in sorted((folder / "1st_manual").glob("*_manual1.*"))}
    without = [path.name for number, path in images.items() if number not in labels]
    if without:
        raise ValueError(f"{str(folder)!r}: images without label in 1st_manual/: {', '.join(without)}")
    return [(path, labels[number]) for number, path in images.items()]
