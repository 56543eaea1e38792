"""Resizing a picture whose rows arrive in bands, without ever holding it whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RowResizer:
    """Resizes a picture that comes in bands of rows, bilinearly (as cv2.resize, align_corners off)."""

    def __init__(self, source: int, target: int, width: int) -> None:
        self.source, self.width = source, width
        position = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
        self.upper = position.floor().long()
        self.lower = (self.upper + 1).clamp(max=source - 1)
        self.weight = (position - self.upper).float()
        self.done = 0  # target rows handed over
        self.first = 0  # the source row that `kept` begins with
        self.kept: Tensor | None = None

    def push(self, band: Tensor) -> tuple[int, Tensor]:
        """The next source rows (K, r, w); answers the first target row and all that are now known, (K, n, W)."""
        if (self.source, band.shape[2]) == (len(self.upper), self.width):
            self.done += band.shape[1]
            return self.done - band.shape[1], band
        band = resize(band[None], (band.shape[1], self.width))[0]
        rows = band if self.kept is None else torch.cat([self.kept, band], dim=1)
        known = self.first + rows.shape[1]
        end = int(torch.searchsorted(self.lower, known))
        start, self.done = self.done, end
        upper = (self.upper[start:end] - self.first).to(rows.device)
        lower = (self.lower[start:end] - self.first).to(rows.device)
        weight = self.weight[start:end, None].to(rows.device)
        finished = rows[:, upper].lerp_(rows[:, lower], weight)
        needed = int(self.upper[end]) if end < len(self.upper) else known
        drop = min(needed, known) - self.first
        self.kept, self.first = rows[:, drop:].clone(), self.first + drop
        return start, finished


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) bilinearly to ``size``, pixel areas kept (as cv2.resize, align_corners off)."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
