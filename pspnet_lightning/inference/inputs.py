"""What is to be predicted: a file, a folder, a pattern or a video."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pspnet_lightning.data.pairing import IMAGE_TAILS
from pspnet_lightning.data.submission import png_names

VIDEO_TAILS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

# The folders that outputs are written to.
KINDS = ("index", "overlay", "probabilities")


@dataclass(frozen=True)
class Input:
    """A file and the name of its outputs, relative and without suffix."""

    path: Path
    stem: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_TAILS


def find_inputs(pattern: str, written: Iterable[Path], *, videos: bool = True) -> list[Input]:
    """The images and videos of a file, a folder (at any depth) or a glob pattern, in the order of their names.

    Outputs are named like the inputs below the folder, or below what the pattern's matches share; the suffix stays in
    the name where two would be equal. What lies in the folders ``written`` is no input. Raises FileNotFoundError where
    there is nothing.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [Input(path, Path(path.stem))]
    if path.is_dir():
        found, below = sorted(path.rglob("*")), path
    elif glob.has_magic(pattern):
        found, below = sorted(Path(name) for name in glob.glob(str(path), recursive=True)), None
    else:
        raise FileNotFoundError(f"input={pattern!r}: there is no such file or folder")
    tails = (*IMAGE_TAILS, *VIDEO_TAILS) if videos else IMAGE_TAILS
    own = {folder.resolve() for folder in written}
    chosen = [
        file
        for file in found
        if file.suffix.lower() in tails
        and not file.name.startswith(".")
        and file.is_file()
        and own.isdisjoint(file.resolve().parents)
    ]
    if not chosen:
        raise FileNotFoundError(
            f"input={pattern!r}: there is no image{' or video' if videos else ''} ({', '.join(tails)})"
        )
    shown = [str(file if below is None else file.relative_to(below)) for file in chosen]
    names = png_names(shown, whole=below is not None)
    return [Input(file, name.with_suffix("")) for file, name in zip(chosen, names, strict=True)]
