"""What the ranks of one machine share: a folder that only this user can open."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml


class Exchange:
    """The folder in which one process tells others of this machine their job, and they say how it goes.

    ``orders.yaml`` is the job, ``store`` the file in which their process group meets, ``ready`` grows by a byte for
    each rank that is ready, and ``failure`` says why the first of those that failed did.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def new(cls) -> Self:
        return cls(Path(tempfile.mkdtemp(prefix="pspnet-")))  # mode 0700

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def hand_out(self, orders: Mapping[str, Any]) -> None:
        (self.folder / "orders.yaml").write_text(yaml.safe_dump(dict(orders), sort_keys=False))

    def orders(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((self.folder / "orders.yaml").read_text())
        return content

    def add_ready(self, count: int) -> None:
        with (self.folder / "ready").open("ab", buffering=0) as file:
            file.write(b"." * count)

    def ready(self) -> int:
        try:
            return (self.folder / "ready").stat().st_size
        except FileNotFoundError:
            return 0

    def fail(self, text: str) -> bool:
        """Whether this is the first failure; only that one is kept."""
        try:
            with tempfile.NamedTemporaryFile("w", dir=self.folder) as whole:
                whole.write(text)
                whole.flush()
                os.link(whole.name, self.folder / "failure")
        except OSError:  # there is one, or the job is over
            return False
        return True

    def failure(self) -> str | None:
        try:
            return (self.folder / "failure").read_text()
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
