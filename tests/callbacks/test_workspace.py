"""The sweep's page is built without a network; saving it needs a login and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run

from pspnet_lightning.loggers.workspace import AXES, sweep_workspace

pytest.importorskip("wandb_workspaces")


def test_bins_against_miou_and_parallel_coordinates() -> None:
    view = sweep_workspace("a-project", "a-team", group="2026-11-24/08-22-47")._to_model()
    assert (view.entity, view.project, view.display_name) == ("a-team", "a-project", "pooling bins")
    sections = view.spec.section.panel_bank_config.sections
    shown = {section.name: [panel.view_type for panel in section.panels] for section in sections}
    assert shown["Pooling bins"] == ["Bar Chart", "Parallel Coordinates Plot", "Parameter Importance"]
    assert shown["Curves"] == ["Run History Line Plot"] * 4
    assert shown["Pictures of the best checkpoints"] == ["Media Browser"] * 3
    bars, parallel = sections[0].panels[:2]
    assert bars.config.metrics == ["best/miou"]
    assert bars.config.group_by == "bins.value"
    accessors = [column.accessor for column in parallel.config.columns]
    assert accessors[0] == "config:bins.value"
    assert accessors[1:-2] == [
        f"config:{key.replace('.', '.value.') if '.' in key else key + '.value'}" for key in AXES
    ]
    assert accessors[-2:] == ["summary:best/loss", "summary:best/miou"]
    assert "2026-11-24/08-22-47" in view.model_dump_json()


def test_saving_needs_a_login(command: Run, tmp_path: Path) -> None:
    result = command("workspace", "project=p", WANDB_API_KEY="", NETRC="/nonexistent")
    assert result.returncode == 1
    assert "saving a workspace needs a login: `wandb login` once" in result.stderr
    assert list(tmp_path.iterdir()) == []
