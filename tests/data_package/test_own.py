"""data=folder and data=list with every way of coding labels, channels and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SMALL, Run
from miniatures import blocks, picture, save
from PIL import Image

from pspnet_lightning import load
from pspnet_lightning.config import build_source
from pspnet_lightning.data import TrainTransform, folder, list_file
from pspnet_lightning.data.combined import majority
from pspnet_lightning.data.folds import shared_groups
from pspnet_lightning.data.tiles import TiledDataset, cut

CLASSES = ["a", "b", "c"]


def make(root: Path, *, count: int = 10, images: str = "images", masks: str = "masks") -> None:
    for number in range(count):
        label = blocks([0, 1, 2], number)
        save(picture(label), root / images / f"{number:02}.png")
        save(label, root / masks / f"{number:02}.png")


def names(data: object) -> list[str]:
    return [Path(data.name(index)).stem for index in range(len(data))]


def test_splits_by_fraction_by_folder_and_by_list(tmp_path: Path) -> None:
    make(tmp_path / "fraction")
    options = {"root": str(tmp_path / "fraction"), "classes": CLASSES}
    train, val = folder("train", **options), folder("val", **options)
    assert (len(train), len(val)) == (8, 2)
    assert sorted(names(train) + names(val)) == [f"{number:02}" for number in range(10)]
    assert names(folder("val", **options)) == names(val) != names(folder("val", **options, split_seed=1))

    (tmp_path / "fraction" / "train.txt").write_text("00\n01.png\nimages/02.png\n")
    (tmp_path / "fraction" / "val.txt").write_text("03\n")
    listed = {**options, "train": "train.txt", "val": "val.txt"}
    assert names(folder("train", **listed)) == ["00", "01", "02"]

    for parts in (("train/images", "train/masks"), ("images/train", "masks/train")):
        root = tmp_path / parts[0].replace("/", "_")
        make(root, images=parts[0], masks=parts[1])
        assert len(folder("train", root=str(root), classes=CLASSES)) == 10
        with pytest.raises(FileNotFoundError, match="has a train folder but none for val"):
            folder("val", root=str(root), classes=CLASSES)


def test_colour_coded_masks(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("# r g b name\n0 0 0 soil\n10 200 30 crop\n20 210 30 crop\n255 0 0 ignore\n")
    label = np.zeros((32, 48, 3), np.uint8)
    label[:8], label[8:16], label[16:20] = (10, 200, 30), (20, 210, 30), (255, 0, 0)
    for number in range(3):
        save(label, tmp_path / "masks" / f"{number}.png")
        save(picture(label[..., 0]), tmp_path / "images" / f"{number}.jpg")
    options = {"root": str(tmp_path), "classes": None, "labels": "colour", "colour_map": "map.txt", "val_fraction": 0.4}
    data = folder("train", **options)
    assert data.spec.classes == ("soil", "crop")
    assert [int(data.read(0)[1][row, 0]) for row in (0, 8, 16, 31)] == [1, 1, 255, 0]
    label[0, :2] = (1, 2, 3)
    for number in range(3):
        save(label, tmp_path / "masks" / f"{number}.png")
    with pytest.raises(ValueError, match=r"colours that the colour map .* does not name: \(1, 2, 3\) in 2 pixels"):
        data.read(0)


def test_binary_jpeg_masks(tmp_path: Path) -> None:
    for number in range(4):
        label = blocks([0, 255], number)
        save(picture(label), tmp_path / "images" / f"{number}.png")
        save(label, tmp_path / "masks" / f"{number}.jpg")
    data = folder("train", root=str(tmp_path), classes=["no", "yes"], labels="binary", val_fraction=0.25)
    assert set(np.unique(data.read(0)[1])) == {0, 1}
    assert data.read(0)[1].mean() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["planes_first", "planes_last"])
def test_multi_band_sixteen_bit_images(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 60000, (5, 48, 64, 6), dtype=np.uint16)
    for number, image in enumerate(pixels):
        (tmp_path / "images").mkdir(exist_ok=True)
        written = np.moveaxis(image, 2, 0) if kind == "planes_first" else image
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", written, photometric="minisblack")
        save(blocks([0, 1, 2], number), tmp_path / "masks" / f"{number}.png")
    options = {"root": str(tmp_path), "classes": CLASSES, "channels": 6}
    train, val = folder("train", **options), folder("val", **options)
    image, label = train.read(0)
    assert image.dtype == np.float32
    assert np.array_equal(image, pixels[int(names(train)[0])])
    assert train.spec == val.spec
    used = np.concatenate([pixels[int(name)].reshape(-1, 6) for name in names(train)]).astype(float)
    assert train.spec.mean == pytest.approx(used.mean(0), rel=1e-5)
    assert train.spec.std == pytest.approx(used.std(0), rel=1e-5)
    chosen = folder("train", **{**options, "channels": 2, "bands": [5, 0]})
    assert np.array_equal(chosen.read(0)[0], image[..., [5, 0]])
    crop, crop_label = TrainTransform(33, mean=train.spec.mean)(image, label, np.random.default_rng(0))
    assert crop.shape == (33, 33, 6)
    assert crop.dtype == np.float32
    assert crop_label.shape == (33, 33)
    with pytest.raises(ValueError, match="has 6 channels, expected 4"):
        folder("train", root=str(tmp_path), classes=CLASSES, channels=4, mean=[0.0] * 4).read(0)


def test_grey_images(tmp_path: Path) -> None:
    for number in range(4):
        label = blocks([0, 1, 2], number)
        save(picture(label)[..., 0], tmp_path / "images" / f"{number}.png")
        save(label, tmp_path / "masks" / f"{number}.png")
    data = folder("train", root=str(tmp_path), classes=CLASSES, channels=1)
    image, label = data.read(0)
    assert image.shape == (*label.shape, 1)
    assert len(data.spec.mean) == 1
    assert TrainTransform(40, mean=data.spec.mean)(image, label, np.random.default_rng(1))[0].shape == (40, 40, 1)


def test_palette_png_gives_its_indices(tmp_path: Path) -> None:
    for number in range(2):
        label = blocks([0, 1, 2], number)
        save(picture(label), tmp_path / f"{number}.jpg")
        indexed = Image.fromarray(label, mode="P")
        indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        indexed.save(tmp_path / f"{number}.png")
    (tmp_path / "all.txt").write_text("0.jpg 0.png\n1.jpg 1.png\n")
    data = list_file("train", root=str(tmp_path), train="all.txt", val="all.txt", classes=CLASSES)
    assert np.array_equal(data.read(1)[1], blocks([0, 1, 2], 1))


def test_tiles_cover_every_pixel() -> None:
    for height, width, size in ((100, 130, 32), (32, 32, 64), (64, 64, 32)):
        counts = np.zeros((height, width), int)
        for window in cut(height, width, size, 0):
            counts[window.top : window.top + window.height, window.left : window.left + window.width] += 1
        assert (counts == 1).all()
        for window in cut(height, width, size, size // 2):
            counts[window.top : window.top + window.height, window.left : window.left + window.width] += 1
            assert window.height == min(size, height)
        assert (counts >= 2).all()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_windows_of_tiles_equal_the_whole(tmp_path: Path, compression: str | None) -> None:
    from pspnet_lightning.data.public.aerial import _ISPRS_LABELS
    from pspnet_lightning.data.specs import known_classes, public_spec

    label = blocks([0, 1, 2, 3, 4, 5], 0, (96, 128))
    tifffile.imwrite(tmp_path / "i.tif", picture(label), compression=compression)
    tifffile.imwrite(tmp_path / "l.tif", np.array(known_classes("isprs")[1], np.uint8)[label], compression=compression)
    data = TiledDataset(
        [(tmp_path / "i.tif", tmp_path / "l.tif")],
        public_spec("potsdam", "isprs"),
        tile_size=40,
        overlap=10,
        origin="here",
        coding=_ISPRS_LABELS,
    )
    for index in range(len(data)):
        _, window = data.windows[index]
        rows, columns = slice(window.top, window.top + 40), slice(window.left, window.left + 40)
        image, found = data.read(index)
        assert np.array_equal(found, label[rows, columns])
        assert np.array_equal(image, picture(label)[rows, columns])


def test_multi_band_images_train_evaluate_and_predict(command: Run, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(6):
        label = blocks([0, 1, 2], number)
        image = label[..., None].astype(int) * 9000 + generator.integers(0, 5000, (*label.shape, 5))
        (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            tmp_path / "set" / "images" / f"{number}.tif", image.astype(np.uint16), photometric="minisblack"
        )
        save(label, tmp_path / "set" / "masks" / f"{number}.png")
    arguments = ["data=folder", "data.root=set", "data.classes=[a,b,c]", "data.channels=5", "data.crop_size=33"]
    result = command("train", *arguments, "data.batch_size=2", "data.epochs=1", "hydra.run.dir=run", *SMALL)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "validation.png").is_file()
    # The checkpoint knows mean and deviation: no training image is needed to evaluate.
    for number in range(5):
        (tmp_path / "set" / "images" / f"{number}.tif").write_bytes(b"gone")
    (tmp_path / "set" / "val.txt").write_text("5\n")
    result = command("evaluate", "checkpoint=run/checkpoints/best.ckpt", "+data.val=val.txt", "hydra.run.dir=evaluated")
    assert result.returncode == 0, result.stderr
    module = load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert module.predict(tifffile.imread(tmp_path / "set" / "images" / "5.tif")).shape == (48, 64)


# ---------------------------------------------------------------------- patterns, annotators, ignored regions, groups


def chase(root: Path, count: int = 6) -> dict[str, object]:
    """CHASEDB1's layout: images and the labels of two annotators in one folder."""
    for number in range(count):
        label = blocks([0, 255], number)
        name = f"Image_{number // 2:02}{'LR'[number % 2]}"
        save(picture(label), root / f"{name}.jpg")
        save(label, root / f"{name}_1stHO.png")
        other = label.copy()
        other[:8] = 255 - other[:8]
        save(other, root / f"{name}_2ndHO.png")
    return {"root": str(root), "classes": ["no", "yes"], "labels": "binary", "image_pattern": "{stem}.jpg"}


