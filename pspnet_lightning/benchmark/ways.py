"""The ways of running a PSPNet that the model benchmark compares, and the reference as the official code runs it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.data.reading import read_image
from pspnet_lightning.data.specs import IMAGENET_MEAN, IMAGENET_STD
from pspnet_lightning.inference import sliding_window
from pspnet_lightning.models import build_pspnet, exchange_convolutions, prepare_for_inference
from pspnet_lightning.models.abilities import demand
from pspnet_lightning.models.fast import restore_convolutions
from pspnet_lightning.models.normalized import normalized
from pspnet_lightning.models.pspnet import Composed
from pspnet_lightning.models.pyramid import PyramidConvolution
from pspnet_lightning.training.losses import CrossEntropy, segmentation_loss

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Way:
    """One cell of the benchmark's table."""

    measure: str
    formulation: str
    precision: str
    layout: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.formulation}, {self.precision}, {self.layout}, {self.mode}"


def reference_way(measure: str) -> Way:
    """What the official code runs, and what every ratio is to."""
    return Way(measure, "concatenation", "float32", "contiguous", "eager")


def ways(cfg: Any, measure: str) -> list[Way]:
    """The reference and every way that the configuration names and that makes sense."""
    found = [reference_way(measure)]
    for formulation in cfg["formulations"]:
        for precision in cfg["precisions"]:
            for layout in cfg["layouts"]:
                for mode in cfg["modes"]:
                    way = Way(measure, formulation, precision, layout, mode)
                    # A prepared network is not for training, and it is in channels_last.
                    senseless = formulation == "prepared" and (measure == "train" or layout == "contiguous")
                    if not senseless and way not in found:
                        found.append(way)
    return found


