"""Where the object is, by a network of the user's own: an ONNX file, run by onnxruntime.

Meant for IS-Net (Qin et al., "Highly Accurate Dichotomous Image Segmentation", 2022), with which
the reference implementation's masks were made; any network from one RGB image to one map will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffusionad import _core
from diffusionad.errors import InputError, MissingPackage, words_of
from diffusionad.files import PathLike
from diffusionad.images import Bytes, Mask, resize

USUAL_SIDE = 1024  # of IS-Net's input, where the file leaves it open
MEAN = 0.5  # taken from values in [0, 1], as IS-Net was trained


def is_network(path: PathLike) -> bool:
    """Whether a path that may be a folder of masks is meant as a network."""
    return Path(path).suffix == ".onnx"


class SaliencyNetwork:
    """A network that tells an object from its background.

    Its first input takes float32 (1, 3, H, W), RGB in [0, 1] less 0.5; its first output holds a
    map, larger on the object, of which the middle of its range is the threshold. Raises
    MissingPackage without onnxruntime, and InputError for a file that is no such network.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file")
        runtime = _import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = _core.get_num_threads()
        options.log_severity_level = 4  # errors come as exceptions
        try:
            self._session = runtime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class for each kind of failure
            raise InputError(
                f"{self.path}: not a network for ONNX Runtime: {words_of(error)}"
            ) from error
        first = self._session.get_inputs()[0]
        shape = list(first.shape)
        if first.type != "tensor(float)" or len(shape) != 4 or shape[1] not in (3, "3"):
            raise InputError(
                f"{self.path}: expected an input of float32 (1, 3, H, W), "
                f"got {first.type} of {shape}"
            )
        self._name = first.name
        self._height, self._width = (
            side if isinstance(side, int) else USUAL_SIDE for side in shape[2:]
        )

    def find(self, image: Bytes) -> Mask:
        """The object in an image uint8 (H, W, 3): bool (H, W)."""
        small = resize(image, self._height, self._width)
        planes = np.divide(small, np.float32(255), dtype=np.float32) - np.float32(MEAN)
        inputs = {self._name: np.ascontiguousarray(planes.transpose(2, 0, 1))[None]}
        try:
            found = np.asarray(self._session.run(None, inputs)[0], dtype=np.float32)
        except Exception as error:
            raise InputError(f"{self.path}: the network failed: {words_of(error)}") from error
        if found.ndim < 2 or found.size != found.shape[-2] * found.shape[-1]:
            raise InputError(f"{self.path}: expected one map, got {list(found.shape)}")
        levels = found.reshape(1, *found.shape[-2:])
        low, high = float(levels.min()), float(levels.max())
        if not high > low:  # all the same, or not a number
            return np.zeros(image.shape[:2], np.bool_)
        sized = _core.resize_f32((levels - low) / (high - low), *image.shape[:2])
        mask: Mask = sized[0] >= 0.5
        return mask


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "foreground") from error
    return onnxruntime
