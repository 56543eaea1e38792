"""Answers that are not numbers: an error that names the image, never a label map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

REMEDY = (
    "a smaller optimizer.lr, a warm-up (scheduler.warmup_steps), trainer.gradient_clip_val, or precision=bf16-mixed "
    "instead of 16-mixed helps"
)


class NotFinite(ValueError):
    """A network answered with values that are no finite numbers."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        of = f" for {', '.join(self.names)}" if self.names else ""
        super().__init__(
            f"the network's answer{of} holds values that are no finite numbers. Either the pixels do (pspnet-inspect "
            f"counts them), or the weights do, because the training has diverged: {REMEDY}"
        )


def require_finite(logits: Tensor, names: Sequence[str] = ()) -> None:
    """Raises NotFinite where logits (N, ...) are not finite, with those of the N ``names`` that it concerns."""
    finite = logits.isfinite()
    if not bool(finite.all()):
        whole = finite.flatten(1).all(1).tolist()
        raise NotFinite([name for name, fine in zip(names, whole, strict=True) if not fine] if names else ())
