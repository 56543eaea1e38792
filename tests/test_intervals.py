"""Each image's counts on disk and back, paired images, intervals against scipy; what a sweep makes of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sweep_folder import write_run

from pspnet_lightning.metrics import ImageCounts, paired_intervals, score_intervals, scores, units_needed
from pspnet_lightning.report import gather, verdict
from pspnet_lightning.report.against import against_content, against_lines, against_table
from pspnet_lightning.report.outcome import outcome
from pspnet_lightning.runs.differences import _joint_p, joint_half
from pspnet_lightning.runs.image_counts import NAME, read_image_counts, write_image_counts
from pspnet_lightning.runs.sweep_images import common_variance

CLASSES = ("sky", "road", "car")


def made(images: int, quality: float = 0.8, seed: int = 0, groups: int = 0, classes: int = 3) -> ImageCounts:
    """Images of 1,000 pixels whose labels depend on the image alone, predicted right with this chance."""
    matrices = []
    for image in range(images):
        labels = np.random.default_rng(image).integers(0, classes, 1000)
        generator = np.random.default_rng([seed, image])
        easy = np.clip(quality + generator.normal(0, 0.1), 0, 1)
        guess = np.where(generator.random(1000) < easy, labels, generator.integers(0, classes, 1000))
        matrices.append(np.bincount(labels * classes + guess, minlength=classes**2).reshape(classes, classes))
    names = [f"scene/{image:03}.png" for image in range(images)]
    told = [f"sequence {image % groups}" for image in range(images)] if groups else []
    return ImageCounts.of(names, matrices, CLASSES[:classes], told)


def test_there_and_back(tmp_path: Path) -> None:
    counts = made(7, groups=3)
    write_image_counts(counts, tmp_path)
    back = read_image_counts(tmp_path)
    assert back is not None
    assert (back.names, back.classes, back.groups) == (counts.names, counts.classes, counts.groups)
    assert (back.parts.right == counts.parts.right).all()
    assert (back.confusion() == counts.confusion()).all()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert read_image_counts(tmp_path / "nowhere") is None


def test_the_parts_are_those_of_the_matrices() -> None:
    matrix = np.array([[5, 1, 0], [2, 7, 0], [0, 3, 0]])
    counts = ImageCounts.of(["a", "b"], [matrix, np.zeros((3, 3), int)], CLASSES)
    assert counts.parts.right.tolist() == [[5, 7, 0], [0, 0, 0]]
    assert counts.parts.labelled.tolist() == [[6, 9, 3], [0, 0, 0]]
    assert counts.parts.predicted.tolist() == [[7, 11, 0], [0, 0, 0]]
    assert counts.confusion().tolist() == matrix.tolist()
    huge = ImageCounts.of(["a"], [np.array([[5_000_000_000, 0], [0, 1]])], CLASSES[:2])
    assert huge.confusion().tolist() == [[5_000_000_000, 0], [0, 1]]


def test_2000_images_of_150_classes_are_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pairs = [np.unique(generator.integers(0, 150**2, 60)) for _ in range(2000)]
    images = [(found, generator.integers(1, 300_000, len(found))) for found in pairs]
    counts = ImageCounts.of_pairs([f"ADE_val_{i:08}.jpg" for i in range(2000)], images, list(map(str, range(150))))
    write_image_counts(counts, tmp_path)
    assert (tmp_path / NAME).stat().st_size < 1_000_000
    assert score_intervals(counts, draws=50).units == 2000


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    def damaged(**changed: np.ndarray) -> None:
        with np.load(tmp_path / "good" / NAME) as content:
            arrays = {**content, **changed}
        np.savez(tmp_path / NAME, **arrays)

    (tmp_path / "good").mkdir()
    write_image_counts(made(3), tmp_path / "good")
    damaged(pairs=np.array([object()]))
    with pytest.raises(ValueError, match="pairs is not what an evaluation writes"):
        read_image_counts(tmp_path)
    damaged(pairs=np.full(27, 9, np.uint32))
    with pytest.raises(ValueError, match="contradicts itself"):
        read_image_counts(tmp_path)
    damaged(version=np.int64(2))
    with pytest.raises(ValueError, match="is of version 2; this package reads 1"):
        read_image_counts(tmp_path)
    damaged(more=np.zeros(1))
    with pytest.raises(ValueError, match=r"is not the images\.npz of an evaluation"):
        read_image_counts(tmp_path)
    (tmp_path / NAME).write_bytes((tmp_path / "good" / NAME).read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        read_image_counts(tmp_path)
    # A header that asks for 16 TB, before which numpy would allocate them.
    with zipfile.ZipFile(tmp_path / "good" / NAME) as source, zipfile.ZipFile(tmp_path / NAME, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "pairs.npy":
                stream = io.BytesIO()
                header = {"descr": "<u4", "fortran_order": False, "shape": (1 << 42,)}
                np.lib.format.write_array_header_1_0(stream, header)
                content = stream.getvalue()
            target.writestr(name, content)
    with pytest.raises(ValueError, match="pairs is not what an evaluation writes"):
        read_image_counts(tmp_path)


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    """aAcc of images of one size is a plain mean: its standard error is known."""
    counts = made(60)
    shares = counts.parts.right.sum(1) / 1000
    found = score_intervals(counts, draws=20_000).means["aacc"]
    assert found.value == pytest.approx(shares.mean())
    expected = scipy.stats.t.interval(0.95, 59, shares.mean(), scipy.stats.sem(shares))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02 * (expected[1] - expected[0]))
    numbers = (np.arange(60),)
    other = scipy.stats.bootstrap(numbers, _miou_of(counts), vectorized=False, rng=0, n_resamples=2000, method="basic")
    own = score_intervals(counts).means["miou"]
    assert own.error == pytest.approx(other.standard_error * np.sqrt(60 / 59), rel=0.05)
    assert own.value == pytest.approx(scores(torch.from_numpy(counts.confusion())).miou)


def _miou_of(counts: ImageCounts):  # type: ignore[no-untyped-def]
    def of(chosen: np.ndarray) -> float:
        return scores(torch.from_numpy(counts.chosen(chosen.tolist()).confusion())).miou

    return of


def test_few_images_are_not_taken_for_many() -> None:
    """A bootstrap's variance divides by N, a sample's by N - 1: of four images that is a quarter."""
    counts = made(4)
    found = score_intervals(counts, draws=40_000).means["aacc"]
    assert found.error == pytest.approx(scipy.stats.sem(counts.parts.right.sum(1) / 1000), rel=0.02)


def test_what_pairs_of_runs_share_is_their_covariance() -> None:
    """The variance of a mean is that among the pairs, divided by their number, and what all of them share."""
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 2, 20_000)
    draws = shared + generator.normal(0, 3, (5, 20_000))
    assert common_variance(draws, 10**6) == pytest.approx(4, rel=0.05)
    assert common_variance(draws[:1], 10**6) == pytest.approx(13, rel=0.05)
    assert common_variance(draws[:1], 4) == pytest.approx(13 * 4 / 3, rel=0.05)
    assert common_variance(generator.normal(0, 3, (2, 20_000)), 10**6) == pytest.approx(0, abs=0.3)


def test_groups_are_drawn_whole() -> None:
    """Copies of an image are no more images."""
    few, copies = made(10), made(10)
    copies = copies.chosen([*range(10)] * 4)
    names = tuple(f"{number}" for number in range(40))
    told = ImageCounts(names, copies.classes, copies.offsets, copies.pairs, copies.counts, few.names * 4)
    own, untold = score_intervals(few).means["miou"], score_intervals(ImageCounts(names, *_rest(copies))).means["miou"]
    grouped = score_intervals(told)
    assert (grouped.units, grouped.grouped) == (10, True)
    assert grouped.means["miou"].error == pytest.approx(own.error, rel=1e-9)
    assert untold.error < 0.6 * own.error


def _rest(counts: ImageCounts) -> tuple:  # type: ignore[type-arg]
    return counts.classes, counts.offsets, counts.pairs, counts.counts


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    first = made(40, 0.82, seed=1)
    worse = [np.where(np.eye(3, dtype=bool), matrix - 20, matrix + 10) for matrix in _matrices(first)]
    second = ImageCounts.of(first.names, worse, CLASSES)
    found = paired_intervals(first, second).means["aacc"]
    assert found.value == pytest.approx(0.06)
    assert found.error < 0.001 < score_intervals(first).means["aacc"].error
    back = paired_intervals(second, first).means["miou"]
    assert back.value == pytest.approx(-paired_intervals(first, second).means["miou"].value)


def _matrices(counts: ImageCounts) -> list[np.ndarray]:
    return [counts.chosen([index]).confusion() for index in range(len(counts))]


def test_images_are_paired_by_name() -> None:
    first, second = made(12), made(12, 0.6, seed=1)
    shuffled = second.chosen([*range(11, -1, -1)])
    moved = ImageCounts(tuple(f"/elsewhere/{name}" for name in shuffled.names), *_rest(shuffled))
    expected = paired_intervals(first, second).means["miou"]
    assert paired_intervals(first, moved).means["miou"] == expected
    for wrong, message in (
        (made(11), "12 here, 11 there, and 1 are in one of them only"),
        (made(12, classes=2), "classes differ: sky, road, car here, sky, road there"),
        (ImageCounts.of(first.names, [np.eye(3, dtype=int)] * 12, CLASSES), "the labels of 12 images differ"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_intervals(first, wrong)


def test_how_many_images_would_show_it() -> None:
    """The z test's own formula, by trying."""
    first, second = made(30, 0.80, seed=1), made(30, 0.79, seed=2)
    found = paired_intervals(first, second).means["aacc"]
    needed = units_needed(found, 30)
    assert needed is not None
    spread = found.error * np.sqrt(30)
    means = np.random.default_rng(0).normal(found.value, spread / np.sqrt(needed), 100_000)
    assert (abs(means) > 1.96 * spread / np.sqrt(needed)).mean() == pytest.approx(0.8, abs=0.01)


