"""csrc/pipeline/perlin.c and texture.c."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusionad import _core, synthesis
from diffusionad.reference import synthesis as twin

GOLDEN = np.load(Path(__file__).parent / "golden" / "perlin.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    """Every eighth row of the reference's noise is stored."""
    shape, res = (tuple(map(int, part.split("x"))) for part in case.split("_res"))
    got = synthesis.perlin_noise(shape, res, angles=GOLDEN[f"{case}/angles"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[::8], GOLDEN[f"{case}/noise"], atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "res"),
    [
        ((1, 1), (1, 1)),
        ((7, 5), (7, 5)),
        ((13, 31), (4, 8)),
        ((64, 48), (3, 32)),
        ((1, 100), (1, 7)),
        ((97, 3), (32, 1)),
    ],
)
def test_twin(shape: tuple[int, int], res: tuple[int, int]) -> None:
    angles = np.random.default_rng(1).uniform(-7, 7, (res[0] + 1, res[1] + 1))
    got = _core.perlin_noise(angles, *shape)
    np.testing.assert_allclose(got, twin.perlin_noise(angles, *shape), atol=1e-6)
    np.testing.assert_array_equal(_core.perlin_noise(np.asfortranarray(angles), *shape), got)


def test_seed() -> None:
    first = synthesis.perlin_noise((32, 32), (4, 4), seed=5)
    np.testing.assert_array_equal(first, synthesis.perlin_noise((32, 32), (4, 4), seed=5))
    assert not np.array_equal(first, synthesis.perlin_noise((32, 32), (4, 4), seed=6))
    generator = np.random.default_rng(5)
    np.testing.assert_array_equal(first, synthesis.perlin_noise((32, 32), (4, 4), seed=generator))
    assert not np.array_equal(first, synthesis.perlin_noise((32, 32), (4, 4), seed=generator))


def test_refused() -> None:
    for res in ((0, 1), (5, 1), (1, 9), (-1, 1)):
        with pytest.raises(ValueError, match=r"^res: expected 1 to 4 by 1 to 8 cells"):
            synthesis.perlin_noise((4, 8), res)
    with pytest.raises(ValueError, match=r"^angles: expected shape \(3, 4\), got \(2, 4\)"):
        synthesis.perlin_noise((8, 8), (2, 3), angles=np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"^angles: expected finite"):
        synthesis.perlin_noise((8, 8), (1, 1), angles=np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"^angles: expected a grid"):
        _core.perlin_noise(np.zeros((4, 2)), 2, 2)
    with pytest.raises(ValueError, match=r"^angles: expected a grid"):
        _core.perlin_noise(np.zeros((1, 2)), 2, 2)
    with pytest.raises(ValueError, match=r"^height: expected 1 to"):
        _core.perlin_noise(np.zeros((2, 2)), 0, 2)
    with pytest.raises(TypeError, match=r"^angles: expected dtype float64"):
        _core.perlin_noise(np.zeros((2, 2), np.float32), 2, 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (33, 7), (64, 96)])
def test_texture(shape: tuple[int, int]) -> None:
    for seed in range(60):  # each kind of surface several times
        surface = synthesis.texture(shape, seed=seed)
        assert surface.shape == (3, *shape)
        assert surface.dtype == np.float32
        assert surface.min() >= 0
        assert surface.max() <= 1
        np.testing.assert_array_equal(surface, synthesis.texture(shape, seed=seed))


def test_textures_differ() -> None:
    surfaces = np.stack([synthesis.texture((64, 64), seed=seed) for seed in range(40)])
    assert (surfaces.std(axis=(2, 3)).max(axis=1) > 0.01).all()  # none is plain
    means = surfaces.mean(axis=(2, 3))
    assert (means.std(axis=0) > 0.1).all()  # nor are all of one colour
    assert np.unique(surfaces.reshape(40, -1), axis=0).shape[0] == 40


def test_texture_refused() -> None:
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"^seed: "):
            _core.texture(8, 8, seed)
    with pytest.raises(TypeError, match=r"^seed: "):
        _core.texture(8, 8, 0.5)
    with pytest.raises(ValueError, match=r"^width: "):
        _core.texture(8, 0, 1)
