"""Anomaly detection in images of industrial parts by norm-guided one-step denoising diffusion.

DiffusionAD trains on good images and scores others; load() and load_official() read models. What
it says is a Prediction of ImageResults, which a ResultFolder writes.

datasets reads images from disk, synthesis makes anomalies, foreground() finds the object, and
metrics measures. Schedule, UNet, SegmentationNet, denoise() and Trainer are the method piece by
piece (Zhang et al., arXiv 2303.08730). _core has the functions of the C core.

>>> import diffusionad as dad
>>> model = dad.DiffusionAD(preset="compact", image_size=32, seed=0)
>>> model.predict(dad.datasets.bundled().test[0].image).maps.shape
(1, 32, 32)
"""

import os

__version__ = "0.1.0"

# GNU OpenMP reads this once, when the core is loaded. By default its threads wait for each other by
# spinning for milliseconds; on a machine that does anything else besides, the spinning thread keeps
# the one it waits for from running, and a training step took seven times as long.
_SPIN = "GOMP_SPINCOUNT"
_given = os.environ.get(_SPIN), os.environ.get("OMP_WAIT_POLICY")
if _given == (None, None):
    os.environ[_SPIN] = "10000"

from . import _core as _core

if _given == (None, None):
    del os.environ[_SPIN]

from . import datasets, metrics, synthesis
from .denoising import Repair, denoise
from .diffusion import Schedule
from .model import DiffusionAD, load, load_official
from .models import SegmentationNet, UNet
from .prediction import ImageResult, Prediction
from .result_files import ResultFolder
from .saliency import Foreground, ForegroundFinder, find_foreground, foreground, foreground_of_set
from .tiling import Tiles
from .training import Trainer

__all__ = [
    "DiffusionAD",
    "Foreground",
    "ForegroundFinder",
    "ImageResult",
    "Prediction",
    "Repair",
    "ResultFolder",
    "Schedule",
    "SegmentationNet",
    "Tiles",
    "Trainer",
    "UNet",
    "datasets",
    "denoise",
    "find_foreground",
    "foreground",
    "foreground_of_set",
    "load",
    "load_official",
    "metrics",
    "synthesis",
]
