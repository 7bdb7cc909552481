"""Makes format_N.tar.xz: a run's folder as this version writes it, and what its model predicts.

A format that was released keeps its file, so this is run once per number of a format:
python tests/golden/make_format.py. Most weights are cleared, to make the archive small.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import diffusionad as dad
from diffusionad import checkpoints

SETTINGS = {
    "image_size": 32, "channel_mults": (1,), "attention_resolutions": (8,), "patch_size": 4,
    "seg_channels": 3, "batch_size": 2, "top_k": 5, "checkpoint_every": 1, "warmup": 0,
    "unet_lr": 0.05, "seg_lr": 0.05,
}  # fmt: skip
STEPS = 3
TARGET = Path(__file__).parent / f"format_{checkpoints.MODEL_FORMAT.split('/')[1]}.tar.xz"
KEPT = 0.02  # share of the values


def images() -> npt.NDArray[np.uint8]:
    """Four images [4, 32, 32, 3] that no generator of random numbers decides."""
    n, y, x, c = np.indices((4, 32, 32, 3))
    return ((x * (3 + n) + y * 5 + c * 40 + (x * y) % (7 + n)) % 256).astype(np.uint8)


def thinned(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The UNet's matrices and all moments lose most of their values, the rest most digits."""
    if values.dtype != np.float32 or not values.any():
        return values
    scale = np.abs(values).max()
    rounded = np.round(values / scale * 16) / np.float32(16) * scale
    network, kind = name.split(".")[:2]
    if (network == "unet" and values.ndim > 1) or kind in ("m", "v"):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        rounded[rng.random(values.shape) > KEPT] = 0
    return rounded


def interrupt(progress: dad.model.Progress) -> None:
    if progress.step == STEPS - 1:
        raise KeyboardInterrupt


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        with contextlib.suppress(KeyboardInterrupt):
            dad.DiffusionAD(**SETTINGS).fit(images(), steps=STEPS, out=run, progress=interrupt)
        tensors, values = checkpoints.load_state(run / "state.safetensors")
        small = {key: thinned(key, value) for key, value in tensors.items()}
        checkpoints.save_state(run / "state.safetensors", small, values)
        model = dad.load(run / "model.safetensors")
        for network, prefix in ((model.unet, "unet."), (model.seg, "seg.")):
            network.load_training_state(
                {k.removeprefix(prefix): v for k, v in small.items() if k.startswith(prefix)}
            )
        model.threshold = float(np.median(model.predict(images()).scores))
        model.save(run / "model.safetensors")
        found = model.predict(images())
        expected = {
            "scores": found.scores.tolist(),
            "maps": found.maps[:, ::8, ::8].tolist(),
            "labels": found.labels.tolist(),
        }
        files = {file.name: file.read_bytes() for file in sorted(run.iterdir())}
        resumed = dad.DiffusionAD(**SETTINGS).fit(images(), out=run, resume=True)
        expected["resumed_scores"] = resumed.predict(images()).scores.tolist()
        files["expected.json"] = json.dumps(expected, indent=1).encode()
        with tarfile.open(TARGET, "w:xz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    main()