class Subjects:
    """The network and the inputs of one benchmark, and from them the function that each way times."""

    def __init__(self, cfg: Any, device: torch.device, *, calibrate: bool = True) -> None:
        self.cfg, self.device = cfg, device
        torch.manual_seed(cfg["seed"])
        self.mean, self.std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        if cfg["checkpoint"] is None:
            with device:
                self.network: Any = build_pspnet(cfg["classes"], depth=cfg["depth"])
        else:
            # Here, because the processes that measure memory start in half the time without it.
            from pspnet_lightning.runs.checkpoint import load

            module = load(cfg["checkpoint"], trust=cfg.get("trust") or ())
            self.mean, self.std = (module.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
            demand(module.model, Composed, "pspnet-benchmark model")
            self.network = restore_convolutions(module.model).to(device)
        if self.network.backbone.in_channels != 3:
            raise ValueError(
                f"checkpoint={cfg['checkpoint']!r} takes images of {self.network.backbone.in_channels} channels; the "
                f"benchmark's pictures have 3"
            )
        self.image = self._image()
        self.batch = self._crops(cfg["batch"])
        self.train_batch = self._crops(cfg["train_batch"])
        generator = torch.Generator().manual_seed(cfg["seed"])
        shape = (cfg["train_batch"], cfg["size"] // 32 + 1, cfg["size"] // 32 + 1)
        cells = torch.randint(0, self.network.num_classes, shape, generator=generator)
        target = cells.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : cfg["size"], : cfg["size"]]
        self.target = target.contiguous().to(device)
        if cfg["checkpoint"] is None and calibrate:
            self._calibrate()

    def run(self, way: Way) -> Callable[[], Any]:
        """The function to time; it answers labels, logits or the loss, as the measure has it."""
        network = self._network(way)
        full = way.formulation == "concatenation"
        autocast = way.precision == "bfloat16"
        x = (self.train_batch if way.measure == "train" else self.batch).contiguous(memory_format=LAYOUTS[way.layout])
        under: dict[str, Any] = {"device_type": self.device.type, "dtype": torch.bfloat16, "enabled": autocast}

        def labels() -> Any:
            with torch.inference_mode(), torch.autocast(**under):
                return network(x).max(1)[1] if full else network(x, upsample=False).labels()

        def forward() -> Any:
            with torch.inference_mode(), torch.autocast(**under):
                return network(x, upsample=False).values

        def sliding() -> Any:
            with torch.inference_mode(), torch.autocast(**under):
                if full:
                    return official_sliding(network, self.image, self.cfg["size"], self.mean, self.std, way.layout)
                options: Any = {"crop_size": self.cfg["size"], "mean": self.mean, "std": self.std}
                return sliding_window(network, self.image, device=self.device, **options).argmax(0)

        if way.measure == "train":
            return self._training_step(network, x, full, under)
        return {"labels": labels, "forward": forward, "sliding": sliding}[way.measure]

    def _training_step(self, network: Any, x: Tensor, full: bool, under: Any) -> Callable[[], Any]:
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        plain, ours = nn.CrossEntropyLoss(ignore_index=255), CrossEntropy()

        def step() -> Any:
            optimizer.zero_grad()
            with torch.autocast(**under):
                if full:
                    # The official network answers the labels of the training batch too, for its running mIoU.
                    logits, aux_logits = network(x)
                    logits.max(1)[1]
                    loss = plain(logits, self.target) + 0.4 * plain(aux_logits, self.target)
                else:
                    loss = segmentation_loss(network(x, upsample=False), self.target, ours, 0.4).total
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def _network(self, way: Way) -> Any:
        network = copy.deepcopy(self.network)
        plain = way.formulation == "concatenation"
        for module in network.modules():
            if isinstance(module, PyramidConvolution):
                module.execution = "concat" if plain else "exact"
        if not plain:
            exchange_convolutions(network)
        network.train(way.measure == "train")
        if way.formulation == "prepared":
            network = prepare_for_inference(network, PRECISIONS[way.precision])
        network = network.to(memory_format=LAYOUTS[way.layout])
        if way.mode == "compiled":
            # Weights that do not change may be laid out once, on a CPU where that is gained.
            freezing = way.measure != "train" and self.device.type == "cpu"
            network.compile(options={"freezing": True} if freezing else None)
        return network

    def _image(self) -> np.ndarray:
        height, width = self.cfg["height"], self.cfg["width"]
        if self.cfg["image"] is not None:
            return cv2.resize(read_image(self.cfg["image"]), (width, height), interpolation=cv2.INTER_AREA)
        generator = np.random.default_rng(self.cfg["seed"])
        coarse = generator.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)

    def _crops(self, count: int) -> Tensor:
        """The picture at the crops' size, each a different shift of it, normalised: (count, 3, size, size)."""
        size = self.cfg["size"]
        whole = cv2.resize(self.image, (size, size), interpolation=cv2.INTER_AREA)
        shifted = np.stack([np.roll(whole, 37 * number, axis=1) for number in range(count)])
        crops = torch.from_numpy(shifted).permute(0, 3, 1, 2)
        return normalized(crops, self.mean, self.std).contiguous().to(self.device)

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Random weights with the BatchNorm statistics that they have on the inputs: activations of usual sizes."""
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        self.network.train()(self.train_batch, upsample=False)
        for norm in norms:
            norm.momentum = 0.1


def official_sliding(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    crop: int,
    mean: list[float],
    std: list[float],
    layout: str = "contiguous",
) -> Tensor:
    """hszhao/semseg's tool/test.py from its description at scale 1: crop by crop with its mirror image, sums in numpy.

    Answers the label map int64 (H, W) of an image (H, W, 3).
    """
    height, width = image.shape[:2]
    pad_h, pad_w = max(crop - height, 0), max(crop - width, 0)
    before = pad_h // 2, pad_w // 2
    borders = (before[0], pad_h - before[0], before[1], pad_w - before[1], cv2.BORDER_CONSTANT)
    image = cv2.copyMakeBorder(image, *borders, value=mean)
    rows, columns = image.shape[:2]
    stride = math.ceil(crop * 2 / 3)
    device = next(network.parameters()).device  # type: ignore[attr-defined]
    total, count = None, np.zeros((rows, columns))
    for i in range(math.ceil((rows - crop) / stride) + 1):
        for j in range(math.ceil((columns - crop) / stride) + 1):
            top, left = min(i * stride, rows - crop), min(j * stride, columns - crop)
            part = image[top : top + crop, left : left + crop]
            x = torch.from_numpy(part.transpose(2, 0, 1)).float()
            for channel, shift, scale in zip(x, mean, std, strict=True):
                channel.sub_(shift).div_(scale)
            x = x[None].to(device)
            logits = network(torch.cat([x, x.flip(3)]).contiguous(memory_format=LAYOUTS[layout]))
            probabilities = F.softmax(logits, dim=1)
            mean_of_both = (probabilities[0] + probabilities[1].flip(2)) / 2
            answer = mean_of_both.float().cpu().numpy().transpose(1, 2, 0)
            if total is None:
                total = np.zeros((rows, columns, answer.shape[2]))
            total[top : top + crop, left : left + crop] += answer
            count[top : top + crop, left : left + crop] += 1
    assert total is not None
    total /= count[..., None]
    return torch.from_numpy(total[before[0] : before[0] + height, before[1] : before[1] + width].argmax(2))
