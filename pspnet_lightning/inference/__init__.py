"""Prediction beyond one forward pass: sliding windows, several scales, mirrored crops, images too big to hold."""

from pspnet_lightning.inference.protocol import SlidingWindow
from pspnet_lightning.inference.sliding import Network, label_rows, predict_probabilities, sliding_window

__all__ = ["Network", "SlidingWindow", "label_rows", "predict_probabilities", "sliding_window"]