def test_what_is_said_of_two_networks() -> None:
    first, second = made(60, 0.85, seed=1), made(60, 0.7, seed=2)
    found = paired_intervals(first, second)
    lines = against_lines(found, "b.ckpt")
    assert lines[0].startswith(f"mIoU: {100 * found.means['miou'].value:.2f} points better than b.ckpt [+")
    assert lines[0].endswith("over 60 images, p < 0.001: shown.")
    assert lines[-1].startswith("This is about these two trained networks")
    close = paired_intervals(made(30, 0.800, seed=3), made(30, 0.799, seed=4))
    needed = units_needed(close.means["miou"], 30)
    assert f"not shown with 30 images; about {needed} would." in against_lines(close, "b")[0]
    content = against_content(found, CLASSES)
    assert content["miou"]["shown"]
    assert content["iou"][2]["class"] == "car"
    assert content["iou"][0]["p_adjusted"] >= content["iou"][0]["p"]
    assert against_table(paired_intervals(made(8), made(8)), CLASSES).row_count == 3
    alone = paired_intervals(made(1), made(1, 0.5, seed=1))
    assert "too few for an interval" in against_lines(alone, "b")[0]


def sweep(folder: Path, qualities: dict[str, list[float]], images: int = 40) -> None:
    number = 0
    for bins, seeds in qualities.items():
        for seed, quality in enumerate(seeds):
            counts = made(images, quality, seed=number)
            iou = scores(torch.from_numpy(counts.confusion())).iou
            write_run(folder / str(number), [f"model.bins={bins}", f"seed={seed}"], list(iou))
            write_image_counts(counts, folder / str(number))
            number += 1


