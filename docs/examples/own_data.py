"""A data set of one's own: discs on a ground. data=own_data"""

import numpy as np

from pspnet_lightning.data import DataSpec, SegmentationDataset


class Discs(SegmentationDataset):
    """``length`` generated images of ``size`` x ``size``; real ones would be read from files in ``read``."""

    spec = DataSpec("discs", classes=("ground", "disc"), palette=((90, 70, 50), (240, 200, 60)))

    def __init__(self, split: str, length: int = 32, size: int = 80) -> None:
        self.split, self.length, self.size = split, length, size

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"{self.split} {index}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((index, len(self.split)))
        rows, columns = np.ogrid[: self.size, : self.size]
        (y, x), radius = rng.uniform(0.2, 0.8, 2) * self.size, rng.uniform(0.1, 0.3) * self.size
        label = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8)
        image = np.where(label[..., None], 180, 80) + rng.normal(0, 30, (self.size, self.size, 3))
        return np.clip(image, 0, 255).astype(np.uint8), label
