"""Layouts and their edge cases, on folders of tiny images made here."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusionad import datasets, sources
from diffusionad.datasets.samples import relative_name
from diffusionad.errors import InputError
from diffusionad.images import natural_key


def image(path: Path, value: int = 90, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (6, 4), value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plane = np.zeros(size[::-1], np.uint8)
    plane[1:3, 2:5] = value
    Image.fromarray(plane).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path) -> Path:
    """Two categories in MVTec's layout; `bottle` has two kinds of defect."""
    root = tmp_path / "mvtec"
    for name in ("000", "001", "010", "002"):
        image(root / "bottle" / "train" / "good" / f"{name}.png", int(name))
    image(root / "bottle" / "test" / "good" / "000.png", 50)
    for defect in ("broken", "scratch"):
        image(root / "bottle" / "test" / defect / "000.png", 60)
        mask(root / "bottle" / "ground_truth" / defect / "000_mask.png")
    image(root / "cable" / "train" / "good" / "000.png")
    (root / "license.txt").write_text("x")
    (root / ".cache").mkdir()
    return root


def test_mvtec_layout(mvtec):
    for data in (
        datasets.open(mvtec, category="bottle"),
        datasets.open(mvtec / "bottle"),
        datasets.open(mvtec / "bottle", layout="mvtec", category="bottle"),
    ):
        assert (data.layout, data.category) == ("mvtec", "bottle")
        assert [s.path.name for s in data.train] == ["000.png", "001.png", "002.png", "010.png"]
        found = [(s.defect, s.label, s.has_mask) for s in data.test]
        assert found == [("broken", 1, True), ("good", 0, True), ("scratch", 1, True)]
        assert data.without_mask == []
    assert str(data) == "bottle (mvtec): 4 train, 1 test good, 2 test defective"


def test_samples_read_pixels_when_asked(mvtec):
    broken, good, _ = datasets.open(mvtec, category="bottle").test
    assert broken.image.shape == (4, 6, 3)
    assert broken.image.dtype == np.uint8
    assert (broken.image == 60).all()
    assert broken.mask is not None
    assert broken.mask.dtype == np.bool_
    assert broken.mask.sum() == 6
    assert good.mask is not None
    assert good.mask.shape == (4, 6)
    assert not good.mask.any()
    with pytest.raises(AttributeError):
        good.label = 1  # type: ignore[misc]


@pytest.mark.parametrize("ending", ["_mask.png", ".png", "_label.PNG", "_mask.BMP"])
def test_mask_names(mvtec, ending):
    folder = mvtec / "bottle" / "ground_truth" / "broken"
    shutil.rmtree(folder)
    mask(folder / f"000{ending}", value=1)
    sample = datasets.open(mvtec, category="bottle").test[0]
    assert sample.mask is not None
    assert sample.mask.sum() == 6


def test_ok_means_good(mvtec):
    (mvtec / "bottle" / "train" / "good").rename(mvtec / "bottle" / "train" / "ok")
    (mvtec / "bottle" / "test" / "good").rename(mvtec / "bottle" / "test" / "ok")
    data = datasets.open(mvtec, category="bottle")
    assert len(data.train) == 4
    assert [s.label for s in data.test] == [1, 0, 1]
    assert {s.defect for s in data.test if s.label == 0} == {"good"}


def test_defective_image_without_mask_is_kept_and_told(mvtec, caplog):
    (mvtec / "bottle" / "ground_truth" / "scratch" / "000_mask.png").unlink()
    with caplog.at_level(logging.WARNING, "diffusionad"):
        data = datasets.open(mvtec, category="bottle")
    assert [s.defect for s in data.without_mask] == ["scratch"]
    assert data.without_mask[0].mask is None
    assert "1 defective image(s) have no mask" in caplog.text


def test_empty_mask_of_a_defective_image_is_a_mask(mvtec):
    mask(mvtec / "bottle" / "ground_truth" / "broken" / "000_mask.png", value=0)
    sample = datasets.open(mvtec, category="bottle").test[0]
    assert sample.label == 1
    assert sample.has_mask
    assert sample.mask is not None
    assert not sample.mask.any()


