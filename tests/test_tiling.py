"""Tiles: weights, seams, small and odd images, memory; and a model that looks at them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from test_model import SIZE, tiny

import diffusionad as dad
from diffusionad import _core, metrics, tiling
from diffusionad.errors import InputError
from diffusionad.images import to_network

SHAPES = [(32, 32), (33, 95), (100, 64), (7, 50), (1, 1), (31, 200)]


@pytest.fixture(scope="module")
def model() -> dad.DiffusionAD:
    return tiny()


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def weights(grid: tiling.Grid, shape: tuple[int, int]) -> np.ndarray:
    total = np.zeros(shape, np.float32)
    for window in grid:
        grid.add(total, window, np.ones((grid.tile, grid.tile), np.float32))
    return total


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.77, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_sum_to_one_at_every_pixel(shape, overlap):
    np.testing.assert_allclose(weights(tiling.Grid(shape, 32, overlap), shape), 1.0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("length", [32, 33, 40, 64, 97, 500])
def test_tiles_cover_an_axis_and_share_what_was_asked_for(length, overlap):
    starts = tiling.Axis(length, 32, overlap).starts
    assert starts[0] == 0
    assert starts[-1] == length - 32
    steps = np.diff(starts)
    assert all(steps > 0)
    assert all(steps <= 32 - overlap * 32)
    # no more tiles than are needed
    assert (len(starts) - 2) * (32 - np.ceil(overlap * 32)) < length - 32 or len(starts) == 1


def test_a_weight_is_smooth_and_falls_towards_the_border_of_its_tile():
    axis = tiling.Axis(80, 32, 0.5)
    middle = axis.weights[1]
    assert np.abs(np.diff(middle)).max() < 0.11
    assert middle[0] < 0.01
    assert middle[-1] < 0.01
    assert all(np.diff(middle)[:12] > 0)
    assert axis.weights[0][0] == 1.0  # no other tile reaches the image's border


def test_a_constant_map_has_no_seams(model):
    def constant(x0: np.ndarray) -> np.ndarray:
        return np.full((len(x0), SIZE, SIZE), 0.3, np.float32)

    for shape in SHAPES:
        for tiles in (tiling.Tiles(SIZE), tiling.Tiles(48, 0.1), tiling.Tiles(20, 0.6)):
            found = tiling.blended_map(constant, drawn(*shape, 3), tiles, SIZE, 3)
            assert found.shape == shape
            np.testing.assert_allclose(found, 0.3, atol=1e-6)
    full = tiling.blended_map(lambda x: x[:, 0] * 0 + 1, drawn(99, 99, 3), tiles, SIZE, 3)
    assert full.max() <= 1.0


def test_a_linear_map_comes_back(model):
    """What every tile reads off the image itself is blended to the image itself."""
    image = np.add.outer(np.arange(90), np.arange(70)).astype(np.uint8)
    found = tiling.blended_map(
        lambda x0: x0[:, 0], image[..., None].repeat(3, 2), tiling.Tiles(SIZE), SIZE, 4
    )
    np.testing.assert_allclose(found, image / 255, atol=1e-6)


def test_an_image_of_one_tile_is_predict(model):
    image = drawn(SIZE, SIZE, 3)
    whole, tiled = model.predict(image), model.predict_tiled(image)
    np.testing.assert_allclose(tiled.maps, whole.maps, atol=1e-7)
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-7)
    assert tiled.reconstructions is None
    assert tiled.tiles == tiling.Tiles(SIZE, 0.25)


def test_every_tile_is_what_predict_says_of_it(model):
    """Without overlap the map is the tiles' maps side by side: all saw the same noise."""
    image = drawn(2 * SIZE, 3 * SIZE, 3)
    tiled = model.predict_tiled(image, overlap=0.0)
    for row in range(2):
        for column in range(3):
            part = slice(row * SIZE, (row + 1) * SIZE), slice(column * SIZE, (column + 1) * SIZE)
            np.testing.assert_array_equal(tiled.maps[0][part], model.predict(image[part]).maps[0])
    assert tiled.scores == metrics.image_scores(tiled.maps, top_k=model.config.top_k)


