"""The page of a result: what it says and shows, whatever the files are called."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import fakes
import numpy as np
import pytest
from pages import Page
from PIL import Image

from diffusionad import datasets, evaluation, images
from diffusionad.datasets import Dataset, Sample
from diffusionad.errors import InputError, WriteError
from diffusionad.report import examples, write_report
from diffusionad.report import result as sections
from diffusionad.tiling import Tiles

SIZE = 32
ODD = '<script>alert("x")&<!--'  # as a file's, a defect's, a category's name


def save(path: Path, dark: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((SIZE, SIZE, 3), 220, np.uint8)
    pixels[4:12, 4:12] = 220 - dark
    Image.fromarray(pixels).save(path)


@pytest.fixture
def data(tmp_path) -> Dataset:
    """Three good images and eight defective ones, the higher their number, the darker."""
    part = tmp_path / "part"
    for number in range(3):
        save(part / "train" / "good" / f"{number}.png", 0)
        save(part / "test" / "good" / f"{number}.png", 40 * number)
    for defect in ("dent", ODD):
        for number in range(4):
            save(part / "test" / defect / f"{number}.png", (10, 50, 110, 170)[number])
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[4:12, 4:12] = 255
            (part / "ground_truth" / defect).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(part / "ground_truth" / defect / f"{number}_mask.png")
    return datasets.open(part)


@pytest.fixture
def model() -> fakes.FakeModel:
    made = fakes.FakeModel(image_size=SIZE, seed=4)
    made.provenance = {"train_seconds": 2.5, "train_steps": 9, "threshold": "by <hand>"}
    made.threshold = 0.4  # the third good image, and half of the defective ones, are darker
    return made


def report(path: Path, model: fakes.FakeModel, data: Dataset, **changes: object) -> Page:
    result = evaluation.evaluate(model, data, resamples=20) | changes
    write_report(path / "r.html", result, model, data)
    return Page.read(path / "r.html")


# ---- what it says -------------------------------------------------------------------------------


def test_the_page_has_the_numbers_and_under_which_conditions(tmp_path, model, data):
    page = report(tmp_path, model, data, nearest_training_image_auroc=0.875)
    result = evaluation.evaluate(model, data, resamples=20)
    for name in sections.METRICS:
        low, high = result["confidence"][name]
        assert f"{evaluation.TITLES[name]} {result[name]:.4f} {low:.4f} – {high:.4f}" in page.text
    for words in (
        "without training 0.8750",
        "part (mvtec): 3 train, 3 test good, 8 test defective",
        f"folder {data.root}",
        "protocol benchmark, model resolution, AUPRO up to a false-positive rate of 0.3",
        "95%, 20 resamples of the images",
        "2,000,000 parameters, 32 px",
        "seed 4",
        "9 steps in 2s",
        f"numpy {np.__version__}",
    ):
        assert words in page.text


def test_the_threshold_has_its_false_alarms_and_misses(tmp_path, model, data):
    page = report(tmp_path, model, data)
    assert (
        "At the threshold 0.4: 1 of 3 good test images are false alarms (33.3%), "
        "4 of 8 defective ones are missed (50.0%). How it was chosen: by <hand>."
    ) in page.text
    assert "good 3 2 1" in page.text
    assert "defective 8 4 4" in page.text
    assert page.count("span", class_="wrong") == 5
    assert page.count("span", class_="right") == 6
    assert page.count("polyline", class_="threshold") == 1
    assert page.count("circle", class_="point") == 1
    model.threshold = None
    page = report(tmp_path, model, data)
    assert "This model has no threshold." in page.text
    assert page.count("polyline", class_="threshold") == page.count("circle") == 0
    assert "false alarms (" not in page.text


def test_curves_and_kinds_of_defects(tmp_path, model, data):
    page = report(tmp_path, model, data)
    assert page.count("svg") == 4
    assert page.count("polyline", class_="line a") == 2  # images: ROC, precision
    assert page.count("polyline", class_="line b") == 3  # pixels: those and overlap
    result = evaluation.evaluate(model, data, resamples=0)
    row = result["per_defect"]["dent"]
    assert f"dent 4 {row['image_auroc']:.4f}" in page.text
    assert f"{ODD} 4 {row['image_auroc']:.4f}" in page.text
    assert f"all 8 {result['image_auroc']:.4f}" in page.text


def test_the_configuration_has_every_setting(tmp_path, model, data):
    page = report(tmp_path, model, data)
    for config in (model.config, model.train_config):
        for field in dataclasses.fields(config):
            value = sections.shown(getattr(config, field.name))
            shown = " ".join(f"{field.name} {value} {field.metadata['about']}".split())
            assert shown in page.text
    assert "train_steps 9" in page.text


# ---- images -------------------------------------------------------------------------------------


def test_each_image_has_its_pictures_with_texts(tmp_path, model, data):
    page = report(tmp_path, model, data)
    assert page.count("figure", class_="example") == 11
    drawn = page.pictures()
    assert len(drawn) == 4 * 11
    assert {picture.size for picture in drawn} == {(SIZE, SIZE)}
    alts = page.values("alt")
    for what in ("image", "ground truth", "reconstruction", "map"):
        assert f"test/good/2.png: {what}" in alts
    # The first example is the good image with the highest score: bright, without a defect.
    assert alts[0] == "test/good/2.png: image"
    assert np.asarray(drawn[0])[20:, 20:].mean() == pytest.approx(220, abs=2)
    assert not np.asarray(drawn[1]).any()
    # The last one is a hit: white where its defect is.
    mask = np.asarray(drawn[-3])
    assert (mask[4:12, 4:12] == 255).all()
    assert (mask > 0).sum() == 64
    assert page.count("button", type="button") == 4 * 11 + 2  # and two in the dialog


def test_the_most_telling_images_are_chosen():
    labels = [0] * 20 + [1] * 20
    scores = [*np.linspace(0, 1, 20), *np.linspace(0.5, 1.5, 20)]
    good, missed, hits = examples.choose(labels, scores)
    assert good.chosen == [19, 18, 17, 16, 15, 14]
    assert missed.chosen == [20, 21, 22, 23, 24, 25]
    assert hits.chosen == [39, 38, 37, 36, 35, 34]
    few = examples.choose([1, 1, 1, 0], [0.3, 0.1, 0.2, 0.0])
    assert [group.chosen for group in few] == [[3], [1, 2], [0]]
    assert [group.chosen for group in examples.choose([0, 0], [0.5, 0.5])] == [[1, 0]]
    assert examples.choose([], []) == []


def test_images_are_shown_as_the_networks_saw_them(tmp_path, model, data, monkeypatch):
    """A repair is in the light that images are brought to, and is looked at beside the image."""
    explain = model.explain

    def darker(given):
        found = explain(given)
        return dataclasses.replace(found, images=found.images // 2)

    monkeypatch.setattr(model, "explain", darker)
    first = np.asarray(report(tmp_path, model, data).pictures()[0])
    assert first[20:, 20:].mean() == pytest.approx(110, abs=2)


def test_tiles_are_shown_as_they_were_measured(tmp_path, model, data, monkeypatch):
    """They find what whole images do not show: here all that is below and to the right."""
    measured = model.predict_tiled

    def found(images, **options):
        said = measured(images, **options)
        for one in said.maps:
            one[:], one[20:, 20:] = 0, 1
        return said

    monkeypatch.setattr(model, "predict_tiled", found)
    tiles = Tiles(16, 0.5)
    result = evaluation.evaluate(model, data, resamples=0, resolution="native", tiles=tiles)
    write_report(tmp_path / "r.html", result, model, data)
    page = Page.read(tmp_path / "r.html")
    assert "benchmark, native resolution, tiles of 16 px, overlap 0.5" in page.text
    assert "Seen in tiles of 16 px, overlap 0.5." in page.text
    assert page.text.count("reconstruction: none of tiles") == 11
    drawn = page.pictures()
    assert len(drawn) == 4 * 11
    for picture in drawn[3::4]:
        pixels = np.asarray(picture, np.int64)
        assert np.abs(pixels[24:, 24:].mean((0, 1)) - pixels[:3, 24:].mean((0, 1))).max() > 40


def test_a_defect_whose_mask_is_not_known(tmp_path, model, data):
    for path in (data.root / "ground_truth" / "dent").iterdir():
        path.unlink()
    page = report(tmp_path, model, datasets.open(data.root))
    assert "test/dent/0.png: ground truth: unknown" in page.values("alt")
    assert page.text.count("ground truth: unknown") == 4


def test_the_page_of_any_dataset_is_small(tmp_path, model):
    """Noise is what compresses least."""
    rng = np.random.default_rng(0)
    side = examples.TILE
    samples = []
    for number in range(4):
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file)
        mask = tmp_path / f"{number}_mask.png"
        images.write_png(mask, rng.integers(0, 2, (side, side), dtype=np.uint8))
        samples += [Sample(file, 1, "noise", mask), Sample(file, 0)] * 25
    data = Dataset(tmp_path, "folder", "noise", samples[:1], samples)
    assert len(data.test) == 200
    noisy = fakes.FakeModel(image_size=side)
    noisy.threshold = 0.5
    page = report(tmp_path, noisy, data)
    assert len(page.pictures()) == 4 * 3 * examples.EXAMPLES
    assert 3_000_000 < (tmp_path / "r.html").stat().st_size < 5_000_000


# ---- what there may be --------------------------------------------------------------------------


def test_names_are_shown_and_never_run(tmp_path, model, data):
    odd = [f"{ODD}.png", "new\nline.png", "größe ‮.png", os.fsdecode(b"bad\xff.png"), "$title.png"]
    for name in odd:
        save(data.root / "test" / "good" / name, 100)
    changed = dataclasses.replace(datasets.open(data.root), category=ODD)
    page = report(tmp_path, model, changed)
    assert page.count("script") == 1
    assert f"test/good/{ODD}.png" in page.text
    assert f"Report: {ODD}" in page.text
    assert f"test/{ODD}/3.png: map" in page.values("alt")
    for shown in ("new line.png", "größe .png", "bad .png", "$title.png"):
        assert shown in page.text
    assert "\udcff" not in page.text
    assert not [name for name in page.values("class") + page.values("id") if "<" in name]


@pytest.mark.parametrize("kind", ["good", "dent"])
def test_one_kind_of_images_only(tmp_path, model, data, kind):
    chosen = [sample for sample in data.test if sample.defect == kind]
    page = report(tmp_path, model, dataclasses.replace(data, test=chosen))
    assert "image AUROC -" in page.text
    assert page.count("svg") == (1 if kind == "good" else 4)
    assert ("Kinds of defects" in page.text) == (kind == "dent")


def test_a_result_alone_is_enough(tmp_path, model, data):
    text = json.dumps(evaluation.evaluate(model, data, "reference", resamples=0))
    write_report(tmp_path / "r.html", json.loads(text))
    page = Page.read(tmp_path / "r.html")
    assert page.count("svg") == 4
    assert page.count("img", alt="") == 2  # the dialog's
    assert "the reference's; the curve is exact" in page.text
    assert "Configuration" not in page.text


def test_other_images_than_the_results_are_refused(tmp_path, model, data):
    result = evaluation.evaluate(model, data, resamples=0)
    other = dataclasses.replace(data, test=data.test[1:])
    with pytest.raises(InputError, match="dataset: expected the test images of the result"):
        write_report(tmp_path / "r.html", result, model, other)
    with pytest.raises(InputError, match="model, dataset: expected both or neither"):
        write_report(tmp_path / "r.html", result, model)
    assert not (tmp_path / "r.html").exists()


def test_a_page_is_written_whole_or_not_at_all(tmp_path, model, data, monkeypatch):
    report(tmp_path, model, data)
    before = (tmp_path / "r.html").read_bytes()
    result = evaluation.evaluate(model, data, resamples=0)
    with pytest.raises(WriteError, match="cannot write"):
        write_report(tmp_path / "none" / "r.html", result)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match=r"r\.html: cannot write: no space left"):
        write_report(tmp_path / "r.html", result, model, data)
    assert (tmp_path / "r.html").read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))
