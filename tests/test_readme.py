"""The README's map is the package's, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def test_the_map_names_every_room() -> None:
    text = (REPOSITORY / "README.md").read_text()
    package = text[text.index("    pspnet_lightning/ ") : text.index("    conf/ ")]
    named = re.findall(r"(\w+)/(?= |$)", "\n".join(line[:46] for line in package.splitlines()[1:]), re.MULTILINE)
    rooms = [path.parent.name for path in (REPOSITORY / "pspnet_lightning").glob("*/__init__.py")]
    assert sorted(named) == sorted(rooms)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_way_of_a_batch_is_read_in_an_afternoon() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^\d+\. `([\w/.]+\.py)`", text, re.MULTILINE)
    assert len(listed) == 14
    assert sum(len((REPOSITORY / name).read_text().splitlines()) for name in listed) <= 2500
