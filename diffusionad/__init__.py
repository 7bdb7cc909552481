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

import importlib
import os

__version__ = "0.1.0"


def _load_core() -> None:
    """With settings that are read once, meanwhile; the environment stays as it is.

    Threads of GNU OpenMP wait for each other by spinning for milliseconds; on a machine that does
    anything else besides, the spinning thread keeps the one it waits for from running, and a
    training step took seven times as long. OpenBLAS starts a thread per processor, which spin for
    some 20 ms until they find nothing to do: the core calls it from threads of its own.
    """
    import numpy  # noqa: F401  its own OpenBLAS is to have its threads

    settings = {"OPENBLAS_NUM_THREADS": "1"}
    if os.environ.keys().isdisjoint({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}):
        settings["GOMP_SPINCOUNT"] = "10000"
    given = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        importlib.import_module("._core", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}._core":
            raise
        raise ImportError(
            f"{os.path.dirname(__file__)}: the C core is not built here; leave the source folder "
            "for one where the package is installed, or build it: pip install -e ."
        ) from error
    except ImportError as error:
        if "libscipy_openblas" not in str(error):
            raise
        _load_openblas()
        importlib.import_module("._core", __name__)
    finally:
        for name, value in given.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _load_openblas() -> None:
    """Where it lies in another folder of packages than this one, beside which the core looks."""
    import ctypes

    try:
        package = importlib.import_module("scipy_openblas32")
    except ImportError as error:
        raise ImportError("OpenBLAS is not there: pip install scipy-openblas32") from error
    try:
        ctypes.CDLL(os.path.join(package.get_lib_dir(), package.get_library(fullname=True)))
    except OSError as error:
        raise ImportError(
            f"OpenBLAS: {error}; pip install --force-reinstall scipy-openblas32"
        ) from error


_load_core()

from . import _core as _core
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
