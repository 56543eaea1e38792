"""Videos: every frame predicted, an overlay video, index PNGs of the frames."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pspnet_lightning.inference.inputs import Input
from pspnet_lightning.inference.manifest import Manifest
from pspnet_lightning.inference.writer import Writer
from pspnet_lightning.visualize import legend, overlay, save_png

# (frames done, frames in all or None)
Progress = Callable[[int, int | None], None]


class Video:
    """The frames of a video file, RGB uint8 (H, W, 3). Raises ValueError where it has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # What FFmpeg would print about a broken file is said by the errors below.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise ValueError(f"video {str(path)!r} cannot be opened; is it damaged, or of a codec that OpenCV lacks?")
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None  # what its header says

    def __iter__(self) -> Iterator[np.ndarray]:
        number = 0
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            number += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        self._capture.release()
        if number == 0:
            raise ValueError(f"video {str(self.path)!r} has no frame that can be decoded")


def predict_video(
    source: Input,
    writer: Writer,
    labels_of: Callable[[np.ndarray], np.ndarray],
    manifest: Manifest,
    progress: Progress,
) -> None:
    """Writes ``overlay/NAME.mp4`` and, for every frame, ``index/NAME/000000.png``; frames that exist are not redone."""
    video = Video(source.path)
    outputs = writer.outputs
    frames, film = Path("index", source.stem), Path("overlay", f"{source.stem}.mp4")
    begun = manifest.was_begun(source.path)
    claimed = [frames] * outputs.index + [film] * outputs.overlay
    if not begun:
        manifest.begin(source.path, claimed)
    if outputs.index:
        (writer.folder / frames).mkdir(parents=True, exist_ok=True)
    sink = _Film(writer.folder / film, video.rate, writer) if outputs.overlay else None
    try:
        for number, frame in enumerate(video):
            progress(number, video.count)
            target = writer.folder / frames / f"{number:06}.png"
            if begun and outputs.index and target.is_file():
                with Image.open(target) as file:
                    labels = np.array(file)
            else:
                labels = labels_of(frame)
                if outputs.index:
                    save_png(labels, target, writer.spec.palette)
            if sink is not None:
                sink.add(frame, labels)
        if sink is not None:
            sink.finish()
    finally:
        if sink is not None:
            sink.discard()
    manifest.finish(source.path, claimed)


class _Film:
    """The overlay video: frames over the legend of all classes; under its name only once it is whole."""

    def __init__(self, path: Path, rate: float, writer: Writer) -> None:
        self.path, self.rate, self.writer = path, rate, writer
        # OpenCV takes the container from the suffix.
        self.part = path.with_name(f".{path.stem}.part.mp4")
        self._sink: Any = None
        self._legend: np.ndarray | None = None
        self._frames = 0

    def add(self, frame: np.ndarray, labels: np.ndarray) -> None:
        spec = self.writer.spec
        picture = overlay(frame, labels, spec.palette, self.writer.outputs.opacity)
        if self._legend is None:
            self._legend = legend(frame.shape[1], [np.arange(spec.num_classes, dtype=np.uint8)[None]], spec)
        canvas = np.full((picture.shape[0] + len(self._legend), self._legend.shape[1], 3), 255, np.uint8)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        canvas[picture.shape[0] :] = self._legend
        # Codecs want even sizes.
        canvas = np.pad(canvas, ((0, canvas.shape[0] % 2), (0, canvas.shape[1] % 2), (0, 0)), constant_values=255)
        if self._sink is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = (canvas.shape[1], canvas.shape[0])
            self._sink = cv2.VideoWriter(str(self.part), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
            if not self._sink.isOpened():
                raise ValueError(f"OpenCV cannot write {str(self.path)!r} (mp4v); overlay=false writes index PNGs only")
        self._sink.write(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def finish(self) -> None:
        """Raises OSError where not all frames are in the file: OpenCV says nothing of a disk that is full."""
        self._sink.release()
        written = cv2.VideoCapture(str(self.part))
        there = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if there != self._frames:
            raise OSError(
                errno.ENOSPC, f"{there} of {self._frames} frames written, {os.strerror(errno.ENOSPC)}", str(self.path)
            )
        os.replace(self.part, self.path)

    def discard(self) -> None:
        if self._sink is not None:
            self._sink.release()
        self.part.unlink(missing_ok=True)
