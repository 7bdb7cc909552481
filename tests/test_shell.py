"""What makes the command line pleasant: completion, colours on terminals alone, bug reports."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import on_terminal
from test_cli import COMMANDS, fails, run

import diffusionad
from diffusionad import system
from diffusionad.cli import EXAMPLES, SHELLS

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONSOLE = """
from diffusionad.console import Console
console = Console()
with console.counting("draw", 2) as update:
    update(2, 2)
console.table("numbers", ["", "AUROC"], [["bottle", "0.9"]])
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(diffusionad.__file__).parents[1])}


def test_examples_name_every_command_but_the_one_for_shells():
    assert {line.split()[1] for line in EXAMPLES.splitlines()[1:]} == set(COMMANDS) - {"completion"}


# ---- completion ---------------------------------------------------------------------------------


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers behind these words."""
    line = " ".join(words)
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
        f'COMP_LINE="{line}"; COMP_POINT={len(line)}; '
        'function=$(complete -p diffusionad | sed "s/.*-F \\([^ ]*\\).*/\\1/"); '
        '$function diffusionad; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, cwd=script.parent
    )
    return sorted(word.strip() for word in done.stdout.splitlines() if word.strip())


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("shell") / "complete.bash"
    made = subprocess.run(
        [sys.executable, "-m", "diffusionad", "completion", "bash"],
        capture_output=True, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    file.write_text(made.stdout)
    (file.parent / "photos").mkdir()
    (file.parent / "photo.png").touch()
    return file


def test_bash_completes_commands_options_choices_and_paths(script):
    assert completed(script, "diffusionad", "e") == ["evaluate", "export"]
    assert completed(script, "diffusionad", "train", "--time") == ["--time-budget"]
    assert completed(script, "diffusionad", "train", "--preset", "p") == ["paper"]
    assert completed(script, "diffusionad", "predict", "ph") == ["photo.png", "photos"]
    assert completed(script, "diffusionad", "evaluate", "--heatmaps", "ph") == ["photos"]
    either = completed(script, "diffusionad", "train", "--foreground", "ph")
    assert either == ["photo.png", "photos"]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_well_formed(capsys, tmp_path, shell):
    assert run("completion", shell) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(text)
    subprocess.run([program, "-n", tmp_path / "script"], check=True)


def test_completion_as_json_and_without_its_package(capsys, monkeypatch):
    assert run("completion", "zsh", "--json", "-") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["script"].startswith("#compdef diffusionad")
    assert "shell" in fails(capsys, 2, "completion", "korn")
    monkeypatch.setitem(sys.modules, "shtab", None)
    line = fails(capsys, 1, "completion", "bash")
    assert "pip install 'diffusionad[completion]'" in line


# ---- colours ------------------------------------------------------------------------------------


def shown(**variables: str) -> str:
    """What a terminal of 100 columns gets."""
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100", **variables}
    text = on_terminal(CONSOLE, environment)
    assert "bottle" in text
    assert "2/2" in text
    return text


def coloured(text: str) -> bool:
    """Whether any sequence sets a colour; bold and the like are none."""
    codes = {int(code) for found in COLOUR.findall(text) for code in re.findall(r"[0-9]+", found)}
    return any(30 <= code <= 49 or 90 <= code <= 107 for code in codes)


def test_colours_are_for_terminals_and_those_who_want_them():
    assert coloured(shown())
    assert not coloured(shown(NO_COLOR="1"))
    assert not COLOUR.search(shown(TERM="dumb"))
    piped = subprocess.run(
        [sys.executable, "-c", CONSOLE], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert "\x1b" not in piped.stdout + piped.stderr


# ---- bug reports --------------------------------------------------------------------------------


def test_a_bug_report_tells_of_the_computer(capsys, tmp_path):
    assert run("info", "--system", "--json", tmp_path / "s.json") == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "s.json").read_text())["system"]
    assert report == system.report()
    assert platform.python_version() in report["system"]["python"]
    assert report["core"]["SIMD level"].startswith(diffusionad._core.simd_level())
    assert "OpenBLAS" in report["core"]["BLAS"]
    assert re.match(r"(GCC|Clang) \d+", report["core"]["compiler"])
    assert {"diffusionad", "numpy", "pillow", "scipy-openblas32"} <= set(report["packages"])
    for values in report.values():
        assert all(value and value in text for value in values.values())


def test_a_bug_report_has_nothing_private(monkeypatch):
    monkeypatch.setenv("DIFFUSIONAD_TEST_DATA", "/home/somebody/data")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    report = system.report()
    assert report["environment"]["OMP_NUM_THREADS"] == "7"
    text = json.dumps(report)
    private = {str(Path.home()), str(Path.cwd()), "somebody", platform.node(), sys.prefix}
    for word in private | ({getpass.getuser()} - {"root"}):
        assert len(word) < 2 or word not in text


def test_a_bug_report_without_what_a_computer_may_not_tell(monkeypatch):
    def missing(*_: object, **__: object) -> object:
        raise OSError("not here")

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    monkeypatch.setattr("builtins.open", missing)
    monkeypatch.setattr(system, "memory_bytes", lambda: None)
    monkeypatch.setattr(
        system.metadata, "requires", lambda _: ["numpy>=2", "none>=1", 'gone; extra == "test"']
    )
    report = system.report()
    assert report["system"]["os"] == platform.system()
    assert report["computer"]["memory"] == "unknown"
    assert report["computer"]["processor"]
    assert report["packages"]["none"] == "not installed"
    assert "gone" not in report["packages"]
