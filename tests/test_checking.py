"""Datasets against their published numbers: whole ones made here, and each way to differ."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import CATEGORIES, TINY, Writer
from PIL import Image
from test_cli import fails, run

from diffusionad import datasets
from diffusionad.datasets import LAYOUTS, Finding, published
from diffusionad.errors import InputError

# What the authors state of the whole: train, test good, test defective, left out.
TOTALS = {
    "mvtec": (3629, 467, 1258, 0),
    "visa": (8659, 962, 1200, 0),
    "visa_raw": (8659, 962, 1200, 0),
    "dagm": (7004, 6996, 1054, 0),
    "dagm_raw": (7004, 6996, 1054, 1046),
    "mpdd": (888, 176, 282, 0),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Every public dataset with all its files, most of them links to a few."""
    root = tmp_path_factory.mktemp("published")
    for layout in TOTALS:
        layouts.write_published(root / layout, layout)
    return root


@pytest.mark.parametrize("layout", TOTALS)
def test_published_numbers(whole, layout):
    for given in (layout, "auto"):
        report = datasets.check(whole / layout, given, read=False)
        assert report.layout == layout
        assert report.compared
        assert report.findings == []
        assert report.as_published
        assert report.totals == TOTALS[layout]
        assert [row.category for row in report.categories] == list(
            datasets.categories(whole / layout, layout)
        )
        assert all(row.counts == row.published for row in report.categories)


def test_published_numbers_are_those_of_the_datasets():
    assert sum(TOTALS["dagm_raw"]) == 16_100
    assert {name: len(LAYOUTS[name].published) for name in TOTALS} == {
        "mvtec": 15, "visa": 12, "visa_raw": 12, "dagm": 10, "dagm_raw": 10, "mpdd": 6,
    }  # fmt: skip
    dagm = [counts for (counts,) in published.DAGM_RAW.values()]
    assert [counts.left_out for counts in dagm] == [79, 66, 66, 82, 70, 83, 150, 150, 150, 150]
    assert [counts.train + counts.test_good for counts in dagm] == [1000] * 6 + [2000] * 4
    assert [counts.test_defective + counts.left_out for counts in dagm] == [150] * 6 + [300] * 4
    assert LAYOUTS["mvtec"].counts("screw") == ((320, 41, 119, 0),)
    assert LAYOUTS["visa"].counts("pcb3") == ((905, 101, 100, 0),)
    assert LAYOUTS["mpdd"].counts("metal_plate") == ((54, 26, 71, 0),)


def test_files_are_read(whole):
    seen = []
    report = datasets.check(whole / "mpdd", progress=lambda *done: seen.append(done))
    assert report.as_published
    assert seen[-1] == (888 + 176 + 282,) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_dagm_converted_may_test_on_all_defective_images(tmp_path):
    for name, (_, both) in published.DAGM.items():
        layouts.write(tmp_path, "dagm", name, both)
    report = datasets.check(tmp_path, read=False)
    assert report.as_published
    assert report.totals == (7004, 6996, 2100, 0)


def findings(root: Path, layout: str = "auto", category: str | None = None) -> list[Finding]:
    return datasets.check(root, layout, category).findings


def facts(root: Path, **options: str) -> set[tuple[str, str, str]]:
    return {
        (f.kind, f.path.relative_to(root).as_posix(), f.what) for f in findings(root, **options)
    }


@pytest.fixture
def tubes(tmp_path) -> Path:
    """MPDD's category tubes, complete; its defects are broken and scratch."""
    [counts] = LAYOUTS["mpdd"].counts("tubes")
    layouts.write(tmp_path, "mpdd", "tubes", counts)
    assert findings(tmp_path / "tubes") == []
    return tmp_path / "tubes"


def test_missing_files_are_named_where_the_numbering_tells(tubes):
    (tubes / "train" / "good" / "017.png").unlink()
    (tubes / "train" / "good" / "121.png").unlink()
    assert facts(tubes) == {
        ("missing", "train/good/017.png", "no such file, by the numbering"),
        ("missing", "train/good/121.png", "no such file, by the numbering"),
        ("missing", ".", "120 images to train on, published 122"),
    }
    (tubes / "train" / "good" / "017.png").hardlink_to(tubes / "train" / "good" / "000.png")
    (tubes / "test" / "scratch" / "002.png").unlink()
    (tubes / "train" / "good" / "121.png").hardlink_to(tubes / "train" / "good" / "000.png")
    assert facts(tubes) == {
        ("missing", "test/scratch/002.png", "no such file, by the numbering"),
        ("missing", ".", "68 defective test images, published 69"),
        ("mismatched", "ground_truth/scratch/002_mask.png", "a mask without its image"),
    }


