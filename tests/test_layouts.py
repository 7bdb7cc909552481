"""Each layout: recognised, read, and its edge cases, on tiny sets in the dataset's exact layout."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import CATEGORIES, TINY
from PIL import Image

from diffusionad import datasets
from diffusionad.datasets import LAYOUTS, Counts, Dataset
from diffusionad.errors import InputError

PUBLIC = tuple(CATEGORIES)


def counts(data: Dataset) -> Counts:
    good = sum(sample.label == 0 for sample in data.test)
    return Counts(len(data.train), good, len(data.test) - good, len(data.left_out))


def tiny(root: Path, layout: str, left_out: int = 0) -> str:
    """One category of a layout; returns its name."""
    layouts.write(root, layout, CATEGORIES[layout], TINY._replace(left_out=left_out))
    return CATEGORIES[layout]


@pytest.mark.parametrize("layout", PUBLIC)
def test_public_layouts_are_recognised_and_read(tmp_path, layout):
    category = tiny(tmp_path, layout)
    folder = tmp_path / "1cls" / category if layout == "visa" else tmp_path / category
    for data in (
        datasets.open(tmp_path, layout, category),
        datasets.open(tmp_path, category=category),
        datasets.open(tmp_path),
        datasets.open(folder),
        datasets.open(folder, layout),
    ):
        assert (data.layout, data.category, data.root) == (layout, category, folder)
        assert counts(data) == TINY
        assert data.without_mask == []
        for sample in data.test:
            assert sample.mask is not None
            assert sample.mask.sum() == (4 if sample.label else 0)
            assert sample.image.shape == (4, 4, 3)
    assert datasets.categories(tmp_path) == datasets.categories(tmp_path, layout) == [category]
    assert datasets.categories(folder) == [category]


@pytest.mark.parametrize("layout", PUBLIC)
def test_relative_paths_and_links(tmp_path, layout, monkeypatch):
    category = tiny(tmp_path, layout)
    folder = tmp_path / "1cls" / category if layout == "visa" else tmp_path / category
    monkeypatch.chdir(folder)
    data = datasets.open(".")
    assert (data.layout, data.category, counts(data)) == (layout, category, TINY)
    away = tmp_path / "elsewhere"
    away.mkdir()
    (folder.rename(away / "moved"), folder.symlink_to(away / "moved"))
    data = datasets.open(tmp_path, category=category)
    assert (data.layout, data.category, counts(data)) == (layout, category, TINY)
    assert data.train[0].image.size


@pytest.mark.parametrize("layout", PUBLIC)
def test_a_category_that_does_not_exist_names_those_that_do(tmp_path, layout):
    category = tiny(tmp_path, layout)
    for name in (layout, "auto"):
        with pytest.raises(InputError, match=f"no category 'screws'; there are: {category}"):
            datasets.open(tmp_path, name, "screws")


@pytest.mark.parametrize("layout", PUBLIC)
def test_a_defective_image_without_mask_is_kept_and_told(tmp_path, layout, caplog):
    category = tiny(tmp_path, layout)
    masks = [
        path for path in sorted(tmp_path.rglob("*"))
        if path.suffix.lower() == ".png" and {"ground_truth", "Masks", "Label"} & set(path.parts)
    ]  # fmt: skip
    assert len(masks) == 3
    masks[0].unlink()
    with caplog.at_level(logging.WARNING, "diffusionad"):
        data = datasets.open(tmp_path, layout, category)
    assert counts(data) == TINY
    [left] = data.without_mask
    assert left.label == 1
    assert left.mask is None
    assert f"1 defective image(s) have no mask ({left.path.name})" in caplog.text


@pytest.mark.parametrize("layout", PUBLIC)
def test_other_files_are_passed_over(tmp_path, layout):
    category = tiny(tmp_path, layout)
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "._000.png"):
            (folder / name).write_bytes(b"x")
    assert counts(datasets.open(tmp_path, category=category)) == TINY
    assert datasets.check(tmp_path / "1cls" if layout == "visa" else tmp_path,
                          category=category, read=False).layout == layout  # fmt: skip


@pytest.mark.parametrize("layout", [name for name in PUBLIC if not name.endswith("raw")])
def test_trees_take_ok_for_good_and_every_mask_name(tmp_path, layout):
    category = tiny(tmp_path, layout)
    for part in ("train", "test"):
        [good] = tmp_path.rglob(f"{part}/good")
        good.rename(good.with_name("OK"))
    masks = sorted(path for path in tmp_path.rglob("ground_truth/*/*"))
    for mask, ending in zip(masks, ("_mask.PNG", ".png", "_label.bmp"), strict=True):
        image = next(path for path in tmp_path.rglob(f"test/{mask.parent.name}/*")
                     if path.stem == mask.stem.split("_")[0])  # fmt: skip
        mask.rename(mask.with_name(image.stem + ending))
    data = datasets.open(tmp_path, category=category)
    assert counts(data) == TINY
    assert data.without_mask == []
    assert {sample.defect for sample in data.test if not sample.label} == {"good"}


def test_an_image_has_the_mask_of_its_own_folder(tmp_path):
    tiny(tmp_path, "mpdd")
    for sample in datasets.open(tmp_path).test:
        if sample.label:
            assert sample.mask_path is not None
            assert sample.mask_path.parent.name == sample.path.parent.name == sample.defect
            assert sample.mask_path.stem.startswith(sample.path.stem)


def test_dagm_raw_trains_on_good_images_and_leaves_defective_ones_out(tmp_path):
    tiny(tmp_path, "dagm_raw", left_out=2)
    data = datasets.open(tmp_path)
    assert counts(data) == TINY._replace(left_out=2)
    assert str(data).endswith("3 test defective, 2 left out")
    assert {sample.path.parent.name for sample in (*data.train, *data.left_out)} == {"Train"}
    assert {sample.path.parent.name for sample in data.test} == {"Test"}
    assert all(sample.label and sample.has_mask for sample in data.left_out)
    assert not {sample.path for sample in data.train} & {sample.path for sample in data.left_out}


def test_dagm_raw_in_a_folder_of_its_own_name(tmp_path):
    tiny(tmp_path / "Class3", "dagm_raw")
    data = datasets.open(tmp_path)
    assert (data.layout, data.category, counts(data)) == ("dagm_raw", "Class3", TINY)


def test_dagm_raw_without_labels_is_refused(tmp_path):
    tiny(tmp_path, "dagm_raw")
    labels = tmp_path / "Class3" / "Test" / "Label"
    (labels / "Labels.txt").unlink()
    assert counts(datasets.open(tmp_path)) == TINY  # the masks say enough
    masks = [path.rename(path.with_name(f"{path.stem}_of.PNG")) for path in labels.glob("*.PNG")]
    assert masks
    with pytest.raises(InputError, match=r"Label: no Labels\.txt and no mask <image>_label of any"):
        datasets.open(tmp_path / "Class3")
    labels.rename(labels.with_name("Labels"))
    with pytest.raises(InputError, match=r"Test/Label: no such folder, so which images"):
        datasets.open(tmp_path)


def test_visa_masks_hold_class_numbers(tmp_path):
    tiny(tmp_path, "visa_raw")
    found = set()
    for sample in datasets.open(tmp_path).test:
        if sample.label:
            with Image.open(sample.mask_path) as image:
                found.add(int(np.asarray(image).max()))
            assert sample.mask.sum() == 4
    assert found == {1, 2, 3}


def test_visa_needs_its_split_file_and_what_it_names(tmp_path):
    category = tiny(tmp_path, "visa_raw")
    file = tmp_path / "split_csv" / "1cls.csv"
    lines = file.read_text().splitlines()
    train = next(line for line in lines if ",train," in line).split(",")[3]
    (tmp_path / train).unlink()
    with pytest.raises(InputError, match=rf"{train}: no such file, though the table names it"):
        datasets.open(tmp_path)
    file.write_text("object,split,label,image,mask\n")
    with pytest.raises(InputError, match=r"1cls\.csv: no good images of 'candle'"):
        datasets.open(tmp_path, category=category)
    file.unlink()
    with pytest.raises(InputError, match=r"split_csv/1cls\.csv: no such file"):
        datasets.open(tmp_path / category)


def test_two_categories_are_told_apart(tmp_path):
    for layout in PUBLIC:
        for category in list(LAYOUTS[layout].published)[:2]:
            layouts.write(tmp_path / layout, layout, category, TINY)
        names = list(LAYOUTS[layout].published)[:2]
        assert datasets.categories(tmp_path / layout) == names
        for name in names:
            data = datasets.open(tmp_path / layout, category=name)
            assert (data.layout, data.category, counts(data)) == (layout, name, TINY)
            assert all(name in sample.path.parts for sample in (*data.train, *data.test))
        with pytest.raises(InputError, match=f"choose a category; there are: {', '.join(names)}"):
            datasets.open(tmp_path / layout)


def test_kinds():
    textures = {name for name in LAYOUTS["mvtec"].published if LAYOUTS["mvtec"].kind(name) ==
                "texture"}  # fmt: skip
    assert textures == {"carpet", "grid", "leather", "tile", "wood", "zipper"}
    for layout, kind in (
        ("dagm", "texture"), ("dagm_raw", "texture"), ("visa", "object"), ("visa_raw", "object"),
        ("mpdd", "object"),
    ):  # fmt: skip
        row = LAYOUTS[layout]
        assert {row.kind(name) for name in row.published} == {kind}


def test_the_kind_of_a_dataset_may_be_given(tmp_path):
    tiny(tmp_path, "dagm_raw")
    assert datasets.open(tmp_path).kind == "texture"
    assert datasets.open(tmp_path, kind="object").kind == "object"
    with pytest.raises(InputError, match="kind: expected texture or object, got 'cloth'"):
        datasets.open(tmp_path, kind="cloth")


def test_a_layout_must_fit(tmp_path):
    tiny(tmp_path / "m", "mvtec")
    for layout, words in (
        ("visa_raw", r"not a category with Data/Images \(visa_raw\)"),
        ("dagm_raw", r"not a class with images in Train \(dagm_raw\)"),
        ("folder", r"not a folder of images \(folder\)"),
        ("table", "expected a CSV file, got a folder"),
    ):
        with pytest.raises(InputError, match=words):
            datasets.open(tmp_path / "m", layout)
    with pytest.raises(InputError, match=r"not a category with train/good \(mvtec, visa, dagm,"):
        datasets.open(tmp_path)


def test_trees_of_other_names_are_read_in_any_tree_layout(tmp_path):
    layouts.write(tmp_path, "mvtec", "gear", TINY)
    assert datasets.open(tmp_path).layout == "mvtec"
    for layout in ("visa", "dagm", "mpdd"):
        data = datasets.open(tmp_path, layout)
        assert (data.layout, counts(data), data.kind) == (layout, TINY, "object")


@pytest.mark.parametrize("layout", [*PUBLIC, "table"])
@pytest.mark.parametrize("name", ["defective", "masks"])
def test_folders_are_refused_where_a_layout_has_its_own(tmp_path, layout, name):
    source = tmp_path
    if layout == "table":
        source = tmp_path / "t.csv"
        layouts.Writer(tmp_path).good("0.png")
        source.write_text("path,label\n0.png,0\n")
    else:
        tiny(tmp_path, layout)
    words = f"{name}: expected only with a folder of good images, got the layout {layout}"
    with pytest.raises(InputError, match=words):
        datasets.open(source, **{name: tmp_path})


def test_pictures_beside_categories_do_not_make_a_plain_folder(tmp_path):
    category = tiny(tmp_path, "mvtec")
    layouts.Writer(tmp_path).good("preview.png")
    assert datasets.open(tmp_path).category == category
    assert datasets.open(tmp_path, "folder").train[0].path.name == "preview.png"


def test_folders_of_images_are_categories_where_asked_for(tmp_path):
    writer = layouts.Writer(tmp_path)
    for name in ("a/0.png", "a/1.png", "b/0.png", "c/good/0.png", "c/good/1.png", "c/bad/0.png"):
        writer.good(name)
    assert datasets.categories(tmp_path, "folder") == ["a", "b", "c"]
    with pytest.raises(InputError, match="not a category with train/good"):
        datasets.categories(tmp_path)
    data = datasets.open(tmp_path, "folder", "c", test_fraction=0.5)
    assert counts(data) == (1, 1, 1, 0)


@pytest.fixture
def locked(tmp_path, monkeypatch) -> Path:
    """A folder beside the category gear that may not be looked into, as lost+found of a disk."""
    layouts.write(tmp_path, "mvtec", "gear", TINY)
    folder = tmp_path / "lost+found"
    folder.mkdir()
    stat, iterdir = Path.stat, Path.iterdir

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def stat_outside(path: Path, **options: bool) -> os.stat_result:
        return refuse(path) if folder in path.parents else stat(path, **options)

    def iterdir_outside(path: Path) -> Iterator[Path]:
        return refuse(path) if path == folder else iterdir(path)

    monkeypatch.setattr(Path, "stat", stat_outside)
    monkeypatch.setattr(Path, "iterdir", iterdir_outside)
    return folder


def test_a_locked_folder_beside_the_categories_is_passed_over(locked):
    root = locked.parent
    for layout in ("auto", "mvtec"):
        assert datasets.categories(root, layout) == ["gear"]
    assert datasets.open(root).category == datasets.open(root, category="gear").category == "gear"
    assert datasets.check(root).as_published


def test_a_category_with_a_locked_folder_inside_is_named(tmp_path, monkeypatch):
    for name in ("gear", "nut"):
        layouts.write(tmp_path, "mvtec", name, TINY)
    locked, stat = tmp_path / "nut" / "train", Path.stat

    def stat_outside(path: Path, **options: bool) -> os.stat_result:
        if locked in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_outside)
    for layout in ("auto", "mvtec"):
        with pytest.raises(InputError, match=r"nut.train"):
            datasets.categories(tmp_path, layout)


def test_a_locked_folder_that_is_asked_for_is_named(locked):
    (locked.parent / "t.csv").write_text(f"path,label\n{locked}/0.png,0\n")
    for ask in (
        lambda: datasets.open(locked),
        lambda: datasets.open(locked / "x"),
        lambda: datasets.categories(locked / "x.csv"),
        lambda: datasets.check(locked / "x", "table"),
        lambda: datasets.open(locked.parent, category="lost+found"),
        lambda: datasets.open(locked.parent / "t.csv"),
        lambda: datasets.check(locked.parent / "t.csv"),
        lambda: datasets.open(locked.parent / "gear" / "train" / "good", masks=locked / "masks"),
    ):
        with pytest.raises(InputError, match=r"lost\+found"):
            ask()


# ---- tables -----------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path) -> Path:
    """Six images under odd names; the CSV file lies elsewhere than they do."""
    writer = layouts.Writer(tmp_path)
    for name in ("img/a 1.png", "img/größe.JPG", "img/c,3.bmp", "img/t.tif"):
        writer.good(name)
    for name in ("img/x.png", "img/y.png"):
        writer.bad(name)
    writer.mask("masks/x of it.png", 2)
    writer.text("lists/parts.csv", (
        "\ufeffPath, label ,mask,split\r\n"
        "../img/a 1.png,good,,train\r\n"
        "../img/größe.JPG,0,,train\r\n"
        '"../img/c,3.bmp",ok,,test\r\n'
        "\r\n"
        "../img/x.png,scratch,../masks/x of it.png,test\r\n"
        "../img/y.png,1,,test\r\n"
    ))  # fmt: skip
    return tmp_path / "lists" / "parts.csv"


def test_table(table, caplog):
    for layout in ("auto", "table"):
        data = datasets.open(table, layout)
        assert (data.layout, data.category, data.root) == ("table", "parts", table.parent)
        assert [s.path.name for s in data.train] == ["a 1.png", "größe.JPG"]
        found = [(s.path.name, s.defect, s.has_mask) for s in data.test]
        assert found == [
            ("c,3.bmp", "good", True), ("x.png", "scratch", True), ("y.png", "defective", False),
        ]  # fmt: skip
        assert data.test[1].mask.sum() == 4
    assert "1 defective image(s) have no mask (y.png)" in caplog.text
    assert datasets.categories(table) == ["parts"]
    assert datasets.open(table, category="parts").train == data.train
    with pytest.raises(InputError, match="no category 'x'; there are: parts"):
        datasets.open(table, category="x")
    assert data.fingerprint() != data.fingerprint(train_only=True)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_table_with_other_separators_categories_and_no_split(tmp_path, separator):
    writer = layouts.Writer(tmp_path)
    lines = ["category,path,label"]
    for category in ("b2", "b10"):
        for number in range(10):
            writer.good(f"{category}/{number}.png")
            lines.append(f"{category},{category}/{number}.png,normal")
        writer.bad(f"{category}/bad.png")
        lines.append(f"{category},{category}/bad.png,dent")
    writer.text("all.tsv", "\n".join(lines).replace(",", separator))
    file = tmp_path / "all.tsv"
    assert datasets.categories(file) == ["b2", "b10"]
    with pytest.raises(InputError, match="choose a category; there are: b2, b10"):
        datasets.open(file)
    data = datasets.open(file, category="b10", test_fraction=0.3, seed=1)
    assert counts(data) == (7, 3, 1, 0)
    assert all(sample.path.parent.name == "b10" for sample in (*data.train, *data.test))
    assert datasets.open(file, category="b10", test_fraction=0.3, seed=1) == data
    assert datasets.open(file, category="b10", test_fraction=0.3, seed=2).train != data.train


def test_the_order_of_a_table_is_the_same_from_everywhere(tmp_path, monkeypatch):
    writer = layouts.Writer(tmp_path)
    rows = ["path,label,split"]
    for number in range(3):
        writer.good(f"lists/{number}.png")
        writer.good(f"other/{number}.png")
        rows += [f"{number}.png,good,train", f"{tmp_path}/other/{number}.png,good,train"]
    writer.text("lists/t.csv", "\n".join(rows))
    monkeypatch.chdir(tmp_path)
    first, second = (datasets.open(file) for file in ("lists/t.csv", tmp_path / "lists" / "t.csv"))
    assert [s.path.resolve() for s in first.train] == [s.path.resolve() for s in second.train]


def test_table_keeps_the_mask_of_a_good_image(tmp_path):
    writer = layouts.Writer(tmp_path)
    writer.good("a.png")
    writer.good("b.png")
    writer.mask("m.png", 0)
    writer.text("t.csv", "path,label,mask,split\na.png,0,,train\nb.png,0,m.png,test\n")
    [sample] = datasets.open(tmp_path / "t.csv").test
    assert sample.mask_path == tmp_path / "m.png"
    assert not sample.mask.any()


@pytest.mark.parametrize("names", [("Good", "Bad"), ("OK", "NG"), ("good", "Defective")])
def test_folders_beside_good_images_are_found_whatever_their_case(tmp_path, names):
    writer = layouts.Writer(tmp_path)
    for number in range(5):
        writer.good(f"{names[0]}/{number}.png")
    writer.bad(f"{names[1]}/a.png")
    writer.mask("Masks/A_MASK.PNG", 4)
    data = datasets.open(tmp_path, test_fraction=0.2)
    assert counts(data)[:3] == (4, 1, 1)
    [bad] = [sample for sample in data.test if sample.label]
    assert bad.mask_path == tmp_path / "Masks" / "A_MASK.PNG"


def test_digits_that_are_no_numbers_are_names(tmp_path):
    writer = layouts.Writer(tmp_path / "5²")
    for name in ("①.png", "10.png", "2.png"):
        writer.good(f"good/{name}")
    data = datasets.open(tmp_path / "5²", test_fraction=0.0)
    assert [sample.path.name for sample in data.train] == ["2.png", "10.png", "①.png"]


def test_labels_of_a_spreadsheet(tmp_path):
    writer = layouts.Writer(tmp_path)
    for name in "abc":
        writer.good(f"{name}.png")
    writer.text("t.csv", "path,label\na.png,FALSE\nb.png,False\nc.png,TRUE\n")
    data = datasets.open(tmp_path / "t.csv", test_fraction=0.5)
    assert counts(data)[:3] == (1, 1, 1)
    assert data.test[-1].defect == "defective"
    writer.text("u.csv", "category,path,label\none,a.png,0\n,b.png,0\n")
    with pytest.raises(InputError, match=r"u\.csv line 3: category: expected a value"):
        datasets.open(tmp_path / "u.csv", category="one")


@pytest.mark.parametrize(
    "rows",
    ["path,label,mask\na.png,good\nb.png,good,\n", "path,label\na.png,good,\nb.png,good,,\n"],
)
def test_empty_cells_at_the_end_of_a_row_may_be_missing_or_too_many(tmp_path, rows):
    writer = layouts.Writer(tmp_path)
    writer.good("a.png")
    writer.good("b.png")
    writer.text("t.csv", rows)
    data = datasets.open(tmp_path / "t.csv", test_fraction=0.5)
    assert counts(data)[:2] == (1, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"t\.csv: expected a column 'path', got nothing"),
        ("path,split\n", r"t\.csv: expected a column 'label', got path, split"),
        ("path,path,label\n", "expected a column 'path'"),
        ("path,label\n", r"t\.csv: no good images to train on"),
        ("path,label,split\na.png,0,train\na.png,0,test\n",
         r"t\.csv line 3: a\.png is in line 2 already"),
        ("path,label,split\na.png,0,val\n", r"line 2: split: expected train or test, got 'val'"),
        ("path,label,split\na.png,bad,train\n", "line 2: a defective image cannot be trained on"),
        ("path,label,split\na.png,,train\n", "line 2: label: expected a value, got none"),
        ("path,label\n,0\n", "line 2: path: expected a value"),
        ("path,label\na.png,good,,x\n", r"t\.csv line 2: expected 2 values \(path, label\), got 4"),
        ("path,label\na.png\n", r"t\.csv line 2: expected 2 values \(path, label\), got 1"),
        ("path,label,mask,split\na.png,0,,train\nx.png,good\n",
         r"t\.csv line 3: expected 4 values \(path, label, mask, split\), got 2"),
        ("path,label,split\na,b.png,0,train\n", r"t\.csv line 2: expected 3 values .*, got 4"),
        ("path,label\na.png,0\nb.png,0\nc.png,0\n",
         r"b\.png: no such file, though the table names it \(and 1 more\)"),
        ("path,label\na\0.png,0\n", r"no such file|t\.csv: not a CSV file"),
        (b"path,label\n\xff\xfe.png,0\n", r"t\.csv: not a CSV file in UTF-8"),
        ('path,label\n"' + "a" * 200_000, r"t\.csv: not a CSV file"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_its_line(tmp_path, content, words):
    layouts.Writer(tmp_path).good("a.png")
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=words):
        datasets.open(tmp_path / "t.csv", test_fraction=0.5)


def test_a_table_that_is_no_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: no such f"):
        datasets.open(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        datasets.open(tmp_path / "none.csv", "table")
    layouts.Writer(tmp_path).good("a.png")
    with pytest.raises(InputError, match="expected a folder, got a file"):
        datasets.open(tmp_path / "a.png")


# ---- real images ------------------------------------------------------------------------------


@pytest.mark.skipif(
    "DIFFUSIONAD_TEST_DATA" not in os.environ, reason="DIFFUSIONAD_TEST_DATA names no folder"
)
@pytest.mark.parametrize(
    ("path", "category", "expected", "without_mask"),
    [
        ("mvtec", "screw", (320, 41, 119, 0), 0),
        ("mvtec", "leather_sample", (4, 4, 20, 0), 9),
        ("mtd", None, (386, 90, 386, 0), 0),
        ("bsdata", None, (190, 60, 84, 0), 0),
        ("aitex", None, (210, 84, 28, 0), 0),
    ],
)
def test_real_folders(path, category, expected, without_mask, caplog):
    root = Path(os.environ["DIFFUSIONAD_TEST_DATA"]) / path
    if not root.is_dir():
        pytest.skip(f"no folder {path} in DIFFUSIONAD_TEST_DATA")
    data = datasets.open(root, category=category)
    assert (data.layout, counts(data)) == ("mvtec", expected)
    assert len(data.without_mask) == without_mask
    assert (f"{without_mask} defective image(s) have no mask" in caplog.text) == (without_mask > 0)
    report = datasets.check(root, category=category)
    assert [row.counts for row in report.categories] == [expected]
    assert len(report.findings) == without_mask + (category == "leather_sample")
    masks = [sample.mask for sample in data.test[:: len(data.test) // 8] if sample.has_mask]
    assert any(np.any(mask) for mask in masks)
