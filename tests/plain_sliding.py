"""Sliding windows as the official code does them, one crop after the other: what ours is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from pspnet_lightning.inference import SlidingWindow


def plain_probabilities(
    image: np.ndarray,
    protocol: SlidingWindow,
    net: Callable[[torch.Tensor], torch.Tensor],
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """(H, W, K): the official loop (hszhao/semseg, tool/test.py), crop by crop in float64 with cv2."""
    height, width = image.shape[:2]
    answer: np.ndarray | float = 0.0
    for scale in protocol.scales:
        size = protocol.scaled_size(height, width, scale)
        scaled = cv2.resize(image.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        crop_h, crop_w = protocol.crop or size
        pad_h, pad_w = max(crop_h - size[0], 0), max(crop_w - size[1], 0)
        borders = (pad_h // 2, pad_h - pad_h // 2, pad_w // 2, pad_w - pad_w // 2, cv2.BORDER_CONSTANT)
        padded = cv2.copyMakeBorder(scaled, *borders, value=list(mean))
        total: np.ndarray | float = 0.0
        count = np.zeros((*padded.shape[:2], 1))
        stride_h, stride_w = (int(np.ceil(side * protocol.stride_rate)) for side in (crop_h, crop_w))
        for row in range(int(np.ceil((padded.shape[0] - crop_h) / stride_h)) + 1):
            for column in range(int(np.ceil((padded.shape[1] - crop_w) / stride_w)) + 1):
                bottom, right = (
                    min(row * stride_h + crop_h, padded.shape[0]),
                    min(column * stride_w + crop_w, padded.shape[1]),
                )
                part = (slice(bottom - crop_h, bottom), slice(right - crop_w, right))
                x = torch.from_numpy((padded[part] - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)[None]
                probabilities = net(x).softmax(1)
                if protocol.flip:
                    probabilities = (probabilities + net(x.flip(3)).softmax(1).flip(3)) / 2
                if isinstance(total, float):
                    total = np.zeros((*padded.shape[:2], probabilities.shape[1]))
                total[part] += probabilities[0].permute(1, 2, 0).numpy()
                count[part] += 1
        inner = (total / count)[pad_h // 2 : pad_h // 2 + size[0], pad_w // 2 : pad_w // 2 + size[1]]
        answer += cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR)
    return answer / len(protocol.scales)