def test_pairs_by_patterns(tmp_path: Path) -> None:
    options = chase(tmp_path)
    train = folder("train", **options, label_pattern="{stem}_1stHO.png", val_fraction=0.34)
    val = folder("val", **options, label_pattern="{stem}_1stHO.png", val_fraction=0.34)
    assert sorted(names(train) + names(val)) == [f"Image_{n:02}{side}" for n in range(3) for side in "LR"]
    number = int(names(train)[0][6:8]) * 2 + "LR".index(names(train)[0][-1])
    assert np.array_equal(train.label(0), blocks([0, 1], number))
    # The same by a regular expression, with two parts that are shared.
    expression = {"image_pattern": r"re:(?P<who>Image_\d+)(?P<side>[LR])\.jpg"}
    same = folder(
        "train", **{**options, **expression}, label_pattern=r"re:(?P<who>.*)(?P<side>.)_1st.*", val_fraction=0.34
    )
    assert names(same) == names(train)


def test_a_split_in_a_pattern_and_folders_between(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            label = blocks([0, 1, 2], number)
            save(picture(label), tmp_path / "left" / split / f"town{number}" / f"a_{number}_left.png")
            save(label, tmp_path / "fine" / split / f"town{number}" / f"a_{number}_ids.png")
    patterns = {
        "image_pattern": "left/{split}/{town}/{stem}_left.png",
        "label_pattern": "fine/**/{split}/{town}/{stem}_ids.png",
    }
    data = {split: folder(split, root=str(tmp_path), classes=CLASSES, **patterns) for split in ("train", "val")}
    assert [len(part) for part in data.values()] == [3, 2]
    assert data["train"].name(2) == str(tmp_path / "left/train/town2/a_2_left.png")
    with pytest.raises(ValueError, match=r"split test\)\. There are: fine/train/town0/\*\.png \(1\), "):
        folder("test", root=str(tmp_path), classes=CLASSES, **patterns)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ("{stem}.jpg", "{stem}_first.png", r"matches no file .*'\{stem\}_1stHO.png' would pair 6 of 6"),
        ("{stem}.jpeg", "{stem}_1stHO.png", r"matches no file below .*'\. There are: \*\.jpg \(6\), \*\.png \(12\)"),
        ("{stem}.jpg", "{stem}L_1stHO.png", r"6 of 6 images have no file .*'\{stem\}_1stHO.png' would pair 6 of 6"),
        ("{stem}.jpg", "{stem}.jpg", "pairs 6 images with themselves, such as Image_00L.jpg"),
        ("{stem}.jpg", "{stem}_*HO.png", r"matches two files of one image: 'Image_00L_1stHO.png' and 'Image_00L_2nd"),
        ("*.jpg", "{stem}.png", r"data\.image_pattern='\*\.jpg' has no \{stem\}"),
        ("re:(", "{stem}.png", r"data\.image_pattern='re:\(' is not a regular expression"),
        ("{stem}.jpg", None, "belong together"),
        ("{who}.jpg", "{stem}_1stHO.png", r"has the parts \{stem\}, data\.image_pattern has \{who\}: name the same"),
    ],
)
def test_a_pattern_that_does_not_pair(images: str, labels: str | None, message: str, tmp_path: Path) -> None:
    options = {**chase(tmp_path), "image_pattern": images, "label_pattern": labels}
    with pytest.raises(ValueError, match=message):
        folder("train", **options)


