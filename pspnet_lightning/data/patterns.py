"""Which files belong together, said by patterns: ``images/{stem}.jpg`` and ``masks/{stem}_1stHO.png``.

A pattern is a path relative to the root. ``{name}`` is a part that all patterns of an image share, within one folder's
name or a file's; ``*`` stands for anything within one name, ``**`` for any folders. ``re:`` before it makes it a
regular expression whose named groups are the shared parts.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pspnet_lightning.data.pairing import IMAGE_TAILS, LABEL_TAILS, listing

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\{(\w+)\}")


def pair_by_patterns(
    root: Path, image_pattern: str, label_patterns: Sequence[str], split: str, *, every_image: bool = True
) -> list[tuple[Path, tuple[Path, ...]]]:
    """Each image below ``root``, in the order of its path, and its file of every label pattern.

    ``{split}`` in a pattern is the split's name. Raises ValueError for a pattern that is none or matches nothing
    (naming what is there), for two files of one image, for an image without label (naming a pattern that would pair;
    without ``every_image`` it is left out), and where an image would be its own label.
    """
    images = find(root, image_pattern, split, "data.image_pattern")
    labels = [find(root, pattern, split, "data.label_pattern", images.values()) for pattern in label_patterns]
    pairs = []
    for number, found in enumerate(labels):
        parts = [", ".join(f"{{{name}}}" for name, _ in next(iter(files))) for files in (found, images)]
        if parts[0] != parts[1]:
            raise ValueError(
                f"data.label_pattern={label_patterns[number]!r} has the parts {parts[0]}, data.image_pattern has "
                f"{parts[1]}: name the same parts in both"
            )
        without = [str(path.relative_to(root)) for key, path in images.items() if key not in found]
        if without and (every_image or len(without) == len(images)):
            raise ValueError(
                f"{len(without)} of {len(images)} images have no file of data.label_pattern="
                f"{label_patterns[number]!r}: {listing(without, 5)}. {proposal(root, images.values())}"
            )
        own = [path for key, path in images.items() if found.get(key) == path]
        if own:
            raise ValueError(
                f"data.label_pattern={label_patterns[number]!r} pairs {len(own)} images with themselves, such as "
                f"{own[0].name}; give a pattern of the label files"
            )
    for key, path in images.items():
        if all(key in found for found in labels):
            pairs.append((path, tuple(found[key] for found in labels)))
    return pairs


def find(
    root: Path, pattern: str, split: str, option: str, images: Iterable[Path] = ()
) -> dict[tuple[tuple[str, str], ...], Path]:
    """The files of a pattern by their shared parts; ``images`` are known where labels are looked for.

    Raises ValueError; see ``pair_by_patterns``.
    """
    expression = _compiled(pattern, split, option)
    found: dict[tuple[tuple[str, str], ...], Path] = {}
    for path in _files(root):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match is None:
            continue
        key = tuple(sorted((name, part or "") for name, part in match.groupdict().items()))
        if key in found:
            raise ValueError(
                f"{option}={pattern!r} matches two files of one image: {str(found[key].relative_to(root))!r} and "
                f"{str(path.relative_to(root))!r}; write more of the path, or one more {{name}} that the patterns share"
            )
        found[key] = path
    if not found:
        told = f" (split {split})" if "{split}" in pattern else ""
        hint = proposal(root, images) if images else f"There are: {_kinds(root, IMAGE_TAILS)}"
        raise ValueError(f"{option}={pattern!r} matches no file below data.root={str(root)!r}{told}. {hint}")
    return found


def proposal(root: Path, images: Iterable[Path]) -> str:
    """A sentence: the label pattern that pairs most of the images, found in the names of the files that are there."""
    paths = list(images)
    taken = {path.resolve() for path in paths}
    others = [path for path in _files(root) if path.suffix.lower() in LABEL_TAILS and path.resolve() not in taken]
    tail = _common_tail([path.stem for path in paths])
    for shared, image_pattern in (("", ""), (tail, f"data.image_pattern='**/{{stem}}{tail}{paths[0].suffix}' ")):
        stems = {path.stem.removesuffix(shared) for path in paths}
        votes: Counter[str] = Counter()
        for path in others:
            stem = max((stem for stem in stems if stem in path.name), key=len, default=None)
            if stem:
                pattern = path.relative_to(root).parent / path.name.replace(stem, "{stem}", 1)
                votes[pattern.as_posix()] += 1
        best = max(votes.items(), key=lambda item: item[1], default=("", 0))
        if best[1] > len(stems) // 2:
            return f"{image_pattern}data.label_pattern='{best[0]}' would pair {best[1]} of {len(stems)}"
    return f"There are: {_kinds(root, LABEL_TAILS)}. A list of `image label` lines (data=list) pairs any names"


def _common_tail(stems: Sequence[str]) -> str:
    """What all names end in, from a character on that is no letter and no digit: "_leftImg8bit"."""
    tails = {match[0] for stem in stems if (match := re.search(r"[^A-Za-z0-9][A-Za-z0-9]*$", stem))}
    return tails.pop() if len(tails) == 1 and len(stems) > 1 else ""


def _compiled(pattern: str, split: str, option: str) -> re.Pattern[str]:
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern.removeprefix("re:").replace("{split}", re.escape(split)))
        except re.error as error:
            raise ValueError(f"{option}={pattern!r} is not a regular expression: {error}") from error
        if not expression.groupindex:
            raise ValueError(f"{option}={pattern!r} has no named group: write (?P<stem>...) around the shared part")
        return expression
    text, place, names = "", 0, set()
    pattern_ = pattern.replace("{split}", split).removeprefix("./")
    for token in _TOKEN.finditer(pattern_):
        text += re.escape(pattern_[place : token.start()])
        place, name = token.end(), token[1]
        if name is None:
            text += {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*"}[token[0]]
        else:
            text += f"(?P={name})" if name in names else f"(?P<{name}>[^/]+?)"
            names.add(name)
    if not names:
        raise ValueError(f"{option}={pattern!r} has no {{stem}}: the part of the path that image and label share")
    return re.compile(text + re.escape(pattern_[place:]))


def _files(root: Path) -> Iterable[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _kinds(root: Path, tails: Sequence[str]) -> str:
    """What lies there, by folder and ending: "images/*.jpg (28)"."""
    counts = Counter(
        f"{path.parent.relative_to(root).as_posix()}/*{path.suffix}".removeprefix("./")
        for path in _files(root)
        if path.suffix.lower() in tails
    )
    return listing([f"{name} ({count})" for name, count in sorted(counts.items())], 8) or "no image files"
