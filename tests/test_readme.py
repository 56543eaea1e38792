"""The README's tree is the package's."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import REPOSITORY


def test_the_tree_names_every_file() -> None:
    tree = re.search(r"## The tree\n(.*?)\n## ", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    named = re.findall(r"^      (\S+\.py) ", tree[1], re.MULTILINE)
    package = REPOSITORY / "pspnet_lightning"
    # In a folder of its own, __init__.py says what the folder is.
    files = {path.relative_to(package).as_posix() for path in Path(package).rglob("*.py")}
    assert set(named) == {name for name in files if not name.endswith("__init__.py")}
    assert len(named) == len(set(named))