def test_tiles_are_matched_and_measured_as_images_are():
    """A model that measures by good images, at one brightness, does so for every tile."""
    good = drawn(10, SIZE, SIZE, 3) // 2
    measured = tiny(standardised=True, match_brightness=True).fit(good, steps=1)
    assert measured.normality is not None
    assert measured.brightness is not None
    image = drawn(2 * SIZE, 2 * SIZE, 3, seed=1)
    image[:SIZE] //= 3
    tiled = measured.predict_tiled(image, overlap=0.0)
    for row in range(2):
        for column in range(2):
            part = slice(row * SIZE, (row + 1) * SIZE), slice(column * SIZE, (column + 1) * SIZE)
            said = measured.predict(image[part])
            np.testing.assert_array_equal(tiled.maps[0][part], said.maps[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_have_the_image_size_whatever_the_batch(model, shape):
    image = drawn(*shape, 3)
    found = model.predict_tiled(image, overlap=0.3)
    assert found.maps.shape == (1, *shape)
    for batch_size, threads in ((1, 1), (3, 2), (100, 3)):
        _core.set_num_threads(threads)
        again = model.predict_tiled(image, overlap=0.3, batch_size=batch_size)
        assert again.maps.tobytes() == found.maps.tobytes()
        assert again.scores.tobytes() == found.scores.tobytes()


def test_tiles_of_another_size_are_resized_to_the_model(model):
    image = drawn(64, 64, 3)
    found = model.predict_tiled(image, tile=64)
    expected = _core.resize_f32(model.predict(image).maps[0], 64, 64)
    np.testing.assert_allclose(found.maps[0], expected, atol=1e-6)
    assert model.predict_tiled(image, tile=500).maps.shape == (1, 64, 64)


def test_many_images_grey_floats_and_files(tmp_path, model):
    images = [drawn(40, 50, 3), drawn(33, 90), np.random.default_rng(0).random((3, 40, 40))]
    found = model.predict_tiled(images)
    assert [one.shape for one in found.maps] == [(40, 50), (33, 90), (40, 40)]
    for index, image in enumerate(images):
        assert model.predict_tiled([image]).scores[0] == found.scores[index]
    assert model.predict_tiled(np.stack([images[0]] * 2)).maps.shape == (2, 40, 50)
    assert found.images.shape == (3, SIZE, SIZE, 3)


def test_memory_is_that_of_a_batch_of_tiles(model):
    image = drawn(2048, 2048, 3)
    model.predict_tiled(image[:300, :300], tile=256)  # whatever is made once
    tracemalloc.start()
    try:
        found = model.predict_tiled(image, tile=256, batch_size=4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    beside = peak - found.maps.nbytes
    assert found.maps.nbytes == 2048 * 2048 * 4
    assert beside < 2 * 2**20, f"{beside / 2**20:.1f} MiB"


def test_cut_gives_what_predict_tiled_looks_at(model):
    image = drawn(40, 70, 3)
    tiles = list(tiling.cut([image, image[:20]], SIZE))
    grid = tiling.Grid((40, 70), SIZE, 0.25)
    assert len(tiles) == len(grid) + 3
    assert {tile.shape for tile in tiles} == {(SIZE, SIZE, 3)}
    np.testing.assert_array_equal(tiles[0], image[:SIZE, :SIZE])
    seen = []
    tiling.blended_map(
        lambda x0: seen.append(x0) or np.zeros((len(x0), SIZE, SIZE), np.float32),
        image, tiling.Tiles(SIZE), SIZE, 100,
    )  # fmt: skip
    np.testing.assert_array_equal(seen[0], to_network(tiles[: len(grid)], SIZE))
    trained = tiny().fit(tiling.cut(image, SIZE), steps=1)
    assert trained.provenance["data"]["count"] == len(grid)


@pytest.mark.parametrize("number", [np.int64, np.uint8])
def test_numpys_numbers_are_taken(number):
    tiles = tiling.Tiles(number(32), np.float32(0.25))
    assert tiles == tiling.Tiles(32, 0.25)
    assert (type(tiles.size), type(tiles.overlap)) == (int, float)


def test_a_threshold_of_tiles_is_known_as_such():
    model = tiny()
    good = [drawn(40, 70, 3, seed=i) for i in range(4)]
    model.calibrate(model.predict_tiled(good), 0.0)
    assert model.provenance["threshold"] == "reached by at most 0 of 4 good images"
    assert model.provenance["calibrated_on"] == "tiles of 32 px, overlap 0.25"
    found = model.predict_tiled(good)
    assert found.labels.tolist() == [0] * 4
    assert found.threshold == model.threshold
    model.calibrate(good)
    assert model.provenance["calibrated_on"] == "whole images"
    model.threshold = 0.5
    assert "calibrated_on" not in model.provenance
    with pytest.raises(InputError, match="images: expected at least one image, got none"):
        model.calibrate(model.predict(good)[:0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 0}, "tile: expected a whole number of pixels, got 0"),
        ({"tile": 32.0}, "tile: expected a whole number of pixels, got 32.0"),
        ({"tile": True}, "tile: expected a whole number"),
        ({"tile": "32"}, "tile: expected a whole number of pixels, got '32'"),
        ({"overlap": -0.1}, "overlap: expected 0 to 0.9, got -0.1"),
        ({"overlap": 1.0}, "overlap: expected 0 to 0.9, got 1.0"),
        ({"overlap": float("nan")}, "overlap: expected 0 to 0.9, got nan"),
        ({"overlap": "x"}, "overlap: expected 0 to 0.9, got 'x'"),
        ({"overlap": "0.5"}, "overlap: expected 0 to 0.9, got '0.5'"),
        ({"batch_size": 0}, "batch_size: expected 1 or more"),
    ],
)
def test_bad_tiles_are_named(model, options, words):
    with pytest.raises(InputError, match=words):
        model.predict_tiled(drawn(9, 9, 3), **options)


def test_bad_images_are_named(model):
    for bad, words in (
        ([], "at least one image"),
        ([drawn(9, 9), drawn(9, 9, 2)], r"images\[1\]: expected uint8"),
        (np.full((9, 9), np.nan), r"images\[0\]: expected values in \[0, 1\], got nan"),
    ):
        with pytest.raises(InputError, match=words):
            model.predict_tiled(bad)
