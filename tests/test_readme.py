"""The README's map is the package's."""

from __future__ import annotations

import re

from conftest import REPOSITORY


def test_the_map_names_every_room() -> None:
    tree = re.search(r"## The tree\n(.*?)\n## ", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    package = tree[1][tree[1].index("    pspnet_lightning/") :]
    named = re.findall(r"^      (\w+)/ ", package, re.MULTILINE)
    rooms = [path.parent.name for path in (REPOSITORY / "pspnet_lightning").glob("*/__init__.py")]
    assert sorted(named) == sorted(rooms)