def test_mask_of_another_size(mvtec):
    mask(mvtec / "bottle" / "ground_truth" / "broken" / "000_mask.png", size=(12, 8))
    sample = datasets.open(mvtec, category="bottle").test[0]
    with pytest.raises(InputError, match=r"000_mask\.png: the mask is 12x8 pixels, its image 6x4"):
        _ = sample.mask
    lenient = datasets.open(mvtec, category="bottle", resize_masks=True).test[0]
    assert lenient.mask is not None
    assert lenient.mask.shape == (4, 6)
    assert lenient.mask.any()


def test_other_files_and_odd_names(mvtec):
    good = mvtec / "bottle" / "train" / "good"
    for name in (".DS_Store", "Thumbs.db", "._000.png", "readme.md"):
        (good / name).write_bytes(b"x")
    image(good / "größe 漢 (1).JPG")
    data = datasets.open(mvtec, category="bottle")
    assert len(data.train) == 5
    assert any(s.path.name == "größe 漢 (1).JPG" and s.image.size for s in data.train)


@pytest.mark.parametrize("category", ["botle", "", "..", "license.txt"])
def test_unknown_category_names_the_known_ones(mvtec, category):
    with pytest.raises(InputError, match="there are: bottle, cable"):
        datasets.open(mvtec, category=category)


def test_category_is_needed_where_there_are_several(mvtec):
    with pytest.raises(InputError, match="choose a category; there are: bottle, cable"):
        datasets.open(mvtec)
    assert datasets.categories(mvtec) == ["bottle", "cable"]
    assert datasets.categories(mvtec / "cable") == ["cable"]
    shutil.rmtree(mvtec / "bottle")
    assert datasets.open(mvtec).root.name == "cable"


def test_missing_empty_and_foreign_folders(mvtec, tmp_path):
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    empty.mkdir()
    foreign.mkdir()
    (foreign / ".DS_Store").touch()
    no_train = mvtec / "half"
    image(no_train / "test" / "good" / "0.png")
    (mvtec / "void" / "train" / "good").mkdir(parents=True)
    cases = [
        (tmp_path / "none", {}, "none: no such folder"),
        (mvtec / "license.txt", {}, "expected a folder, got a file"),
        (empty, {}, "the folder is empty"),
        (foreign, {}, "not a category with train/good"),
        (no_train, {}, "not a category with train/good"),
        (mvtec, {"category": "half"}, "half: not a category with train/good"),
        (mvtec, {"category": "void"}, "no images in this folder"),
        (mvtec, {"layout": "imagenet"}, "layout: no 'imagenet'; there are: auto, mvtec, visa, "),
        (mvtec, {"test_fraction": 1.0}, "test_fraction"),
    ]
    for path, options, words in cases:
        with pytest.raises(InputError, match=words):
            datasets.open(path, **options)


def test_plain_folder_is_split_by_seed(tmp_path):
    for index in range(10):
        image(tmp_path / "good" / f"{index}.png", index)
    for index in range(3):
        image(tmp_path / "bad parts" / f"{index}.png", 200)
    mask(tmp_path / "marks" / "1.png")
    options = {"defective": tmp_path / "bad parts", "masks": tmp_path / "marks"}
    first = datasets.open(tmp_path / "good", seed=1, test_fraction=0.3, **options)
    again = datasets.open(tmp_path / "good", seed=1, test_fraction=0.3, **options)
    assert first.layout == "folder"
    assert first.train == again.train
    assert first.test == again.test
    assert (len(first.train), len(first.test)) == (7, 6)
    good = {s.path for s in (*first.train, *first.test) if s.label == 0}
    assert len(good) == 10
    splits = {
        tuple(s.path.name for s in datasets.open(tmp_path / "good", seed=seed).train)
        for seed in range(5)
    }
    assert len(splits) > 1
    assert [s.has_mask for s in first.test if s.label] == [False, True, False]
    with pytest.raises(InputError, match="no such folder"):
        datasets.open(tmp_path / "good", defective=tmp_path / "none")


def test_one_more_image_leaves_the_split_as_it_was(tmp_path):
    def aside(seed: int = 0) -> set[str]:
        data = datasets.open(tmp_path / "good", seed=seed)
        assert len(data.test) == round(0.2 * (len(data.train) + len(data.test)))
        return {sample.path.name for sample in data.test}

    for index in range(20):
        image(tmp_path / "good" / f"{index}.png")
    for index in range(20, 40):
        before = aside()
        image(tmp_path / "good" / f"{index}.png")
        old = aside() - {f"{index}.png"}
        assert len(old ^ before) <= 1
    assert aside(1) != aside(2)
    beside = datasets.open(tmp_path)  # the folder good inside it
    assert {sample.path.name for sample in beside.test} == aside()
    names = "\n".join(f"good/{path.name},0" for path in sorted((tmp_path / "good").iterdir()))
    (tmp_path / "t.csv").write_text(f"path,label\n{names}")
    table = datasets.open(tmp_path / "t.csv", seed=3)
    assert (len(table.train), len(table.test)) == (32, 8)


