"""Which label file belongs to which image: by the same path below two folders, once both tails are taken off."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

Pair = tuple[Path, Path]
IMAGE_TAILS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".gif")
LABEL_TAILS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")


class UnpairedError(ValueError):
    """There are images without label; ``images`` are all that were found."""

    def __init__(self, message: str, images: Sequence[Path]) -> None:
        super().__init__(message)
        self.images = list(images)


def pair_files(
    images: Path,
    labels: Path,
    image_tails: Sequence[str] = IMAGE_TAILS,
    label_tails: Sequence[str] = LABEL_TAILS,
    *,
    every_image: bool = True,
) -> list[Pair]:
    """Pairs below two folders, at any depth, in the order of their names.

    ``images/a/x_leftImg8bit.png`` and ``labels/a/x_gtFine_labelIds.png`` have the key ``a/x`` once their tails are
    off. With ``every_image=False`` images without label are left out, as where only some are annotated.

    Raises FileNotFoundError for a missing folder and ValueError listing images without label, or two files of one key,
    or where images would be their own labels.
    """
    found_images = _by_key(images, image_tails)
    found_labels = _by_key(labels, label_tails)
    without = [str(path) for key, path in found_images.items() if key not in found_labels]
    if without and every_image:
        raise UnpairedError(
            f"{len(without)} of {len(found_images)} images below {str(images)!r} have no label below "
            f"{str(labels)!r}: {listing(without)}",
            list(found_images.values()),
        )
    pairs = [(path, found_labels[key]) for key, path in found_images.items() if key in found_labels]
    own = [image for image, label in pairs if image == label]
    if own:
        raise ValueError(
            f"{len(own)} images below {str(images)!r} would be their own labels, such as {own[0].name}: name two "
            f"folders, or data.image_pattern and data.label_pattern"
        )
    return pairs


def find_images(folder: Path, tails: Sequence[str] = IMAGE_TAILS) -> list[Path]:
    """The images below a folder, at any depth, in the order of their names. Raises FileNotFoundError without folder."""
    return list(_by_key(folder, tails).values())


def pair_stems(images: Path, labels: Path, stems: Sequence[str], image_tail: str, label_tail: str) -> list[Pair]:
    """Pairs of a split list of stems: ``images/<stem><image_tail>`` and ``labels/<stem><label_tail>``."""
    return [(images / f"{stem}{image_tail}", labels / f"{stem}{label_tail}") for stem in stems]


def read_stems(file: Path) -> list[str]:
    """The first word of each line of a split list. Raises FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(f"the split list {str(file)!r} does not exist")
    return [words[0] for line in file.read_text().splitlines() if (words := line.split())]


def read_list(file: Path, root: Path) -> list[Pair]:
    """The pairs of a text file of ``image label`` lines (semseg's format), relative to ``root``; blank lines may occur.

    Between the two is white space; names that hold some stand in quotes, or a tab is between them. Raises
    FileNotFoundError for the file, and ValueError listing every line that is not a pair.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the list {str(file)!r} does not exist; paths of lists are relative to data.root")
    pairs, wrong = [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        words = _words(line)
        if len(words) == 2:
            pairs.append((root / words[0], root / words[1]))
        elif words:
            wrong.append(f"line {number}: {line.strip()!r}")
    if wrong:
        names = "\n  ".join(wrong[:10]) + (f"\n  ... and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise ValueError(
            f"list {str(file)!r}: {len(wrong)} lines are not a pair `image label` (names with spaces stand in quotes, "
            f"or a tab is between them); an image without label cannot be used:\n  {names}"
        )
    return pairs


def listing(names: Sequence[str], limit: int = 10) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")


def _words(line: str) -> list[str]:
    if "\t" in line:
        return [word.strip() for word in line.strip().split("\t")]
    if '"' not in line and "'" not in line:
        return line.split()
    quoted = shlex.shlex(line, posix=True, punctuation_chars=False)
    quoted.whitespace_split, quoted.escape, quoted.commenters = True, "", ""
    try:
        return list(quoted)
    except ValueError:  # an apostrophe in a name
        return line.split()


def _by_key(folder: Path, tails: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        tail = next((tail for tail in tails if relative.lower().endswith(tail.lower())), None)
        if tail is None or path.name.startswith(".") or not path.is_file():
            continue
        key = relative[: -len(tail)]
        if key in found:
            raise ValueError(f"two files of one name: {str(found[key])!r} and {str(path)!r}; remove one of them")
        found[key] = path
    return found