def test_names_that_share_no_stem_are_proposed_both_patterns(tmp_path: Path) -> None:
    for number in range(4):
        save(picture(blocks([0, 1], number)), tmp_path / "images" / f"x{number}_left.png")
        save(blocks([0, 1], number), tmp_path / "masks" / f"x{number}_gt.png")
    proposed = (
        r"data\.image_pattern='\*\*/\{stem\}_left\.png' data\.label_pattern='masks/\{stem\}_gt\.png' would pair 4 of 4"
    )
    with pytest.raises(ValueError, match=proposed):
        folder("train", root=str(tmp_path), classes=CLASSES)


def test_several_annotators_vote(tmp_path: Path) -> None:
    options = chase(tmp_path)
    one = folder("train", **options, label_pattern="{stem}_1stHO.png")
    two = folder("train", **options, label_pattern=["{stem}_1stHO.png", "{stem}_2ndHO.png"])
    assert (two.label(0)[:8] == 255).all()  # where they differ
    assert np.array_equal(two.label(0)[8:], one.label(0)[8:])
    assert [path.name[-9:] for path in two.files(0)[1:]] == ["1stHO.png", "2ndHO.png"]
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, (3, 20, 30)).astype(np.uint8)
    labels[labels == 3] = 255
    expected = np.full((20, 30), 255, np.uint8)
    for row, column in np.ndindex(20, 30):
        values, counts = np.unique(labels[:, row, column], return_counts=True)
        if counts.max() >= 2:
            expected[row, column] = values[counts.argmax()]
    assert np.array_equal(majority(list(labels), 255), expected)