def test_folder_with_good_defective_and_masks_inside(tmp_path):
    for index in range(5):
        image(tmp_path / "ok" / f"{index}.png")
    image(tmp_path / "defective" / "a.png")
    mask(tmp_path / "masks" / "a_mask.png")
    data = datasets.open(tmp_path)
    assert (data.layout, len(data.train), len(data.test)) == ("folder", 4, 2)
    assert data.test[-1].mask is not None
    assert data.test[-1].mask.any()


def test_one_good_image_stays_for_training(tmp_path):
    image(tmp_path / "only.png")
    data = datasets.open(tmp_path, test_fraction=0.9)
    assert (len(data.train), len(data.test)) == (1, 0)


def test_fingerprint_depends_on_names_and_content_only(mvtec, tmp_path):
    original = datasets.open(mvtec, category="bottle")
    shutil.copytree(mvtec, tmp_path / "copy")
    copy = datasets.open(tmp_path / "copy" / "bottle")
    assert original.fingerprint() == copy.fingerprint()
    assert original.fingerprint() != original.fingerprint(train_only=True)
    before = original.fingerprint(train_only=True)
    image(mvtec / "bottle" / "test" / "good" / "000.png", 51)
    assert original.fingerprint(train_only=True) == before
    assert original.fingerprint() != copy.fingerprint()
    shutil.move(
        mvtec / "bottle" / "train" / "good" / "010.png",
        mvtec / "bottle" / "train" / "good" / "011.png",
    )
    assert datasets.open(mvtec / "bottle").fingerprint(train_only=True) != before


def test_links_to_files_have_the_names_that_they_are_given(mvtec, tmp_path):
    """As git-annex and DVC keep files: named by their content, elsewhere."""
    shutil.copytree(mvtec, tmp_path / "copy")
    for index, path in enumerate(sorted(mvtec.rglob("*.png"))):
        stored = tmp_path / "store" / str(index) / "content.png"
        stored.parent.mkdir(parents=True)
        path.symlink_to(path.rename(stored))
    (tmp_path / "link").symlink_to(mvtec)
    linked, copy = (
        datasets.open(root, category="bottle") for root in (tmp_path / "link", tmp_path / "copy")
    )
    assert linked.fingerprint() == copy.fingerprint()
    good = [sample.path for sample in linked.test if not sample.label]
    assert [relative_name(path, mvtec / "bottle") for path in good] == ["test/good/000.png"]
    assert relative_name(good[0], tmp_path / "link" / "cable") == "good/000.png"


def test_files_in_another_order_are_other_training_images(mvtec):
    data = datasets.open(mvtec, category="bottle")
    files = [sample.path for sample in data.train]

    def loaded(source: object) -> str:
        images = sources.load_images(source, 4)
        assert images.origin["count"] == len(images.pixels)
        return images.origin["images"]

    assert loaded(data) == data.fingerprint(train_only=True)
    assert loaded(files) == datasets.fingerprint(files, files[0].parent)
    found = [loaded(order) for order in (files, files[::-1], [*files[1:], files[0]], files[:1] * 2)]
    assert len({*found, loaded(files[:1])}) == 5
    backwards = replace(data, train=data.train[::-1])
    assert backwards.fingerprint(train_only=True) == data.fingerprint(train_only=True)
    assert loaded(backwards) != loaded(data)


def test_names_that_differ_by_case_only_have_an_order(tmp_path):
    names = [Path(name) for name in ("b.png", "B.png", "a10.png", "A9.png", "a9.png")]
    expected = ["A9.png", "a9.png", "a10.png", "B.png", "b.png"]
    for given in (names, names[::-1]):
        assert [path.name for path in sorted(given, key=natural_key)] == expected


def test_bundled_dataset_is_what_the_demo_needs():
    data = datasets.bundled()
    good = sum(s.label == 0 for s in data.test)
    assert len(data.train) >= 60
    assert good >= 20
    assert len(data.test) - good >= 30
    assert data.without_mask == []
    assert data.train[0].image.shape == (256, 256, 3)