def test_numbers_with_wide_gaps_are_not_guessed_at(tubes):
    (tubes / "train" / "good" / "017.png").rename(tubes / "train" / "good" / "99999999999999.png")
    (tubes / "train" / "good" / "018.png").unlink()
    assert facts(tubes) == {("missing", ".", "121 images to train on, published 122")}


def test_extra_files_are_named(tubes):
    writer = Writer(tubes)
    writer.good("train/good/122.png")
    writer.good("train/broken/000.png")
    writer.good("photo.png")
    writer.good("DISthresh/good/000.png")  # the reference's foregrounds
    writer.text("train/good/000.heic", "x")
    writer.text("train/good/notes.txt", "x")
    assert facts(tubes) == {
        ("extra", ".", "123 images to train on, published 122"),
        ("extra", "photo.png", "nothing reads this file"),
        ("extra", "train/broken/000.png", "nothing reads this file"),
        ("extra", "train/good/000.heic", "not an image by its name"),
    }


def test_unreadable_files_are_named(tubes):
    for name in ("train/good/000.png", "test/good/001.png", "ground_truth/broken/000_mask.png"):
        (tubes / name).unlink()
    (tubes / "train/good/000.png").touch()
    (tubes / "test/good/001.png").write_text("no image")
    (tubes / "ground_truth/broken/000_mask.png").write_bytes(b"\x89PNG")
    assert facts(tubes) == {
        ("unreadable", "train/good/000.png", "the file is empty"),
        ("unreadable", "test/good/001.png", "not an image that can be read"),
        ("unreadable", "ground_truth/broken/000_mask.png", "not an image that can be read"),
    }
    assert datasets.check(tubes, read=False).as_published


