"""The further scores by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pspnet_lightning.metrics.boundary import BoundaryScores
from pspnet_lightning.metrics.calibration import CalibrationScores
from pspnet_lightning.metrics.image_score import ImageScore
from pspnet_lightning.metrics.ranking import RankingScores
from pspnet_lightning.metrics.surface import SurfaceScores
from pspnet_lightning.sizes import Further


def further_scores(
    names: Sequence[Further],
    classes: int,
    ignore_index: int,
    *,
    boundary: float = 0.02,
    trimap: Sequence[int] = (1, 2, 4, 8, 16),
    tolerance: float = 2.0,
    spacing: tuple[float, float] = (1.0, 1.0),
    fit_images: int = 0,
) -> list[ImageScore]:
    """Each score once; the numbers as in ``BoundaryScores``, ``SurfaceScores`` and ``CalibrationScores``.

    Raises ValueError where one is not of so many classes.
    """
    makers: dict[str, Callable[[], ImageScore]] = {
        "boundary": lambda: BoundaryScores(classes, ignore_index, boundary, trimap),
        "surface": lambda: SurfaceScores(classes, ignore_index, tolerance, spacing),
        "calibration": lambda: CalibrationScores(classes, ignore_index, fit_images),
        "auc": lambda: RankingScores(classes, ignore_index),
    }
    return [makers[name]() for name in dict.fromkeys(names)]
