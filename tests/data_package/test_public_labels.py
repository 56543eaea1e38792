"""Every class, colour, raw value and split of the public data sets, against other people's tables (tests/vectors)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from miniatures import MINIATURES, cityscapes

from pspnet_lightning.data import DataSpec, public
from pspnet_lightning.data.public import aerial, camvid, medical, pets, scene_parsing, voc
from pspnet_lightning.data.specs import known_classes
from pspnet_lightning.data.submission import prediction_files

TABLES: dict[str, dict[str, Any]] = json.loads((REPOSITORY / "tests" / "vectors" / "public_labels.json").read_text())
# Of each: the spec, and whether its files hold labels as they are.
SPECS: dict[str, tuple[DataSpec, bool]] = {
    "ade20k": (scene_parsing.ADE20K, False),
    "camvid": (camvid.CAMVID, False),
    "cityscapes": (scene_parsing.CITYSCAPES_LABEL_IDS, False),
    "coco_stuff164k": (scene_parsing.COCO_STUFF_RAW, False),
    "loveda": (aerial.LOVEDA, False),
    "oxford_pet": (pets.OXFORD_PET, False),
    "pascal_context": (voc.PASCAL_CONTEXT_60, True),
    "pascal_context59": (voc.PASCAL_CONTEXT_59, False),
    "voc2012": (voc.VOC2012, True),
}


def names(rows: list[list[Any]]) -> list[str]:
    return [row[1] for row in rows]


@pytest.mark.parametrize("name", SPECS)
def test_every_class_colour_and_raw_value(name: str) -> None:
    spec, as_they_are = SPECS[name]
    rows, ignored = TABLES[name]["rows"], TABLES[name]["ignored"]
    ours = [entry.replace(" ", "") for entry in spec.classes] if name == "camvid" else list(spec.classes)
    theirs = [entry.lower() for entry in names(rows)] if name == "camvid" else names(rows)
    assert ours == theirs
    if name != "oxford_pet":  # it has no colours of its own
        assert [list(colour) for colour in spec.palette] == [row[2:] for row in rows]
    expected = {row[0]: label for label, row in enumerate(rows)} | dict.fromkeys(ignored, 255)
    if name == "cityscapes":
        expected[34] = 255  # the licence plate in label files of other tools; the official -1 is 255 in 8 bits
    assert spec.label_map is None if as_they_are else dict(spec.label_map or {}) == expected
    table, foreign = spec.lookup
    for raw in range(256):
        assert table[raw] == expected.get(raw, 255 if raw == 255 else foreign), raw


def test_the_specs_of_converted_files_have_the_same_classes() -> None:
    for plain, mapped in (
        (scene_parsing.CITYSCAPES_TRAIN_IDS, scene_parsing.CITYSCAPES_LABEL_IDS),
        (scene_parsing.COCO_STUFF_TRAIN_IDS, scene_parsing.COCO_STUFF_RAW),
    ):
        assert plain.label_map is None
        assert (plain.classes, plain.palette) == (mapped.classes, mapped.palette)


def test_two_classes_without_a_table_of_others() -> None:
    for spec, thing in ((medical.DRIVE, "vessel"), (medical.KVASIR_SEG, "polyp")):
        assert (spec.classes, spec.label_map) == (("background", thing), None)
        assert spec.palette == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("name", ["potsdam", "vaihingen"])
def test_isprs_colours_and_splits(name: str, tmp_path: Path) -> None:
    rows, splits = TABLES[name]["rows"], TABLES[name]["splits"]
    MINIATURES[name](tmp_path)
    for clutter in (True, False):
        data = getattr(public, name)("train", root=str(tmp_path), tile_size=64, overlap=0, clutter=clutter)
        count = 6 if clutter else 5
        assert list(data.spec.classes) == names(rows)[:count]
        assert [list(colour) for colour in data.spec.palette] == [row[2:] for row in rows][:count]
        pixels = np.array([[*(row[2:] for row in rows), [0, 0, 0]]], np.uint8)
        decoded = data.coding.decode(pixels, data.spec, tmp_path)
        assert decoded.tolist() == [[0, 1, 2, 3, 4, 5 if clutter else 255, 255]]
    ours = {
        "potsdam": (aerial.POTSDAM_TRAIN, aerial.POTSDAM_VAL),
        "vaihingen": (map(str, aerial.VAIHINGEN_TRAIN), map(str, aerial.VAIHINGEN_VAL)),
    }[name]
    assert [sorted(split) for split in ours] == [splits["train"], splits["test"]]


def test_vocs_colours_are_the_bits_of_the_label() -> None:
    """PASCAL's devkit: the bits of a label, three at a time, fill red, green and blue from the highest bit down."""
    bits = [[sum((label >> (3 * n + c) & 1) << (7 - n) for n in range(3)) for c in range(3)] for label in range(21)]
    assert [list(colour) for colour in known_classes("voc2012")[1]] == bits


def test_what_the_servers_take(tmp_path: Path) -> None:
    cityscapes(tmp_path / "city")
    files = prediction_files(public.cityscapes("val", root=str(tmp_path / "city")), "val")
    assert files.values[:19].tolist() == [row[0] for row in TABLES["cityscapes"]["rows"]]
    MINIATURES["ade20k"](tmp_path / "ade")
    files = prediction_files(public.ade20k("val", root=str(tmp_path / "ade")), "val")
    assert files.values[:150].tolist() == [row[0] for row in TABLES["ade20k"]["rows"]]


def test_every_public_data_set_is_compared() -> None:
    compared = {*SPECS, "potsdam", "vaihingen", "drive", "kvasir_seg", "voc2012_aug"} - {"pascal_context59", "camvid"}
    assert compared == set(public.__all__) - {"camvid"}
    assert set(TABLES) == {*SPECS, "potsdam", "vaihingen"}
