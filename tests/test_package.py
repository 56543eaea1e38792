"""The wheel, installed elsewhere, trains from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL


@pytest.mark.slow
def test_the_wheel_trains_from_another_folder(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs the dev extra's `build`")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    assert (installed / "pspnet_lightning" / "conf" / "train.yaml").is_file()
    arguments = [*SMALL, "data.train_length=8", "data.val_length=2", "data.batch_size=4", "data.epochs=1"]
    result = subprocess.run(
        [sys.executable, "-c", "from pspnet_lightning.cli.train import main; main()", "hydra.run.dir=run", *arguments],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (elsewhere / "run" / "checkpoints" / "best.ckpt").is_file()
