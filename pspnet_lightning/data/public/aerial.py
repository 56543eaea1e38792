"""Remote sensing: LoveDA, ISPRS Potsdam and Vaihingen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset
from pspnet_lightning.data.encodings import ColourLabels
from pspnet_lightning.data.pairing import Pair, pair_files
from pspnet_lightning.data.public.layout import find_base, labelled_split
from pspnet_lightning.data.specs import DataSpec, known_classes, public_spec
from pspnet_lightning.data.tiles import TiledDataset

# 0 is no data; 1..7 are the classes.
LOVEDA = public_spec("loveda", label_map={0: 255, **{raw: raw - 1 for raw in range(1, 8)}})
_NAMES, _COLOURS = known_classes("isprs")
# Boundaries eroded by three pixels, in the sets made for scoring, are black.
_ISPRS_LABELS = ColourLabels({**{colour: label for label, colour in enumerate(_COLOURS)}, (0, 0, 0): 255})

# The tiles whose labels were public from the first train, as in the published results (and mmsegmentation).
POTSDAM_TRAIN = tuple(f"{row}_{column}" for row in range(2, 6) for column in (10, 11, 12)) + tuple(
    f"{row}_{column}" for row in (6, 7) for column in range(7, 13)
)
POTSDAM_VAL = (
    "2_13",
    "2_14",
    "3_13",
    "3_14",
    "4_13",
    "4_14",
    "4_15",
    "5_13",
    "5_14",
    "5_15",
    "6_13",
    "6_14",
    "6_15",
    "7_13",
)
VAIHINGEN_TRAIN = (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)
VAIHINGEN_VAL = (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)


def loveda(split: str, *, root: str, scene: Literal["Rural", "Urban"] | None = None) -> SegmentationDataset:
    """``data=loveda``: ``{Train,Val}/{Rural,Urban}/{images_png,masks_png}``, 7 classes; ``scene``: one of both."""
    name = labelled_split(split, {"train": "Train", "val": "Val"}, "LoveDA")
    if scene not in (None, "Rural", "Urban"):
        raise ValueError(f"data.scene={scene!r} must be null, Rural or Urban")
    base = find_base(
        root, name, ["LoveDA"], "LoveDA: unpack Train.zip and Val.zip (zenodo.org/record/5706578) into this folder"
    )
    pairs: list[Pair] = []
    for kind in (scene,) if scene else ("Rural", "Urban"):
        pairs += pair_files(base / name / kind / "images_png", base / name / kind / "masks_png", (".png",), (".png",))
    return PairDataset(pairs, LOVEDA, origin=str(base / name))


def potsdam(
    split: str,
    *,
    root: str,
    bands: Literal["RGB", "IRRG"] = "RGB",
    tile_size: Annotated[int, Ge(1)] = 512,
    overlap: Annotated[int, Ge(0)] = 256,
    clutter: bool = True,
) -> SegmentationDataset:
    """``data=potsdam``: ``2_Ortho_RGB/top_potsdam_2_10_RGB.tif`` (or ``3_Ortho_IRRG``), ``5_Labels_all/..._label.tif``.

    6000 x 6000 tiles are cut on the fly; see ``TiledDataset``. ``bands`` is RGB or IRRG; ``clutter=False`` ignores
    the sixth class, as some published tables do.
    """
    numbers = {"train": POTSDAM_TRAIN, "val": POTSDAM_VAL}
    labelled_split(split, {"train": "train", "val": "val"}, "Potsdam")
    folders = {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG"}
    if bands not in folders:
        raise ValueError(f"data.bands={bands!r} must be RGB or IRRG")
    remedy = "Potsdam: ask for it at isprs.org (2D Semantic Labeling), unpack 2_Ortho_RGB.zip and 5_Labels_all.zip here"
    base = find_base(root, "5_Labels_all", ["Potsdam", "potsdam"], remedy)
    pairs = [
        (
            base / folders[bands] / f"top_potsdam_{number}_{bands}.tif",
            base / "5_Labels_all" / f"top_potsdam_{number}_label.tif",
        )
        for number in numbers[split]
    ]
    return _tiled(split, "potsdam", pairs, tile_size, overlap, clutter, base)


def vaihingen(
    split: str,
    *,
    root: str,
    tile_size: Annotated[int, Ge(1)] = 512,
    overlap: Annotated[int, Ge(0)] = 256,
    clutter: bool = True,
) -> SegmentationDataset:
    """``data=vaihingen``: ``top/top_mosaic_09cm_area1.tif`` (IR-R-G) and ``gts_for_participants/`` of the same name."""
    numbers = {"train": VAIHINGEN_TRAIN, "val": VAIHINGEN_VAL}
    labelled_split(split, {"train": "train", "val": "val"}, "Vaihingen")
    remedy = (
        "Vaihingen: ask at isprs.org (2D Semantic Labeling); unpack ISPRS_semantic_labeling_Vaihingen.zip here and "
        "the complete ground truth for the val split"
    )
    base = find_base(root, "top", ["Vaihingen", "vaihingen"], remedy)
    labels = next(
        (folder for folder in (base / "gts_complete", base / "gts_for_participants") if folder.is_dir()), None
    )
    if labels is None:
        raise FileNotFoundError(f"data.root={str(root)!r} has no gts_for_participants/. {remedy}")
    pairs = [
        (base / "top" / f"top_mosaic_09cm_area{number}.tif", labels / f"top_mosaic_09cm_area{number}.tif")
        for number in numbers[split]
    ]
    return _tiled(split, "vaihingen", pairs, tile_size, overlap, clutter, base)


def _tiled(
    split: str, name: str, pairs: list[Pair], tile_size: int, overlap: int, clutter: bool, base: Path
) -> SegmentationDataset:
    count = 6 if clutter else 5
    spec = DataSpec(name=name, classes=_NAMES[:count], palette=_COLOURS[:count])
    coding = _ISPRS_LABELS if clutter else ColourLabels({**_ISPRS_LABELS.colours, _COLOURS[5]: 255})
    # Validation counts every pixel once: no overlap there.
    return TiledDataset(
        pairs, spec, tile_size=tile_size, overlap=overlap if split == "train" else 0, origin=str(base), coding=coding
    )
