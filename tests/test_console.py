"""What a command shows on a terminal, and elsewhere."""

from __future__ import annotations

import errno
import io
import os
import re
import sys

import pytest
from programs import on_terminal

from diffusionad import console
from diffusionad.console import Console

IMPORTS = """
from diffusionad import console
from diffusionad.console import Console
from diffusionad.model import Progress
"""
BAR = """
with Console().counting("images", 3) as count:
    for done in range(1, 4):
        count(done, 3)
with Console().training() as show:
    for step in range(1, 6):
        show(Progress(step, 5, {"total": 0.25, "noise": 0.5}, 20.0, 61.0))
"""


def shown(script: str) -> str:
    """What a terminal of 80 columns gets."""
    return on_terminal(IMPORTS + script, {**os.environ, "COLUMNS": "80"})


def test_a_table_elsewhere_is_plain(capsys):
    Console().table("all", ("name", "AUROC"), [("screw", "0.9"), ("tile", "0.75")])
    assert capsys.readouterr().out.splitlines() == [
        "", "all", "  name   AUROC", "  screw    0.9", "  tile    0.75",
    ]  # fmt: skip


def test_control_characters_of_files_are_shown_as_escapes(capsys):
    odd, shown = "größe\x1b[2J\r\n\x9b\u202e", r"größe\x1b[2J\r\n\x9b\u202e"
    console = Console()
    console.pairs(odd, {odd: [odd], "plain": odd})
    console.table(odd, (odd, odd), [(odd, odd)])
    text = capsys.readouterr().out
    assert text.count(shown) == 9
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert len({len(line) for line in text.splitlines()[-2:]}) == 1
    console.say(f"two\nlines\t{odd}")
    assert capsys.readouterr().out == "two\nlines\tgröße\\x1b[2J\\r\n\\x9b\\u202e\n"


def test_a_terminal_that_goes_away_ends_what_is_printed_and_no_more(monkeypatch):
    terminal, stream = os.openpty()
    with open(stream, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        console = Console()
        console.say("here")
        os.close(terminal)
        for _ in range(2):
            console.say("gone")
            console.table("all", ("name",), [("gone",)])
    assert not console.results


def test_bars_end_full_and_fit_the_terminal():
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(BAR))
    lines = text.replace("\r\n", "\n").split("\n")
    images, train = (line.split("\r")[-1] for line in lines[:2])
    assert images.startswith("images ")
    assert "3/3" in images
    assert train.startswith("train ")
    assert "5/5, 1m01s left  20.0 images/s  total 0.2500" in train
    assert max(len(part) for line in lines for part in line.split("\r")) <= 80


@pytest.mark.parametrize("total", [None, 0, 2])
def test_bars_stand_a_total_that_is_unknown_or_none(total):
    text = shown(
        f"with Console()._bar('x', {total}) as update:\n    update(0, {total}, '')\n"
        f"    update(2, {total}, 'left')"
    )
    assert "Traceback" not in text
    assert "2/" in text


def test_names_of_every_language_are_shown_as_they_are() -> None:
    from diffusionad.console import printable

    for name in ("部品\u3000一.png", "a\u202fb.png", "👩\u200d🔧.png", "caf\u00e9.png"):
        assert printable(name) == name
    assert printable("a\u202eb\x9b2J\x7f") == r"a\u202eb\x9b2J\x7f"


@pytest.mark.parametrize("number", console.GONE)
def test_what_nobody_reads_is_not_told(monkeypatch, number):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, "gone")

    monkeypatch.setattr(sys, "stdout", Gone())
    assert not console.tell("x")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.tell("x", end="")
    assert sys.stdout.getvalue() == "x"


def test_a_full_disk_is_told(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="no space left"):
        console.tell("x")
