"""The LightningDataModule: a data set's splits as loaders whose samples depend on (seed, epoch, index) only."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import cv2
import lightning as L
import numpy as np
import torch
from annotated_types import Ge, Interval
from torch.utils.data import DataLoader

from pspnet_lightning.data import (
    DataSpec,
    EpochSampler,
    Progress,
    SegmentationDataset,
    Source,
    Transform,
    TransformedDataset,
    check_labels,
    collate,
    collate_by_size,
    count_classes,
    first_images,
    shard_indices,
    silent,
)


def _start_worker(_: int) -> None:
    # A worker is one process on one core: OpenCV's and torch's own threads would only fight over it.
    # What asks the whole process group to stop is for the process that trains: it still needs its next batch.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@functools.cache
def _end_workers_with_this_process() -> None:
    """Once a process: workers end before Python's own end waits for them, which it does without a limit.

    It sends them SIGTERM, which they ignore, and one that waits for its next image never hears of the end.
    """
    atexit.register(_kill_workers)


def _kill_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch makes an exception of a worker's end
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class _TrainLoader(DataLoader[Any]):
    """Begins each epoch at the batch that the trainer's progress says; so a resumed run goes on where it stopped.

    Lightning asks for an iterator before it restores its progress: being a generator, this one looks at the progress
    (and starts the workers) only when the first batch is asked for.
    """

    position: Callable[[], int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        assert isinstance(self.batch_sampler, EpochSampler)
        self.batch_sampler.start_batch = 0 if self.position is None else self.position()
        yield from super().__iter__()

    # Lightning takes a loader with these two for resumable; there is no state to keep.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class SegmentationDataModule(L.LightningDataModule):
    """Loaders for the splits that ``source(split)`` answers, split being train, val or test.

    ``batch_size`` is the total over all ranks. Training batches hold ``{"image": uint8 (N, C, H, W)
    channels_last, "label": uint8 (N, H, W), "name": [str], "index": (N,)}``; validation batches are
    lists of such groups, one per image size, so that nothing is padded.

    ``num_workers="auto"`` takes the cores of this machine, less one per rank, at most 8 per rank. The
    training transform is handed a generator that depends on (seed, epoch, index) alone, so the
    samples are the same for every number of workers and of ranks; see ``EpochSampler``.

    ``check`` images of each split are read in ``setup``. With ``overfit`` above 0 all splits are the first so many
    training images: can the network learn them by heart?

    Raises ValueError when the total batch does not divide over the ranks, when the training split is
    smaller than one batch, and, in ``setup``, when labels lie outside the classes.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Transform,
        eval_transform: Transform,
        batch_size: Annotated[int, Ge(1)] = 16,
        val_batch_size: Annotated[int, Ge(1)] = 1,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] | Literal["auto"] = "auto",
        seed: int = 0,
        check: Annotated[int, Ge(0)] = 16,
        overfit: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or val_batch_size < 1:
            raise ValueError(
                f"data.batch_size={batch_size} and data.val_batch_size={val_batch_size} must be at least 1"
            )
        self.source = source
        self.transform = transform
        self.eval_transform = eval_transform
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        _workers(num_workers)
        self.seed = seed
        self.check = check
        self.overfit = overfit
        self._splits: dict[str, SegmentationDataset] = {}

    def split(self, name: str) -> SegmentationDataset:
        """The raw data set of a split, opened once."""
        if name not in self._splits:
            data = self.source("train" if self.overfit else name)
            self._splits[name] = first_images(data, self.overfit) if self.overfit else data
        return self._splits[name]

    @property
    def spec(self) -> DataSpec:
        return self.split("val").spec

    def setup(self, stage: str) -> None:
        """Opens the splits that ``stage`` needs and checks a sample of their labels before any time is spent."""
        for name in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            check_labels(self.split(name), limit=self.check)

    def class_counts(self, progress: Progress = silent) -> np.ndarray:
        """Labelled pixels of each class over the training split, int64 (K,)."""
        return count_classes(self.split("train"), progress)

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world_size = self._ranks()
        share_of_batch(self.batch_size, world_size)
        data = self.split("train")
        if len(data) < self.batch_size:
            raise ValueError(
                f"the training split of {data.spec.name} has {len(data)} images, fewer than "
                f"data.batch_size={self.batch_size}: not one whole batch; make data.batch_size smaller"
            )
        sampler = EpochSampler(
            len(data),
            seed=self.seed,
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            rank=rank,
            world_size=world_size,
        )
        loader = _TrainLoader(
            TransformedDataset(data, self.transform, seed=self.seed),
            batch_sampler=sampler,
            collate_fn=collate,
            **self._loader_options(),
        )
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            loader.position = lambda: progress.current.ready % len(sampler)
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: str) -> DataLoader[Any]:
        data = self.split(split)
        rank, world_size = self._ranks()
        keys = [(0, index) for index in shard_indices(len(data), rank=rank, world_size=world_size)]
        # A rank without an image takes part with one batch of no groups: all ranks add up their counts in the end.
        batches: dict[str, Any] = (
            {"sampler": keys, "batch_size": self.val_batch_size} if keys else {"batch_sampler": [[]]}
        )
        return DataLoader(
            TransformedDataset(data, self.eval_transform, seed=self.seed),
            collate_fn=collate_by_size,
            **batches,
            **self._loader_options(),
        )

    def _loader_options(self) -> dict[str, Any]:
        workers = _workers(self.num_workers, 1 if self.trainer is None else self.trainer.num_devices)
        if workers:
            _end_workers_with_this_process()
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "worker_init_fn": _start_worker,
            "pin_memory": torch.cuda.is_available(),
            # A generator of its own keeps the loader from drawing on the global one, which dropout uses.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def share_of_batch(batch_size: int, ranks: int) -> int:
    """Images of a batch for each rank. Raises ValueError where they cannot be shared out evenly."""
    if batch_size % ranks:
        fitting = batch_size // ranks * ranks
        remedy = f"take {fitting}" if fitting else f"take {ranks}, or at most {batch_size} devices"
        raise ValueError(
            f"data.batch_size={batch_size} is the total over all {ranks} devices and must divide by their number; "
            f"{remedy}"
        )
    return batch_size // ranks


def _workers(number: int | str, local_ranks: int = 1) -> int:
    if number == "auto":
        return max(0, min(8, len(os.sched_getaffinity(0)) // local_ranks - 1))
    if isinstance(number, str) or number < 0:
        raise ValueError(f"data.num_workers={number!r} must be 'auto' or a number >= 0")
    return number
