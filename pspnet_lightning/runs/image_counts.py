"""``images.npz``: the confusion matrix of every image of a run's validation or an evaluation, kept and read back."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pspnet_lightning.disk import replacing
from pspnet_lightning.metrics import ImageCounts

NAME = "images.npz"
_VERSION = 1
_ARRAYS = {"version": "i", "names": "U", "classes": "U", "groups": "U", "offsets": "i", "pairs": "u", "counts": "u"}
# 150 classes and 20,000 images need about 50 MB; a file that unpacks to more is none of ours.
_LARGEST = 1 << 30


def write_image_counts(counts: ImageCounts, folder: Path) -> None:
    """Writes ``folder/images.npz``, whole or not at all: 2,000 images of 150 classes take about 0.5 MB."""
    with replacing(folder / NAME) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            version=np.int64(_VERSION),
            names=np.array(counts.names, np.str_),
            classes=np.array(counts.classes, np.str_),
            groups=np.array(counts.groups, np.str_),
            offsets=counts.offsets,
            pairs=counts.pairs,
            counts=counts.counts,
        )


def read_image_counts(folder: Path) -> ImageCounts | None:
    """What ``write_image_counts`` wrote; None where there is no such file.

    The file is data: nothing is unpickled, sizes are checked before anything is unpacked, numbers before they are
    used. Raises ValueError for a file that is damaged or not of this kind.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        arrays = _arrays(path)
    except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error}); evaluate again") from error
    names, classes, groups = (tuple(map(str, arrays[key])) for key in ("names", "classes", "groups"))
    offsets, pairs, counts = (arrays[key] for key in ("offsets", "pairs", "counts"))
    sound = (
        len(offsets) == len(names) + 1
        and len(groups) in (0, len(names))
        and len(pairs) == len(counts) == offsets[-1]
        and offsets[0] == 0
        and bool((np.diff(offsets) >= 0).all())
        and (len(pairs) == 0 or int(pairs.max()) < len(classes) ** 2)
    )
    if not sound:
        raise ValueError(f"{str(path)!r} contradicts itself; evaluate again")
    return ImageCounts(names, classes, offsets.astype(np.int64), pairs, counts, groups)


def _arrays(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info.file_size for info in archive.infolist()}
        if set(members) != {f"{key}.npy" for key in _ARRAYS} or len(archive.infolist()) != len(_ARRAYS):
            raise ValueError(f"{str(path)!r} is not the {NAME} of an evaluation")
        if sum(members.values()) > _LARGEST:
            raise ValueError(f"{str(path)!r} unpacks to {sum(members.values())} bytes, more than {_LARGEST}")
        for key, kind in _ARRAYS.items():
            with archive.open(f"{key}.npy") as file:
                major, _ = np.lib.format.read_magic(file)
                if major != 1:
                    raise ValueError(f"{str(path)!r}: {key} is in a format that is not read")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                # numpy allocates what the header says before it reads.
                told = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if (
                    dtype.kind != kind
                    or len(shape) != (key != "version")
                    or file.tell() + told != members[f"{key}.npy"]
                ):
                    raise ValueError(f"{str(path)!r}: {key} is not what an evaluation writes")
    with np.load(path, allow_pickle=False) as content:
        arrays = {key: content[key] for key in _ARRAYS}
    if int(arrays["version"]) != _VERSION:
        raise ValueError(f"{str(path)!r} is of version {int(arrays['version'])}; this package reads {_VERSION}")
    return arrays
