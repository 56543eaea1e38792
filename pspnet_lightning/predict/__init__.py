"""From files to label maps on disk: what `pspnet-predict` does with each input."""

from pspnet_lightning.predict.inputs import Input, find_inputs
from pspnet_lightning.predict.manifest import Manifest
from pspnet_lightning.predict.predictor import Predictor
from pspnet_lightning.predict.writer import Outputs, Writer

__all__ = ["Input", "Manifest", "Outputs", "Predictor", "Writer", "find_inputs"]
