"""An augmentation of one's own: some images are turned by a quarter. augment=own_augment"""

import numpy as np

from pspnet_lightning.data import TrainTransform


class QuarterTurns(TrainTransform):
    """What the paper does, and then a turn by 90, 180 or 270 degrees; the crop is a square.

    All randomness comes from ``rng``, so that a resumed run sees the same images.
    """

    def __init__(
        self, crop_size: int, mean: tuple[float, ...], ignore_index: int, turn_probability: float = 0.5
    ) -> None:
        super().__init__(crop_size, mean=mean, ignore_index=ignore_index)
        self.turn_probability = turn_probability

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, label = super().__call__(image, label, rng)
        turns = int(rng.integers(1, 4)) if rng.random() < self.turn_probability else 0
        return np.ascontiguousarray(np.rot90(image, turns)), np.ascontiguousarray(np.rot90(label, turns))
