"""A data set's fingerprint: equal where the files are equal, on any machine; cheap enough for every run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pspnet_lightning.data.datasets import SegmentationDataset, sample_indices

_SAMPLED = 16  # pairs of each split whose bytes are read
_PART = 512 * 1024  # bytes read at each end of a file longer than two of these


def fingerprint(splits: Iterable[SegmentationDataset]) -> str:
    """SHA-256 (hex) over the splits in their order: what each is made of, not where it lies nor when it was copied.

    Of every sample its name and its files' sizes, of 16 samples spread over the split the files' bytes (of a file
    above 1 MiB the first and last 512 KiB); paths relative to the folder that holds all files of the split; of
    generated data the generator's parameters; and the classes with their encoding. A changed pixel in a file of
    equal size outside the 16 is not seen.
    """
    total = hashlib.sha256()
    for data in splits:
        root = _common_folder(data)
        lines = [json.dumps([data.spec.to_dict(), data.parameters(), len(data)], sort_keys=True)]
        for index in range(len(data)):
            sizes = [path.stat().st_size for path in data.files(index)]
            lines.append(json.dumps([data.name(index).replace(root, ""), sizes]))
        lines += [_digest(path) for index in sample_indices(len(data), _SAMPLED) for path in data.files(index)]
        total.update("\n".join(lines).encode())
    return total.hexdigest()


def _common_folder(data: SegmentationDataset) -> str:
    folders = {str(path.parent) for index in range(len(data)) for path in data.files(index)}
    # Relative and absolute paths have no common folder; a split never mixes them.
    return os.path.join(os.path.commonpath(folders), "") if folders else "\0"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= 2 * _PART:
            return hashlib.sha256(file.read()).hexdigest()
        ends = hashlib.sha256(file.read(_PART))
        file.seek(-_PART, os.SEEK_END)
        ends.update(file.read())
        return ends.hexdigest()
