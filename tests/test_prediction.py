"""Predictions and their single results: masks, plain values, pictures, files."""

from __future__ import annotations

import csv
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_model import SIZE, tiny

import diffusionad as dad
from diffusionad.errors import InputError, WriteError


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (30 + 10 * i, 40, 3), dtype=np.uint8) for i in range(4)]


@pytest.fixture(scope="module")
def model(images) -> dad.DiffusionAD:
    made = tiny()
    made.threshold = float(np.sort(made.predict(images).scores)[2])
    return made


@pytest.fixture
def files(tmp_path, images) -> list[Path]:
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{i}.png" for i in range(4)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_prediction_is_a_sequence_of_results(model, files):
    found = model.predict(files)
    assert len(found) == 4
    assert [result.index for result in found] == [0, 1, 2, 3]
    for index, result in enumerate(found):
        assert result.score == found.scores[index]
        assert result.label == found.labels[index]
        assert result.path == str(files[index])
        assert result.name == files[index].name
        np.testing.assert_array_equal(result.map, found.maps[index])
        np.testing.assert_array_equal(result.reconstruction, found.reconstructions[index])
    assert found[-1].index == 3
    with pytest.raises(IndexError):
        found[4]


def test_a_slice_is_a_prediction_of_those_images(model, files, images):
    found = model.predict(files)
    part = found[1:3]
    assert [result.path for result in part] == [str(path) for path in files[1:3]]
    np.testing.assert_array_equal(part.scores, found.scores[1:3])
    np.testing.assert_array_equal(part[1].map, found.maps[2])
    np.testing.assert_array_equal(part.labels, found.labels[1:3])
    assert len(found[9:]) == 0
    said = model.explain(images)
    assert isinstance(said[::2], dad.prediction.Explanation)
    np.testing.assert_array_equal(said[::2].x_b, said.x_b[::2])
    np.testing.assert_array_equal(said[::2][1].stages["x0_s"], said.x0_s[2])
    tiled = model.predict_tiled(images)[1:]  # maps of different sizes, no reconstructions
    assert [len(one) for one in tiled.maps] == [40, 50, 60]
    assert (tiled.reconstructions, tiled.tiles.size) == (None, SIZE)


def test_images_are_what_the_networks_saw(model, images):
    found = model.predict(images)
    assert (found.images.dtype, found.images.shape) == (np.uint8, (4, SIZE, SIZE, 3))
    np.testing.assert_array_equal(found.images[1], dad.images.resize(images[1], SIZE, SIZE))


def test_masks_are_where_the_map_reaches_the_threshold(model, images):
    found = model.predict(images)
    assert (found.masks.dtype, found.masks.shape) == (np.bool_, found.maps.shape)
    np.testing.assert_array_equal(found.masks, found.maps.astype(float) >= model.threshold)
    assert found.labels.tolist().count(1) == 2
    for result in found:
        np.testing.assert_array_equal(result.mask, found.masks[result.index])
        assert result.label == 0 or result.mask.any()
    native = model.predict(images, size="input")
    assert [mask.shape for mask in native.masks] == [one.shape for one in native.maps]
    assert tiny().predict(images).masks is None
    assert tiny().predict(images)[0].mask is None


def test_a_mask_is_compared_as_the_score_is():
    """float32 has no value for a threshold just above a map's: no pixel reaches it."""
    value = np.float32(0.3)
    flat = np.full((SIZE, SIZE), value)
    above = float(np.nextafter(float(value), 1.0))
    assert not dad.prediction.mask_of(flat, above).any()
    assert dad.prediction.mask_of(flat, float(value)).all()


def test_values_for_json(model, images, files):
    found = model.predict(files)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["threshold"] == model.threshold
    assert plain["images"][2] == {
        "index": 2,
        "path": str(files[2]),
        "score": found.scores[2],
        "label": found.labels[2],
    }
    assert tiny().predict(images[0])[0].to_dict()["label"] is None
    assert model.predict(images[0])[0].to_dict()["path"] is None


def test_pictures(model, images):
    found = model.predict(images)
    one, all_of_them = found[0].plot(), found.plot()
    assert isinstance(one, Image.Image)
    assert all_of_them.width == one.width
    assert all_of_them.height > 3.9 * one.height
    assert found.plot(most=2).height < all_of_them.height
    np.testing.assert_array_equal(np.asarray(one), found[0].panel())
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:9, 4:9] = True
    assert found[0].panel(mask, "dent").shape[1] > one.width
    explained = model.explain(images)
    assert explained[0].plot().width > one.width  # with the stages between
    assert model.predict_tiled(images)[0].plot().width < one.width  # without reconstruction