def test_a_sweep_counts_the_luck_of_the_images(tmp_path: Path) -> None:
    sweep(tmp_path / "with", {"[1]": [0.80, 0.801, 0.799], "[1,2,3,6]": [0.82, 0.8205, 0.8196]})
    content = gather(tmp_path / "with", pictures=0)
    (item,) = content.comparisons.values()
    assert item.difference.units == 40
    for job in content.jobs:
        (job.folder / NAME).unlink()
    (plain,) = gather(tmp_path / "with", pictures=0).comparisons.values()
    assert plain.difference.units == 0
    assert plain.difference.low is not None
    assert item.difference.low is not None
    assert item.difference.mean == plain.difference.mean
    assert item.difference.low <= plain.difference.low
    found = outcome(content)["comparisons"][0]
    assert (found["low"], found["p"]) == (item.difference.low, item.difference.p)
    rows = content.class_differences[id(content.groups[1])]
    assert len(rows) == 3
    sky = [np.mean([job.results["iou"][0] for job in group.jobs]) for group in content.groups]
    assert rows[0][0].value == pytest.approx(sky[1] - sky[0])


def test_one_run_each_has_an_interval_over_its_images(tmp_path: Path) -> None:
    sweep(tmp_path, {"[1]": [0.6], "[1,2,3,6]": [0.8]})
    text = " ".join(verdict(gather(tmp_path, pictures=0)))
    assert "better in 0 of 1 pair: one pair of runs shows nothing; the interval is over its 40 images alone." in text


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    sweep(tmp_path, {"[1]": [0.6, 0.61], "[1,2,3,6]": [0.8, 0.81]})
    (tmp_path / "2" / NAME).write_bytes(b"PK")
    content = gather(tmp_path, pictures=0)
    (item,) = content.comparisons.values()
    assert item.difference.units == 0
    assert len(content.images.unread) == 1
    assert str(Path("2") / NAME) in content.images.unread[0]


def test_the_joint_interval_and_its_p_value_are_one_rule() -> None:
    half = float(joint_half(0.4, 2, 0.3, 49, 0.05))
    parts = scipy.stats.t.ppf(0.975, 2) * 0.4**0.5, scipy.stats.t.ppf(0.975, 49) * 0.3**0.5
    assert half == pytest.approx(np.hypot(*parts))
    assert _joint_p(half, 0.4, 2, 0.3, 49) == pytest.approx(0.05, rel=1e-6)
    assert _joint_p(1.0, 0.4, 2, 0.0, 0) == pytest.approx(2 * scipy.stats.t.sf(1 / 0.4**0.5, 2))
    assert _joint_p(1.0, 1e-14, 2, 0.3, 49) == pytest.approx(2 * scipy.stats.t.sf(1 / 0.3**0.5, 49), rel=1e-3)