@pytest.mark.parametrize(("where", "tail"), [("nonzero", ".png"), ("zero", "_training_mask.gif"), ("zero", ".jpg")])
def test_ignored_regions(tmp_path: Path, where: str, tail: str) -> None:
    make(tmp_path, count=4)
    mask = np.zeros(blocks([0, 1, 2], 0).shape, np.uint8)
    mask[4:9, 5:20] = 255
    for number in range(4):
        save(mask, tmp_path / "mask" / f"{number:02}{tail}")
    options = {"root": str(tmp_path), "classes": CLASSES, "val_fraction": 0.25}
    plain = folder("train", **options)
    data = folder("train", **options, ignore_masks="mask", ignore_where=where)
    ignored = (mask > 0) == (where == "nonzero")
    assert (data.label(1)[ignored] == 255).all()
    assert np.array_equal(data.label(1)[~ignored], plain.label(1)[~ignored])
    assert data.files(1)[-1].name.endswith(tail)
    (tmp_path / "mask" / f"02{tail}").unlink()
    with pytest.raises(ValueError, match=r"data\.ignore_masks: 1 of 4 images do not have one mask.*02\.png \(0\)"):
        folder("train", **{**options, "val_fraction": None}, ignore_masks="mask", ignore_where=where)


def test_an_image_is_never_its_own_label(tmp_path: Path) -> None:
    make(tmp_path, count=4)
    with pytest.raises(ValueError, match=r"4 images below .* would be their own labels, such as 00\.png"):
        folder("train", root=str(tmp_path), classes=CLASSES, masks="images")


def test_groups_rule_the_fraction_and_the_folds_take_all_images(tmp_path: Path) -> None:
    options = {**chase(tmp_path, 20), "label_pattern": "{stem}_1stHO.png", "val_fraction": 0.3}
    for seed in range(5):
        parts = [folder(split, **options, split_seed=seed, group=r"Image_\d+") for split in ("train", "val")]
        patients = [{name[:8] for name in names(part)} for part in parts]
        assert not patients[0] & patients[1]
        assert [len(part) for part in parts] == [14, 6]
        loose = [folder(split, **options, split_seed=seed) for split in ("train", "val")]
        assert shared_groups(*loose, r"Image_\d+")
    node = {**options, "_target_": "pspnet_lightning.data.own.folder", "folds": 5, "group": r"Image_\d+"}
    validated: list[str] = []
    for fold in range(5):
        source = build_source({**node, "fold": fold})
        assert not shared_groups(source("train"), source("val"), r"Image_\d+")
        validated += names(source("val"))
    assert len(validated) == len(set(validated)) == 20
    with pytest.raises(ValueError, match=r"data\.val_fraction=0\.01 of 10 groups leaves one split empty"):
        folder("train", **{**options, "val_fraction": 0.01}, group=r"Image_\d+")


def test_lines_with_spaces_in_their_names(tmp_path: Path) -> None:
    save(picture(blocks([0, 1], 0)), tmp_path / "my images" / "it's 1.png")
    save(blocks([0, 1], 0), tmp_path / "m" / "1.png")
    for line in ('"my images/it\'s 1.png" m/1.png', "my images/it's 1.png\tm/1.png"):
        (tmp_path / "all.txt").write_text(line + "\n")
        assert len(list_file("train", root=str(tmp_path), train="all.txt", val="all.txt", classes=CLASSES)) == 1


def test_a_pattern_is_typed_without_quotes_for_hydra(command: Run, tmp_path: Path) -> None:
    chase(tmp_path / "set")
    patterns = ["data.image_pattern={stem}.jpg", "data.label_pattern=[{stem}_1stHO.png,{stem}_2ndHO.png]"]
    result = command(
        "inspect", "data=folder", "data.root=set", "data.classes=[no,yes]", "data.labels=binary", *patterns
    )
    assert result.returncode == 0, result.stderr
    assert "5 images" in result.stdout
