"""Uses an installed package once from end to end: predict, save, load, fit, the command line.

Needs nothing but the package, so that it also runs where a wheel was just installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import diffusionad as dad


def main() -> None:
    source = Path(__file__).parent.parent / "diffusionad"
    package = Path(dad.__file__).parent
    assert package != source.resolve(), f"{package}: expected an installed package, got the source"
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    model = dad.DiffusionAD(image_size=32, channel_mults=(1,), attention_resolutions=())
    model.fit(images, steps=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        before, after = model.predict(images), dad.load(path).predict(images)
        assert np.isfinite(before.scores).all()
        assert before.maps.tobytes() == after.maps.tobytes()
        command = [sys.executable, "-m", "diffusionad", "info", str(path)]
        # Elsewhere than in the source, which Python 3.10 would look into first.
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
        assert "image_size" in done.stdout
    print(f"{package}: works, SIMD {dad._core.simd_level()}")


if __name__ == "__main__":
    main()
