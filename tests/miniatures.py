"""Each benchmark's layout in miniature, written to a folder: four or more training images, two for validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.io import savemat

from pspnet_lightning.data.public.aerial import POTSDAM_TRAIN, POTSDAM_VAL, VAIHINGEN_TRAIN, VAIHINGEN_VAL
from pspnet_lightning.data.specs import known_classes

SIZE = (48, 64)


def blocks(values: list[int], seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label map of 16 x 16 blocks of ``values``, each of which occurs."""
    generator = np.random.default_rng(seed)
    rows, columns = size[0] // 16, size[1] // 16
    cells = generator.permutation(np.resize(values, rows * columns)).reshape(rows, columns)
    return np.kron(cells, np.ones((16, 16))).astype(np.uint8)


def picture(label: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(label.sum())).integers(0, 40, (*label.shape, 3))
    return np.clip(label[..., None] % 7 * 30 + noise, 0, 255).astype(np.uint8)


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)


def lines(path: Path, stems: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


def ade20k(root: Path) -> None:
    for split, count in (("training", 4), ("validation", 2)):
        for number in range(count):
            label = blocks([0, 1, 2, 150], number)
            save(picture(label), root / "ADEChallengeData2016" / "images" / split / f"ADE_{number:08}.jpg")
            save(label, root / "ADEChallengeData2016" / "annotations" / split / f"ADE_{number:08}.png")


def cityscapes(root: Path, tail: str = "labelIds", values: tuple[int, ...] = (0, 7, 8, 33)) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            label = blocks(list(values), number)
            stem = f"{split}/aachen/aachen_{number:06}_000019"
            save(picture(label), root / "leftImg8bit" / f"{stem}_leftImg8bit.png")
            save(label, root / "gtFine" / f"{stem}_gtFine_{tail}.png")
            save(label, root / "gtFine" / f"{stem}_gtFine_instanceIds.png")


def voc2012(root: Path, folder: str = "SegmentationClass") -> None:
    base = root / "VOCdevkit" / "VOC2012"
    palette = np.array(known_classes("voc2012")[1], np.uint8)
    for split, first, count in (("train", 0, 4), ("val", 4, 2)):
        stems = [f"2007_{number:06}" for number in range(first, first + count)]
        lines(base / "ImageSets" / "Segmentation" / f"{split}.txt", stems)
        for number, stem in enumerate(stems):
            label = blocks([0, 1, 20, 255], first + number)
            save(picture(label), base / "JPEGImages" / f"{stem}.jpg")
            indexed = Image.fromarray(label, mode="P")
            indexed.putpalette(np.concatenate([palette, np.zeros((235, 3), np.uint8)]).tobytes())
            (base / folder).mkdir(exist_ok=True)
            indexed.save(base / folder / f"{stem}.png")


def voc2012_aug(root: Path) -> None:
    """VOC and SBD: 4 + 3 training images, of which SBD knows two of VOC's and one of its val."""
    voc2012(root)
    sbd = root / "benchmark_RELEASE" / "dataset"
    stems = ["2007_000000", "2007_000001", "2007_000004", "2008_000001", "2008_000002", "2008_000003"]
    lines(sbd / "train.txt", stems[:4])
    lines(sbd / "val.txt", stems[4:])
    (sbd / "cls").mkdir()
    for number, stem in enumerate(stems):
        label = blocks([0, 2, 3], number)
        save(picture(label), root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{stem}.jpg")
        savemat(sbd / "cls" / f"{stem}.mat", {"GTcls": {"Segmentation": label}})


def pascal_context(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2010"
    for split, first, count in (("train", 0, 4), ("val", 4, 2)):
        stems = [f"2008_{number:06}" for number in range(first, first + count)]
        lines(base / "ImageSets" / "SegmentationContext" / f"{split}.txt", stems)
        for number, stem in enumerate(stems):
            label = blocks([0, 1, 59], number)
            save(picture(label), base / "JPEGImages" / f"{stem}.jpg")
            save(label, base / "SegmentationClassContext" / f"{stem}.png")


def coco_stuff164k(root: Path) -> None:
    for split, count in (("train2017", 4), ("val2017", 2)):
        for number in range(count):
            label = blocks([0, 12, 181, 255], number)
            save(picture(label), root / "images" / split / f"{number:012}.jpg")
            save(label, root / "annotations" / split / f"{number:012}.png")


def loveda(root: Path) -> None:
    for split in ("Train", "Val"):
        for kind in ("Rural", "Urban"):
            for number in range(2):
                label = blocks([0, 1, 7], number)
                save(picture(label), root / split / kind / "images_png" / f"{number}.png")
                save(label, root / split / kind / "masks_png" / f"{number}.png")


def _isprs(image: Path, label: Path, seed: int) -> None:
    classes = blocks([0, 1, 2, 3, 4, 5], seed, (96, 128))
    save(picture(classes), image)
    save(np.array(known_classes("isprs")[1], np.uint8)[classes], label)


def potsdam(root: Path) -> None:
    for number in (*POTSDAM_TRAIN, *POTSDAM_VAL):
        _isprs(
            root / "2_Ortho_RGB" / f"top_potsdam_{number}_RGB.tif",
            root / "5_Labels_all" / f"top_potsdam_{number}_label.tif",
            len(number),
        )


def vaihingen(root: Path) -> None:
    for number in (*VAIHINGEN_TRAIN, *VAIHINGEN_VAL):
        name = f"top_mosaic_09cm_area{number}.tif"
        _isprs(root / "top" / name, root / "gts_for_participants" / name, number)


def drive(root: Path) -> None:
    for split, first in (("training", 21), ("test", 1)):
        for number in range(first, first + 4):
            label = blocks([0, 255], number)
            view = np.full(SIZE, 255, np.uint8)
            view[:8] = 0
            save(picture(label), root / split / "images" / f"{number:02}_{split}.tif")
            save(label, root / split / "1st_manual" / f"{number:02}_manual1.gif")
            save(view, root / split / "mask" / f"{number:02}_{split}_mask.gif")


def kvasir_seg(root: Path) -> None:
    for number in range(6):
        label = blocks([0, 255], number)
        save(picture(label), root / "Kvasir-SEG" / "images" / f"cju{number}.jpg")
        save(np.repeat(label[..., None], 3, 2), root / "Kvasir-SEG" / "masks" / f"cju{number}.jpg")


def oxford_pet(root: Path) -> None:
    for split, first, count in (("trainval", 0, 4), ("test", 4, 2)):
        stems = [f"Abyssinian_{number}" for number in range(first, first + count)]
        lines(root / "annotations" / f"{split}.txt", [f"{stem} 1 1 1" for stem in stems])
        for number, stem in enumerate(stems):
            label = blocks([1, 2, 3], number)
            save(picture(label), root / "images" / f"{stem}.jpg")
            save(label, root / "annotations" / "trimaps" / f"{stem}.png")


def camvid(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            label = blocks([0, 3, 10, 11], number)
            save(picture(label), root / split / f"{number}.png")
            save(label, root / f"{split}annot" / f"{number}.png")


MINIATURES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        ade20k,
        camvid,
        cityscapes,
        coco_stuff164k,
        drive,
        kvasir_seg,
        loveda,
        oxford_pet,
        pascal_context,
        potsdam,
        vaihingen,
        voc2012,
        voc2012_aug,
    )
}
# The smallest settings in which each trains.
SETTINGS = {
    "kvasir_seg": ["data.val_images=2"],
    "potsdam": ["data.tile_size=64", "data.overlap=32"],
    "vaihingen": ["data.tile_size=64", "data.overlap=32"],
}
