"""Anomaly detection in images of industrial parts by norm-guided one-step denoising diffusion."""

__version__ = "0.1.0"

from . import datasets, metrics
from .denoising import Repair, denoise
from .diffusion import Schedule
from .models import SegmentationNet, UNet
from .training import Trainer