def test_saved_files(tmp_path, model, files, images):
    found = model.predict(files, size="input")
    found.save(tmp_path / "out" / "deep")
    out = tmp_path / "out" / "deep"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["scores.csv", *(f"{i}.{kind}" for i in range(4) for kind in ("npy", "png"))]
    )
    table = rows(out)
    assert [row["path"] for row in table] == [str(path) for path in files]
    assert [row["score"] for row in table] == [f"{score:.9g}" for score in found.scores]
    assert [row["label"] for row in table] == [str(label) for label in found.labels]
    for index in range(4):
        score_map = np.load(out / f"{index}.npy")
        assert score_map.dtype == np.float32
        np.testing.assert_array_equal(score_map, found.maps[index])
        with Image.open(out / f"{index}.png") as panel:
            np.testing.assert_array_equal(np.asarray(panel), found[index].panel())
    found.save(out)  # over what is there
    assert rows(out) == table


def test_arrays_are_saved_by_their_index_and_without_labels(tmp_path, images):
    tiny().predict(images).save(tmp_path)
    assert (tmp_path / "000003.npy").exists()
    assert [row["path"] for row in rows(tmp_path)] == [f"{i:06d}" for i in range(4)]
    assert {row["label"] for row in rows(tmp_path)} == {""}


def test_files_of_one_name_are_kept_apart(tmp_path, model, images):
    for name in ("a/1.png", "b/1.png", "b/1.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(images[0]).save(tmp_path / name)
    found = model.predict([tmp_path / name for name in ("a/1.png", "b/1.png", "b/1.bmp")])
    found.save(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.npy"))) == 3
    with dad.ResultFolder(tmp_path / "stream") as folder:
        for result in found:
            folder.write(result)
    names = sorted(path.stem for path in (tmp_path / "stream").glob("*.npy"))
    assert names == ["1", "1_2", "1_3"]


def test_a_single_result_is_saved(tmp_path, model, files):
    model.predict(files)[2].save(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["2.npy", "2.png"]


def test_results_do_not_replace_the_images_that_they_are_of(tmp_path, model, files):
    folder = files[0].parent
    before = [path.read_bytes() for path in files]
    found = model.predict(folder)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "3.png").symlink_to(files[3])
    for save, named in (
        (lambda: found.save(folder), folder / "0.png"),
        (lambda: found.save(tmp_path / "links"), tmp_path / "links" / "3.png"),
        (lambda: found[2].save(folder), folder / "2.png"),
    ):
        with pytest.raises(InputError) as told:
            save()
        assert str(told.value).startswith(f"{named}: a result would replace this image")
    with dad.ResultFolder(folder) as out, pytest.raises(InputError, match=r"1\.png: a result"):
        out.write(found[1])
    (folder / "scores.csv").unlink()
    assert [path.read_bytes() for path in files] == before
    assert sorted(folder.iterdir()) == files
    assert len(list((tmp_path / "links").iterdir())) == 1


def test_one_name_many_times_takes_no_longer_each_time(tmp_path, monkeypatch, model, images):
    looks: list[object] = []

    class Looked(set):
        def __contains__(self, name: object) -> bool:
            looks.append(name)
            return super().__contains__(name)

    stems: list[str] = []
    monkeypatch.setattr(dad.result_files, "write_result", lambda _, stem, __: stems.append(stem))
    result = model.predict(images[0])[0]
    with dad.ResultFolder(tmp_path) as folder:
        folder._taken = Looked()
        for stem in ("a_3", *["a"] * 100):
            folder.write(result, stem)
    assert stems[:5] == ["a_3", "a", "a_2", "a_4", "a_5"]
    assert len(set(stems)) == 101
    assert len(looks) < 400


def test_a_stream_is_written_as_it_comes(tmp_path, model, images):
    with dad.ResultFolder(tmp_path) as folder:
        for count, result in enumerate(model.predict_stream(images), 1):
            folder.write(result)
            assert len(rows(tmp_path)) == count  # on the disk at once
    expected = model.predict(images)
    np.testing.assert_array_equal(np.load(tmp_path / "000002.npy"), expected.maps[2])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path, model, images):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match=r"scores\.csv: cannot write"):
        model.predict(images).save(tmp_path)


def test_places_that_are_no_folder_are_named(tmp_path, model, images):
    (tmp_path / "file").touch()
    found = model.predict(images)
    for save in (found.save, found[0].save):
        with pytest.raises(WriteError, match="file: cannot make this folder"):
            save(tmp_path / "file")
    (tmp_path / "000001.npy").mkdir()
    with pytest.raises(WriteError, match=r"000001\.npy: cannot write"):
        found.save(tmp_path)
    assert len(rows(tmp_path)) == 1  # what was finished is kept


def test_large_images_are_read_one_after_the_other(tmp_path, model):
    for index in range(6):
        Image.new("RGB", (1024, 1024), (index, 9, 99)).save(tmp_path / f"{index}.png")
    tracemalloc.start()
    try:
        model.predict(tmp_path, batch_size=6)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 3 * 2**20  # pixels of one image, and copies on the way


def test_an_explanation_is_a_prediction(model, images):
    said, found = model.explain(images), model.predict(images)
    assert isinstance(said, dad.Prediction)
    np.testing.assert_array_equal(said.scores, found.scores)
    np.testing.assert_array_equal(said.x0, found.reconstructions)
    assert set(said[0].stages) == {"x_s", "x_b", "x0_s", "x0_b"}
    np.testing.assert_array_equal(said[1].stages["x_b"], said.x_b[1])
