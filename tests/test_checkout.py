"""The state of the code: right whatever the settings of the checkout say, and none of them runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pspnet_lightning.runs.checkout import code_state

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"]


def git(folder: Path, *words: str) -> str:
    return subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "mine.yaml").write_text("lr: 1\n")
    (folder / "picture.bin").write_bytes(bytes(range(256)))
    (folder / ".gitattributes").write_text("*.yaml filter=evil diff=evil\n*.bin filter=evil diff=evil\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def state(project: Path, tmp_path: Path) -> tuple[bool | None, str]:
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    found = code_state(run, tmp_path / "elsewhere")
    assert found is not None
    assert found["commit"] == git(project, "rev-parse", "HEAD").strip()
    patch = run / "diff.patch"
    assert patch.exists() == bool(found["dirty"])
    return found["dirty"], patch.read_text() if patch.exists() else ""


def script(tmp_path: Path) -> str:
    """A program that tells that it ran."""
    path = tmp_path / "evil.sh"
    path.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\ncat\n")
    path.chmod(0o755)
    return str(path)


SETTINGS = {
    "fsmonitor": {"core.fsmonitor": "{}"},
    "external diff": {"diff.external": "{}"},
    "diff driver": {"diff.evil.command": "{}"},
    "textconv": {"diff.evil.textconv": "{}", "diff.evil.binary": "false"},
    "clean": {"filter.evil.clean": "{}", "filter.evil.required": "true"},
    "process": {"filter.evil.process": "{}", "filter.evil.required": "true"},
    "smudge": {"filter.evil.smudge": "{}"},
    "hooks": {"core.hooksPath": "{}"},
    "pager": {"core.pager": "{}", "pager.diff": "true", "core.editor": "{}"},
    "remote helpers": {
        "remote.origin.url": "ext::{}",
        "remote.origin.promisor": "true",
        "extensions.partialClone": "origin",
        "core.repositoryformatversion": "1",
        "core.sshCommand": "{}",
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_of_the_checkout_runs(name: str, project: Path, tmp_path: Path) -> None:
    evil = script(tmp_path)
    if name == "hooks":
        hooks = tmp_path / "hooks"
        hooks.mkdir()
        for hook in ("post-index-change", "fsmonitor-watchman", "pre-commit"):
            (hooks / hook).symlink_to(evil)
        evil = str(hooks)
    for key, value in SETTINGS[name].items():
        git(project, "config", key, value.format(evil))
    # What git looks at closely: a file that is younger than the index.
    os.utime(project / "mine.yaml")
    assert state(project, tmp_path) == (False, "")
    (project / "mine.yaml").write_text("lr: 2\n")
    (project / "new.py").write_text("x = 1\n")
    (tmp_path / "ran").unlink(missing_ok=True)
    dirty, patch = state(project, tmp_path)
    assert dirty is True
    assert "-lr: 1\n+lr: 2\n" in patch
    assert "+x = 1\n" in patch
    assert not (tmp_path / "ran").exists()


def test_a_submodules_settings_do_not_run(project: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    git(part, "init", "-q")
    (part / "a.py").write_text("1\n")
    git(part, "add", "-A")
    git(part, "commit", "-qm", "part")
    git(project, "submodule", "add", "-q", str(part), "part")
    git(project, "commit", "-qam", "with a part")
    git(project / "part", "config", "core.fsmonitor", script(tmp_path))
    (project / "part" / "a.py").write_text("2\n")
    assert state(project, tmp_path) == (False, "")
    assert not (tmp_path / "ran").exists()


def test_the_patch_is_one_whatever_the_settings_say_of_its_looks(project: Path, tmp_path: Path) -> None:
    for key, value in (
        ("color.ui", "always"),
        ("color.diff", "always"),
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.relative", "true"),
        ("diff.submodule", "log"),
        ("diff.renames", "copies"),
    ):
        git(project, "config", key, value)
    (project / "mine.yaml").write_text("lr: 2\n")
    dirty, patch = state(project, tmp_path)
    assert dirty is True
    git(project, "checkout", "-q", "mine.yaml")
    subprocess.run(["git", "apply", str(tmp_path / "run" / "diff.patch")], cwd=project, check=True)
    assert (project / "mine.yaml").read_text() == "lr: 2\n"
    assert "\x1b" not in patch


def test_a_checkout_that_git_cannot_compare_is_not_called_clean(project: Path, tmp_path: Path) -> None:
    (project / ".git" / "index").write_bytes(b"torn")
    assert state(project, tmp_path) == (None, "")


def test_a_change_in_the_second_of_the_commit_is_seen(project: Path, tmp_path: Path) -> None:
    """Of equal size and time: git compares the content only where the index is not younger."""
    for number in range(2, 8):
        before = (project / "mine.yaml").stat()
        git(project, "add", "mine.yaml")
        git(project, "commit", "-q", "--allow-empty", "-m", "again")
        index = project / ".git" / "index"
        (project / "mine.yaml").write_text(f"lr: {number}\n")
        for path in (project / "mine.yaml", index):
            os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
        assert state(project, tmp_path)[0] is True
