"""Downloads that the owners allow: resumed where they broke off, checked, unpacked, never done twice.

torchvision's and pooch's downloaders begin anew after an interruption. These archives are gigabytes long, from servers
that break off: resuming is why this file exists.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pspnet_lightning.terminal import animated

_BLOCK = 1 << 20


class Archive(NamedTuple):
    """A file to fetch: ``digest`` is its MD5 or SHA-1 in hexadecimal digits, told apart by their number."""

    url: str
    digest: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


# Checksums as torchvision (VOC, SBD, Pet) and gluon-cv (ADE20K) have them.
ADE20K_ARCHIVE = Archive(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip", "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"
)
VOC2012_ARCHIVE = Archive(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd"
)
SBD_ARCHIVE = Archive(
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
)
PET_ARCHIVES = (
    Archive("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    Archive("https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
)


def obtain(archives: Sequence[Archive], root: str | Path, *, done: str) -> None:
    """Fetches and unpacks ``archives`` into ``root``, unless the folder ``done`` below it is there already.

    Raises ValueError where there is no network, or the checksum differs (the file is then removed).
    """
    folder = Path(root).expanduser()
    if (folder / done).exists() and not any(_marker(folder, archive).exists() for archive in archives):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        marker = _marker(folder, archive)
        # The marker stays until all is unpacked: an interrupted unpacking is done again.
        marker.touch()
        file = fetch(archive, folder)
        _unpack(file, folder)
    for archive in archives:
        _marker(folder, archive).unlink(missing_ok=True)
        (folder / archive.name).unlink(missing_ok=True)


def fetch(archive: Archive, folder: Path) -> Path:
    """The archive's file in ``folder``, downloaded where it is not there; a partial ``.part`` file is gone on with."""
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.is_file():
        return target
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            # A server that ignores the range sends the whole file again.
            mode = "ab" if start and answer.status == 206 else "wb"
            done = start if mode == "ab" else 0
            total = done + int(answer.headers.get("Content-Length", 0))
            with part.open(mode) as file, _Line(archive.name) as line:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    done += len(block)
                    line.show(f"{done / 1e6:.0f}{f' of {total / 1e6:.0f}' if total else ''} MB")
        if total and done < total:
            raise OSError(f"the connection broke off after {done} of {total} bytes")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the part is already the whole file
            raise _failed(archive, folder, error) from error
    except OSError as error:
        raise _failed(archive, folder, error) from error
    found = _digest(part, "sha1" if len(archive.digest) == 40 else "md5")
    if found != archive.digest:
        part.unlink()
        raise ValueError(
            f"{archive.url} has the checksum {found}, expected {archive.digest}: the file was damaged on the way, or "
            f"its owners changed it. It is removed; try again"
        )
    part.rename(target)
    return target


def _failed(archive: Archive, folder: Path, error: Exception) -> ValueError:
    return ValueError(
        f"data.download=true: cannot download {archive.url} ({error}). Run it again to go on where it stopped, or "
        f"fetch the file elsewhere and put it into {str(folder)!r}"
    )


def _unpack(file: Path, folder: Path) -> None:
    with _Line(f"unpacking {file.name}") as line:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                items = archive.infolist()
                for number, item in enumerate(items, 1):
                    archive.extract(item, folder)  # leaves out absolute paths and ".." by itself
                    line.show(f"{number} of {len(items)} files")
        else:
            with tarfile.open(file) as archive_:
                for number, member in enumerate(archive_, 1):
                    archive_.extract(member, folder, filter="data")
                    line.show(f"{number} files")


def _marker(folder: Path, archive: Archive) -> Path:
    return folder / f".{archive.name}.unpacking"


def _digest(file: Path, method: str) -> str:
    hasher = hashlib.new(method, usedforsecurity=False)
    with file.open("rb") as content:
        while block := content.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


class _Line:
    """One line that counts up on a terminal and stays when it is over; nothing where the output is piped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._latest, self._shown, self._when = "", "", 0.0

    def show(self, text: str) -> None:
        self._latest = text
        if time.monotonic() > self._when + 0.1:
            self._write()

    def _write(self) -> None:
        self._when, self._shown = time.monotonic(), self._latest
        if animated(sys.stderr):
            print(f"\r{self._name}: {self._latest}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown != self._latest:
            self._write()
        if self._latest and animated(sys.stderr):
            print(file=sys.stderr, flush=True)
