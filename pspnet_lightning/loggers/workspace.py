"""A sweep's page on W&B as code: bins against mIoU, parallel coordinates, curves by bins, pictures side by side."""

from __future__ import annotations

from typing import Any

from pspnet_lightning.loggers.wandb_run import STEP

# The config keys that a sweep varies most, as axes beside the bins.
AXES = ("seed", "data.fold", "data.batch_size", "optimizer.lr", "model.output_stride")


def sweep_workspace(project: str, entity: str, *, group: str | None = None, name: str = "pooling bins") -> Any:
    """A ``wandb_workspaces.workspaces.Workspace`` of a project's runs, of one sweep where ``group`` names it.

    Nothing is sent: ``save_workspace`` does that. Raises ValueError where wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise ValueError(
            "pspnet-workspace needs wandb-workspaces: pip install 'pspnet-lightning[workspace]'"
        ) from error
    bins, miou = panels.Config("bins"), panels.SummaryMetric("best/miou")
    columns: list[Any] = [bins, *(panels.Config(key) for key in AXES), panels.SummaryMetric("best/loss"), miou]

    def curve(key: str, title: str) -> Any:
        return panels.LinePlot(
            title=title,
            x=STEP,
            y=[key],
            title_x="optimiser step",
            groupby=bins,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )

    sections = {
        "Pooling bins": [
            panels.BarPlot(
                title="best mIoU by bins: mean and deviation over the runs",
                metrics=["best/miou"],
                groupby=bins,
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
            ),
            panels.ParallelCoordinatesPlot(
                title="what led to which mIoU",
                columns=[panels.ParallelCoordinatesPlotColumn(metric=metric) for metric in columns],
            ),
            panels.ParameterImportancePlot(with_respect_to="best/miou"),
        ],
        "Curves": [
            curve("val/miou", "validation mIoU"),
            curve("val/loss", "validation loss"),
            curve("train/loss", "training loss"),
            curve("images_per_second", "images a second"),
        ],
        "Pictures of the best checkpoints": [
            panels.MediaBrowser(title=title, media_keys=[f"best/{key}"])
            for key, title in (
                ("pictures", "the same images in every run"),
                ("hardest", "the hardest images"),
                ("confusion", "confusion"),
            )
        ],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[workspaces.Section(name=key, panels=value, is_open=True) for key, value in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis=STEP),
        runset_settings=workspaces.RunsetSettings(
            filters=f"Group = {group!r}" if group else "",
            pinned_columns=["run:displayName", "config:bins", "summary:best/miou", "summary:best/loss"],
        ),
    )


def save_workspace(project: str, entity: str | None, *, group: str | None, name: str) -> str:
    """Saves a new view of the project and answers its address. Raises ValueError without a login."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError(
            "saving a workspace needs a login: `wandb login` once, or the key in WANDB_API_KEY. Runs that were made "
            "offline are sent with `wandb sync` first"
        )
    owner = entity or wandb.Api().default_entity
    if owner is None:
        raise ValueError("the login has no default entity: give entity=..., a user's or a team's name")
    return str(sweep_workspace(project, owner, group=group, name=name).save().url)