def test_mismatched_masks_are_named(tubes):
    masks = tubes / "ground_truth" / "broken"
    for number in range(3):
        (masks / f"00{number}_mask.png").unlink()
    Image.fromarray(np.full((6, 4), 9, np.uint8)).save(masks / "000_mask.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(masks / "001_mask.png")
    assert facts(tubes) == {
        ("mismatched", "ground_truth/broken/000_mask.png",
         "the mask is 4x6 pixels, its image 4x4"),
        ("mismatched", "ground_truth/broken/001_mask.png",
         "the mask of a defective image is empty"),
        ("missing", "test/broken/002.png", "has no mask: left out of pixel metrics"),
    }  # fmt: skip


def test_categories_are_compared_where_the_dataset_is_known(tubes):
    root = tubes.parent
    layouts.write(root, "mpdd", "gear", TINY)
    found = facts(root)
    assert ("extra", "gear", "MPDD has no such category") in found
    assert ("missing", "connector", "no such category, MPDD has one") in found
    assert len(found) == 6
    assert facts(root, category="tubes") == set()
    with pytest.raises(InputError, match="no category 'x'; there are: gear, tubes"):
        findings(root, "auto", "x")


def test_own_data_is_only_read(tmp_path):
    layouts.write(tmp_path, "mvtec", "gear", TINY)
    report = datasets.check(tmp_path)
    assert (report.layout, report.compared, report.as_published) == ("mvtec", False, True)
    assert report.categories[0].published is None
    named = datasets.check(tmp_path, "mvtec")
    assert named.compared
    assert len(named.findings) == 16  # an extra category, and fifteen missing ones


def test_a_category_without_training_images_does_not_end_the_check(tubes):
    (tubes.parent / "connector" / "train" / "good").mkdir(parents=True)
    found = findings(tubes.parent)
    assert [f.category for f in found if f.kind == "unreadable"] == ["connector"]
    assert [f.what for f in found if f.kind == "unreadable"] == ["no images in this folder"]
    with pytest.raises(InputError, match="connector/train/good: no images in this folder"):
        findings(tubes.parent / "connector")


def test_colons_of_names_stay_in_them(tmp_path):
    for category in ("a: b", "c"):
        layouts.write(tmp_path / "my: data", "mvtec", category, TINY)
    good = tmp_path / "my: data" / "a: b" / "train" / "good"
    for path in good.iterdir():
        path.unlink()
    [found] = findings(tmp_path / "my: data")
    assert (found.path, found.what) == (good, "no images in this folder")


def test_what_a_split_file_names_in_vain(tmp_path):
    [counts] = LAYOUTS["visa_raw"].counts("cashew")
    layouts.write(tmp_path, "visa_raw", "cashew", counts)
    cashew = tmp_path / "cashew"
    assert findings(cashew) == []
    (cashew / "Data/Images/Normal/0003.JPG").unlink()
    (cashew / "Data/Masks/Anomaly/007.png").unlink()
    Writer(tmp_path).good("cashew/Data/Images/Normal/9999.JPG")
    assert facts(cashew) == {
        ("missing", "Data/Images/Normal/0003.JPG", "no such file, though the table names it"),
        ("missing", "Data/Masks/Anomaly/007.png", "no such mask, though the table names it"),
        ("extra", "Data/Images/Normal/9999.JPG", "nothing reads this file"),
    }


def test_folders_and_tables_are_checked_too(tmp_path):
    writer = Writer(tmp_path)
    for name in ("good/0.png", "good/1.png", "bad/0.png", "other/0.png"):
        writer.good(name)
    writer.mask("masks/0.png")
    writer.mask("full.png")
    writer.text("t.csv", "path,label,mask\ngood/0.png,0,full.png\nbad/0.png,1,none.png\n")
    report = datasets.check(tmp_path, "folder")
    assert {(f.kind, f.path.relative_to(tmp_path).as_posix()) for f in report.findings} == {
        ("extra", "other/0.png"),
        ("extra", "full.png"),
    }
    table = datasets.check(tmp_path / "t.csv")
    assert {(f.kind, f.path.name, f.what) for f in table.findings} == {
        ("missing", "none.png", "no such mask, though the table names it"),
        ("mismatched", "full.png", "the mask of a good image is not empty"),
    }


# ---- the command ------------------------------------------------------------------------------


def test_command_check(capsys, tubes, tmp_path):
    assert run("datasets", "check", tubes, "--layout", "mpdd") == 0
    text = capsys.readouterr().out
    for line in ("MPDD (mpdd)", "  tubes  object    122         32              69            0"):
        assert line in text
    assert text.endswith("\nas published\n")

    (tubes / "train/good/005.png").unlink()
    file = tmp_path / "new" / "report.json"
    assert run("datasets", "check", tubes, "--counts-only", "--json", file) == 1
    text = capsys.readouterr().out
    assert "121 of 122" in text
    assert f"missing     {tubes}/train/good/005.png: no such file, by the numbering" in text
    assert text.endswith("\n2 missing; no file was read\n")
    report = json.loads(file.read_text())
    assert {name: report[name] for name in (
        "data", "layout", "dataset", "compared", "files_read", "as_published",
    )} == {
        "data": str(tubes), "layout": "mpdd", "dataset": "MPDD", "compared": True,
        "files_read": False, "as_published": False,
    }  # fmt: skip
    [row] = report["categories"]
    assert (row["category"], row["kind"], row["train"]) == ("tubes", "object", 121)
    assert row["published"]["train"] == 122
    assert report["totals"]["train"] == 121
    assert [f["kind"] for f in report["findings"]] == ["missing", "missing"]
    assert report["findings"][0]["path"] == f"{tubes}/train/good/005.png"
    assert "numpy" in report["versions"]

    assert run("datasets", "check", tubes, "--quiet", "--json", "-") == 1
    assert json.loads(capsys.readouterr().out)["files_read"] is True
    assert run("datasets", "check", tubes, "--quiet") == 1
    assert capsys.readouterr().out == ""


def test_command_says_how_many_more_there_are(capsys, tubes):
    for number in range(40):
        Writer(tubes).good(f"spare/{number}.png")
    assert run("datasets", "check", tubes) == 1
    text = capsys.readouterr().out
    assert "extra       ... and 20 more" in text
    assert text.endswith("\n40 extra\n")


def test_command_list(capsys, tubes, tmp_path):
    layouts.write(tubes.parent, "mpdd", "connector", TINY)
    assert run("datasets", "list", tubes.parent, "--json", tmp_path / "l.json") == 0
    assert capsys.readouterr().out.splitlines() == [
        "connector (mpdd): 4 train, 2 test good, 3 test defective, object",
        "tubes (mpdd): 122 train, 32 test good, 69 test defective, object",
    ]
    rows = json.loads((tmp_path / "l.json").read_text())["categories"]
    assert rows[0] == {"category": "connector", "layout": "mpdd", "kind": "object"}


def test_bad_input_is_one_line_and_code_2(capsys, tubes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n")
    for arguments, words in (
        ([], "action"),
        (["count", tubes], "invalid choice: 'count'"),
        (["check"], "DATA"),
        (["check", tmp_path / "none"], "none: no such folder"),
        (["check", tmp_path / "empty"], "empty: the folder is empty"),
        (["check", tubes, "--layout", "x"], "layout: no 'x'; there are: auto, mvtec"),
        (["check", tubes, "--layout", "dagm_raw"], "not a class with images in Train"),
        (["check", tubes, "--category", "tubs"], "no category 'tubs'; there are: tubes"),
        (["list", tmp_path / "t.csv"], "t.csv: expected a column 'path', got a, b"),
    ):
        assert words in fails(capsys, 2, "datasets", *arguments)


def test_an_interrupted_check_ends_at_once(capsys, tubes, monkeypatch):
    def read(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.checking, "read_image", read)
    assert "interrupted" in fails(capsys, 130, "datasets", "check", tubes)


@pytest.mark.parametrize("layout", CATEGORIES)
def test_train_and_evaluate_take_every_layout(tmp_path, layout, monkeypatch):
    import fakes

    import diffusionad

    for name, value in fakes.patches():
        monkeypatch.setattr(diffusionad, name, value, raising=False)
    category = CATEGORIES[layout]
    layouts.write(tmp_path / "data", layout, category, TINY, size=32)
    out, file = tmp_path / "out", tmp_path / "r.json"
    for option in ((), ("--layout", layout)):
        data = (tmp_path / "data", "--category", category, *option, "--quiet", "--json", file)
        assert run("train", *data, "--out", out, "--overwrite", "--image-size", 32) == 0
        trained = json.loads(file.read_text())
        assert (trained["layout"], trained["kind"]) == (layout, LAYOUTS[layout].kind(category))
        assert run("evaluate", out / "model.safetensors", *data) == 0
        result = json.loads(file.read_text())
        assert (result["layout"], result["category"]) == (layout, category)
        assert result["image_auroc"] == result["pixel_auroc"] == 1.0
    assert run("train", *data, "--out", out, "--overwrite", "--kind", "texture") == 0
    assert json.loads(file.read_text())["kind"] == "texture"


def test_train_and_evaluate_take_a_table_and_leave_out_what_has_no_mask(
    tmp_path, monkeypatch, capsys
):
    import fakes

    import diffusionad

    for name, value in fakes.patches():
        monkeypatch.setattr(diffusionad, name, value, raising=False)
    writer = Writer(tmp_path, size=32)
    lines = ["path,label,mask,split"]
    for number in range(4):
        writer.good(f"{number}.png")
        lines.append(f"{number}.png,good,,{'train' if number < 2 else 'test'}")
    writer.bad("bad/x.png")
    writer.bad("bad/y.png")
    writer.mask("bad/x_mask.png", 3)
    lines += ["bad/x.png,dent,bad/x_mask.png,test", "bad/y.png,scratch,,test"]
    writer.text("t.csv", "\n".join(lines))
    data = (tmp_path / "t.csv", "--json", tmp_path / "r.json")
    out = tmp_path / "out"
    assert run("train", *data, "--out", out, "--image-size", 32) == 0
    capsys.readouterr()
    assert run("evaluate", out / "model.safetensors", *data) == 0
    assert "1 defective image(s) have no mask (y.png): they count for image metrics only" in (
        capsys.readouterr().err
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["layout"] == "table"
    assert result["image_auroc"] == result["pixel_auroc"] == result["pixel_ap"] == 1.0
    assert result["per_defect"]["dent"]["pixel_auroc"] == 1.0
    assert result["per_defect"]["scratch"]["pixel_auroc"] is None
