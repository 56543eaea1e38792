"""`pspnet-predict checkpoint=PATH input=... output=DIR`: label maps, overlays, probabilities of images and videos."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import DictConfig

from pspnet_lightning.config import as_plain, check_config
from pspnet_lightning.config.evaluation import protocol_text, trained_bands, trained_crop
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.description import image_reader
from pspnet_lightning.data.rasters import TIFF_TAILS, TiffRows, georeference, image_size
from pspnet_lightning.disk import clear_parts
from pspnet_lightning.inference.inputs import KINDS, Input, find_inputs
from pspnet_lightning.inference.manifest import Manifest
from pspnet_lightning.inference.predictor import Predictor
from pspnet_lightning.inference.video import predict_video
from pspnet_lightning.inference.writer import Outputs, Writer
from pspnet_lightning.launch.app import bar, keeping, run
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.runs.stored_network import read_network
from pspnet_lightning.terminal import animated

# What is wrong with one input and leaves the others alone.
_OF_ONE_INPUT = (ValueError, FileNotFoundError, PermissionError, MemoryError, torch.OutOfMemoryError, cv2.error)


def main() -> None:
    """The console script."""
    run("predict", predict)


def predict(cfg: DictConfig) -> None:
    """Predicts every input that the output folder does not hold yet.

    Raises ValueError, which ends the command with exit code 1, at the end, listing what could not be predicted.
    """
    check_config(cfg, "predict")
    outputs = Outputs(cfg.index, cfg.overlay, cfg.probabilities, cfg.opacity)
    network = read_network(as_plain(cfg.checkpoint), cfg.trust)
    config, spec = network.config, network.spec
    protocol = network.protocol(cfg.evaluation, spec.name)
    inputs = find_inputs(cfg.input, [Path(cfg.output) / kind for kind in KINDS])
    predictor = Predictor(network.rebuild(), protocol, trained_crop(config), device=cfg.device, precision=cfg.precision)
    settings = {
        "checkpoint": network.fingerprint(),
        "protocol": protocol.to_dict(),
        "precision": cfg.precision,
        "stream_above": cfg.stream_above,
        "outputs": outputs.to_dict(),
    }
    folder = Path(cfg.output)
    folder.mkdir(parents=True, exist_ok=True)
    keeping(f"what is finished is kept in {folder}; the same command goes on")
    with locked(folder, f"output={str(folder)!r}", "give another output=..."):
        clear_parts(folder, *KINDS)
        work = _Work(
            predictor,
            Writer(folder, spec, outputs),
            Manifest(folder, settings),
            _reader(config, spec),
            cfg.stream_above,
        )
        _predict(
            cfg, work, inputs, f"{network.name}, {spec.num_classes} classes of {spec.name}: {protocol_text(protocol)}"
        )


def _predict(cfg: DictConfig, work: _Work, inputs: list[Input], said: str) -> None:
    waiting = [source for source in inputs if not work.manifest.is_done(source.path)]
    done = len(inputs) - len(waiting)
    print(
        f"{said}; {len(inputs)} inputs" + (f", {done} of them done already" if done else ""),
        flush=True,
    )
    failed = work.through(waiting)
    print(f"{len(waiting) - len(failed)} predicted; {cfg.output}", flush=True)
    if failed:
        listed = "\n  ".join(text if str(path) in text else f"{path}: {text}" for path, text in failed)
        raise ValueError(f"{len(failed)} of {len(inputs)} inputs could not be predicted:\n  {listed}")


class _Reader:
    """Images as the checkpoint's network was trained on them."""

    def __init__(self, channels: int, bands: list[int] | None) -> None:
        self.channels, self.bands = channels, bands
        self.read = image_reader(channels, bands)


def _reader(config: StoredConfig, spec: DataSpec) -> _Reader:
    return _Reader(len(spec.mean), trained_bands(config))


class _Work:
    """One input after the other, the next image read while one is predicted."""

    def __init__(
        self, predictor: Predictor, writer: Writer, manifest: Manifest, reader: _Reader, stream_above: int
    ) -> None:
        self.predictor, self.writer, self.manifest, self.reader = predictor, writer, manifest, reader
        self.stream_above = stream_above

    def through(self, inputs: list[Input]) -> list[tuple[Path, str]]:
        """Predicts the inputs; answers those that could not be, with the reason."""
        failed = []
        with _bar(len(inputs)) as progress, ThreadPoolExecutor(1) as pool:
            ahead: Future[np.ndarray | None] | None = None
            for number, source in enumerate(inputs):
                progress(source.path.name, number, 0.0)
                image = ahead or pool.submit(self._read, source)
                following = inputs[number + 1] if number + 1 < len(inputs) else None
                ahead = None if following is None else pool.submit(self._read, following)
                try:
                    self._one(source, image.result(), partial(progress, source.path.name, number))
                except _OF_ONE_INPUT as error:
                    failed.append((source.path, str(error) or type(error).__name__))
        return failed

    def _read(self, source: Input) -> np.ndarray | None:
        """The image; None for a video and for a TIFF that is read row by row."""
        if source.is_video:
            return None
        if source.path.suffix.lower() in TIFF_TAILS:
            height, width = image_size(source.path)
            if height * width > self.stream_above:
                return None
        return self.reader.read(source.path)

    def _one(self, source: Input, image: np.ndarray | None, progress: Callable[[float], None]) -> None:
        if source.is_video:
            if self.writer.outputs.probabilities:
                raise ValueError("probabilities=true is for images; a video's would fill the disk")
            predict_video(
                source,
                self.writer,
                self.predictor.labels,
                self.manifest,
                lambda number, total: progress(number / total if total else 0.0),
            )
            return
        if image is None or image.shape[0] * image.shape[1] > self.stream_above:
            files = self._stream(source, image, progress)
        else:
            tags = georeference(source.path)
            probabilities = self.predictor.probabilities(image) if self.writer.outputs.probabilities else None
            labels = self.predictor.labels(image) if probabilities is None else probabilities.argmax(0).astype(np.uint8)
            files = self.writer.image(source.stem, image, labels, probabilities, tags)
        self.manifest.finish(source.path, files)

    def _stream(self, source: Input, image: np.ndarray | None, progress: Callable[[float], None]) -> list[Path]:
        if self.writer.outputs.probabilities:
            raise ValueError(
                "probabilities=true: this image has more than stream_above pixels, and its probabilities would fill "
                "the memory; set probabilities=false or a larger stream_above"
            )
        rows: Callable[[int, int], np.ndarray]
        if image is None:
            tiff = TiffRows(source.path, self.reader.channels, self.reader.bands)
            height, width, tags, rows = tiff.height, tiff.width, tiff.georeference, tiff.rows
        else:
            (height, width), whole = image.shape[:2], image
            tags, rows = [], lambda top, bottom: whole[top:bottom]

        def bands() -> Iterator[np.ndarray]:
            done = 0
            for band in self.predictor.stream(rows, height, width):
                yield band
                done += len(band)
                progress(done / height)

        return self.writer.stream(source.stem, rows, bands(), height, width, tiff=image is None, tags=tags)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str, int, float], None]]:
    """A bar on standard error if that is a terminal; moved by (name of the input, inputs done, share of this one)."""
    if not animated(sys.stderr):
        yield lambda name, done, share: None
        return
    with bar() as progress:
        task = progress.add_task("", total=total)
        yield lambda name, done, share: progress.update(task, description=name, completed=done + share)
