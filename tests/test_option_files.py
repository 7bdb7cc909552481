"""Options from files: the command line wins, and what is wrong with a file is one line."""

from __future__ import annotations

import pytest
import tomlkit
from test_cli import fails

from diffusionad import option_files
from diffusionad.cli import build_parser
from diffusionad.commands import training
from diffusionad.config import preset, to_toml


def parsed(*arguments: object):
    return option_files.parse(build_parser(), [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path):
    """A function that writes the file and returns its path."""

    def write(text: str):
        (tmp_path / "c.toml").write_text(text, encoding="utf-8")
        return tmp_path / "c.toml"

    return write


def test_names_that_look_like_options_stand_behind_two_dashes(tmp_path):
    (tmp_path / "o.toml").write_text('out = "o"\n[train]\nsteps = 3\n')
    args = parsed("train", "--config", tmp_path / "o.toml", "--", "-data")
    assert (args.data, args.out) == ("-data", "o")


def test_a_file_gives_options_and_arguments(file):
    path = file(
        'data = "mvtec"\ncategory = "bottle"\nout = "runs"\ntime-budget = "20m"\n'
        "image_size = 64\nresume = true\noverwrite = false\nthreads = 3\n"
    )
    args = parsed("train", "--config", path)
    assert (args.data, args.category, args.out, args.time_budget) == (
        "mvtec",
        "bottle",
        "runs",
        1200,
    )
    assert (args.image_size, args.resume, args.overwrite, args.threads) == (64, True, False, 3)
    assert (args.preset, args.steps, args.settings) == (None, None, {})


@pytest.mark.parametrize("named", [["--config", "{}"], ["--config={}"]])
def test_the_command_line_wins(file, named):
    path = file('data = "mvtec"\nout = "a"\ncategory = "bottle"\nsteps = 10\nthreads = 2\n')
    given = [part.format(path) for part in named]
    args = parsed("train", *given, "visa", "--out", "b", "--time-budget", "90s", "--threads", 4)
    assert (args.data, args.out, args.category, args.threads) == ("visa", "b", "bottle", 4)
    assert (args.steps, args.time_budget) == (None, 90)  # they exclude each other
    assert parsed("train", *given, "--steps", 7).steps == 7


def test_lists(file):
    path = file('data = "mvtec"\nout = "o"\nseeds = [0, 2]\nmodel = ["a", "b"]\nt-s = "none"\n')
    args = parsed("ablate", "--config", path)
    assert (args.seeds, args.models, args.t_s) == ((0, 2), ["a", "b"], ())
    assert parsed("ablate", "--config", path, "--model", "c").models == ["c"]
    path = file('model = "m"\nimages = ["a.png", "b.png"]\nout = "o"\n')
    assert parsed("predict", "--config", path).images == ["a.png", "b.png"]
    assert parsed("predict", "--config", path, "n", "c.png").images == ["c.png"]
    path = file('model = "m"\nmax-upload = "1MB"\nmax-wait = 0\n')
    args = parsed("serve", "--config", path)
    assert (args.model, args.max_upload, args.max_wait) == ("m", 1_000_000, 0.0)


def test_the_command_line_wins_wherever_the_file_is_named(file):
    path = file('data = "mvtec"\nmodel = "m"\n')
    for named in (["--config", path], [f"--config={path}"]):
        for given in (
            ["n", *named, "visa"],
            ["n", "--quiet", "visa", *named],
            [*named, "n", "--quiet", "visa"],
            ["n", "--quiet", *named, "--fast", "--", "visa"],
        ):
            args = parsed("evaluate", *given)
            assert (args.model, args.data, args.config) == ("n", "visa", str(path)), given
    args = parsed("evaluate", "--config", path)
    assert (args.model, args.data, args.config) == ("m", "mvtec", str(path))
    path = file('images = ["a.png"]\nout = "o"\n')
    args = parsed("predict", "m", "--config", path, "b.png", "--", "--config")
    assert (args.model, args.images) == ("m", ["b.png", "--config"])


def test_a_model_of_the_file_leaves_the_arguments_to_the_images(file):
    path = file('model = "m"\nout = "o"\n')
    for given in (["a.png"], ["a.png", "b.png"], ["a.png", "b.png", "c.png"]):
        for args in (
            parsed("predict", "--config", path, *given),
            parsed("predict", *given, "--config", path, "--quiet"),
        ):
            assert (args.model, args.images) == ("m", given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step = 3", "step: no such option of diffusionad train; the nearest is steps"),
        (
            "time_bugdet = 3",
            "time_bugdet: no such option of diffusionad train; the nearest is time-b",
        ),
        ("heatmaps = 'a'", "heatmaps: no such option of diffusionad train; the nearest is"),
        ("config = 'a'", "config: no such option"),
        ("help = true", "help: no such option"),
        ("steps = 0", "steps: expected a whole number of 1 or more, got '0'"),
        ("steps = 2.5", "steps: expected a whole number"),
        ("steps = true", "steps: expected a text or a number, got True"),
        ("steps = 1979-05-27", "steps: expected a text or a number"),
        ("resume = 1", "resume: expected true or false, got 1"),
        ("preset = 'huge'", "preset: expected tiny or compact or standard or paper, got 'huge'"),
        ("out = ''", "out: expected a path, got an empty text"),
        ("steps = 3\ntime-budget = '1m'", "steps: expected one of them, got both"),
        ("[other]\na = 1", "other: no such option"),
        ("train = 3", "train: no such option"),
        ("[train]\nunet_rl = 1.0", "[train] unet_rl: no such setting; the nearest is unet_lr"),
        ("[model]\nsteps = 3", "[model] steps: no such setting; the nearest is"),
        ("[train]\nunet_lr = -1.0", "unet_lr: expected more than 0"),
        ("[model]\npreset = 3", "preset: no '3'"),
        ("steps =", "not valid TOML"),
        ("steps = 1\nsteps = 2", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(capsys, file, text, words):
    line = fails(capsys, 2, "train", "d", "--out", "o", "--config", file(text))
    assert "c.toml: " in line
    assert words in line


def test_files_that_there_are_not(capsys, tmp_path):
    words = "none.toml: cannot be read: no such file or directory"
    assert words in fails(capsys, 2, "info", "--config", tmp_path / "none.toml")
    assert "cannot be read: is a directory" in fails(capsys, 2, "info", "--config", tmp_path)
    assert "--config: expected a path" in fails(capsys, 2, "info", "--config", "")
    assert "--config: expected one argument" in fails(capsys, 2, "info", "--config")
    (tmp_path / "c.toml").write_bytes(b"out = '\xff'")
    assert "not valid TOML" in fails(capsys, 2, "info", "--config", tmp_path / "c.toml")
    assert "fly" in fails(capsys, 2, "fly", "--config", tmp_path / "c.toml")


def test_a_part_of_an_options_name_is_not_that_option(capsys, file):
    path = file("steps = 3")
    for option in ("--conf", "--confi"):
        line = fails(capsys, 2, "train", "d", "--out", "o", option, path)
        assert f"unrecognized arguments: {option}" in line
    assert "--thread" in fails(capsys, 2, "info", "--thread", 3)


def test_what_is_required_stays_required(capsys, file):
    assert "DATA" in fails(capsys, 2, "train", "--config", file("out = 'o'"))
    assert "--out" in fails(capsys, 2, "train", "d", "--config", file("steps = 3"))


def test_settings_are_for_commands_that_train_one_model(capsys, file):
    path = file("[train]\nunet_lr = 0.01")
    words = "[train]: diffusionad evaluate takes options, no settings"
    assert words in fails(capsys, 2, "evaluate", "m", "d", "--config", path)
    assert parsed("demo", "--config", path).settings == {"unet_lr": 0.01}


def test_settings_start_from_their_preset_and_options_go_before_them(file):
    path = file(
        "image-size = 32\n[model]\nimage_size = 96\nt_s = 150\nseed = 4\n"
        "[train]\nsteps = 2\nbatch_size = 3"
    )
    made = training.new_model(
        parsed("train", "d", "--out", "o", "--config", path, "--batch-size", 5)
    )
    assert (made.config.image_size, made.config.t_s, made.config.base_channels) == (32, 150, 32)
    assert made.seed == 4
    assert (made.train_config.batch_size, made.train_config.steps) == (5, 2)
    assert made.train_config.unet_lr == 1e-3


@pytest.mark.parametrize(
    ("settings", "attention", "top_k"),
    [
        ({}, (32, 16), 50),
        ({"top_k": 7}, (32, 16), 7),
        ({"attention_resolutions": (16,)}, (16,), 50),
    ],
)
def test_another_size_takes_along_what_belongs_to_it(file, settings, attention, top_k):
    """The file that a training leaves names all settings, those that follow from the size too."""
    path = file(to_toml(*preset("compact", t_s=150, **settings)))
    command = ("train", "d", "--out", "o", "--config", path)
    wanted = option_files.settings_of(parsed(*command, "--image-size", 256))
    model, _ = preset(wanted.pop("preset"), **wanted)
    assert (model.image_size, model.t_s) == (256, 150)
    assert (model.attention_resolutions, model.top_k) == (attention, top_k)
    alone = option_files.settings_of(parsed(*command))
    assert preset(alone.pop("preset"), **alone) == preset("compact", t_s=150, **settings)


def test_a_preset_of_the_command_line_says_what_belongs_to_the_files_size(file):
    path = file("[model]\nimage_size = 64\ntop_k = 3\n")
    args = parsed("demo", "--config", path, "--preset", "tiny", "--image-size", 128)
    assert option_files.settings_of(args) == {"preset": "tiny", "image_size": 128}
    path = file("[model]\npreset = 'paper'\nimage_size = 128\ntop_k = 12\n")
    args = parsed("demo", "--config", path, "--image-size", 256)
    assert option_files.settings_of(args) == {"preset": "paper", "image_size": 256, "top_k": 12}


def test_a_preset_that_contradicts_the_settings(capsys, file):
    path = file(tomlkit.dumps({"model": {"preset": "compact", "image_size": 64}}))
    line = fails(capsys, 2, "train", "d", "--out", "o", "--config", path, "--preset", "paper")
    assert "settings are of preset compact, --preset says paper" in line
    assert parsed("train", "d", "--out", "o", "--config", path, "--preset", "compact").settings


def test_settings_are_checked_with_what_the_command_line_asks_for(capsys, file):
    path = file("[model]\nmode = 'autoencoder'\n")
    train = ("train", "d", "--out", "o", "--config", path)
    assert "c.toml: preconditioned: " in fails(capsys, 2, *train)
    args = parsed(*train, "--preset", "paper")
    assert training.new_model(args).config.mode == "autoencoder"
    path = file("[model]\ntop_k = 5\nimage_size = 64\n")
    line = fails(capsys, 2, *train, "--image-size", 40)
    assert "c.toml" not in line
    assert "image_size: expected a multiple of" in line
    path = file("[model]\npreset = 3\n")
    assert "c.toml: preset: no '3'" in fails(capsys, 2, *train, "--image-size", 64)
