"""What the commands show: tables, and progress as a bar on a terminal, as lines elsewhere.

Results go to stdout, progress to stderr; tqdm is imported only for a terminal. Names and texts of
files are shown with escapes for what a terminal would act on.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from diffusionad.datasets import Category, Report
    from diffusionad.model import Progress

FINDINGS_SHOWN = 20  # of each kind; the JSON file has them all
DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # of Unicode
# Of a pipe, a socket and a terminal without a reader.
GONE = (errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET, errno.EIO)
PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal


class Console:
    """Output of one command; nothing but errors with `quiet`, no results without `results`.

    Where the reader of stdout leaves (`| head`), or its terminal goes away, it ends there and the
    command goes on.
    """

    def __init__(self, quiet: bool = False, results: bool = True) -> None:
        self.quiet = quiet
        self.results = results and not quiet

    def say(self, text: str = "") -> None:
        """Text and a line's end on stdout."""
        self._print(printable(text, keep="\n\t"))

    def _print(self, text: str) -> None:
        self.results = self.results and tell(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout; the first column is text, the others line up on the right."""
        styled = _styled(sys.stdout)
        columns, rows = _cells(columns), [_cells(row) for row in rows]
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        lines = [f"\n{printable(title)}" if title else ""]
        for row in (columns, *rows):
            if not any(row):
                continue
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            line = "  " + "  ".join(cells).rstrip()
            lines.append(f"\x1b[1m{line}\x1b[0m" if row is columns and styled else line)
        self._print("\n".join(lines))

    def pairs(self, title: str, values: Mapping[str, Any]) -> None:
        """A table of names and values on stdout."""
        names = _cells(values)
        width = max(map(len, names), default=0)
        self.say(f"\n{printable(title)}")
        for name, value in zip(names, values.values(), strict=True):
            self.say(f"  {name.ljust(width)}  {printable(str(value))}")

    def dataset(self, report: Report) -> None:
        """What check() found: a row for each category, what differs, a line of outcome."""

        def counts(row: Category) -> list[str]:
            should = row.published or row.counts
            return [
                str(is_now) if is_now == published else f"{is_now} of {published}"
                for is_now, published in list(zip(row.counts, should, strict=True))[:3]
            ]

        differing = Counter(finding.category for finding in report.findings)
        self.table(
            f"{report.dataset if report.compared else 'own data'} ({report.layout})",
            ("", "kind", "train", "test good", "test defective", "differences"),
            [
                [row.category, row.kind, *counts(row), str(differing[row.category])]
                for row in report.categories
            ],
        )
        kinds = Counter(finding.kind for finding in report.findings)
        for kind, count in kinds.items():
            self.say()
            shown = [finding for finding in report.findings if finding.kind == kind]
            for finding in shown[:FINDINGS_SHOWN]:
                self.say(f"{kind:<11} {printable(str(finding))}")
            if count > FINDINGS_SHOWN:
                self.say(f"{kind:<11} ... and {count - FINDINGS_SHOWN} more")
        against = "as published" if report.compared else "nothing published to compare with"
        differences = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        self.say(f"\n{differences or against}{'' if report.files_read else '; no file was read'}")

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Progress of a count; yields a function of (done, total)."""
        with self._bar(what, total) as update:
            yield lambda done, of: update(done, of, "")

    @contextmanager
    def training(self) -> Iterator[Callable[[Progress], None]]:
        """Progress of training: losses, images per second, time left."""
        with self._bar("train", None) as update:
            yield lambda p: update(p.step, p.steps, training_text(p))

    @contextmanager
    def _bar(
        self, what: str, total: int | None
    ) -> Iterator[Callable[[int, int | None, str], None]]:
        if self.quiet:
            yield lambda done, of, text: None
        elif sys.stderr.isatty():
            with _terminal_bar(what, total) as update:
                yield update
        else:
            yield _PlainBar(what)


class _PlainBar:
    """A line on stderr every PLAIN_INTERVAL seconds, and one at the end."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.last = time.monotonic()

    def __call__(self, done: int, total: int | None, text: str) -> None:
        now = time.monotonic()
        if now - self.last < PLAIN_INTERVAL and done != total:
            return
        self.last = now
        of = f"{done}/{total}" if total else str(done)
        complain(f"{self.what} {of}  {text}".rstrip())


def complain(text: str) -> None:
    """A line on stderr; a reader that has left must not end a run of hours."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def tell(text: str, end: str = "\n") -> bool:
    """Print on stdout; where nobody reads it any more, nothing is printed from now on."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        if error.errno not in GONE:
            raise
        drop(sys.stdout)
        return False
    return True


def drop(stream: TextIO) -> None:
    """Let what is and will be written to a stream go nowhere, or Python complains at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str, keep: str = "") -> str:
    r"""Text with escapes for control characters and the like, but for those to `keep`.

    >>> print(printable("caf\u00e9 \x1b[2J\n"))
    café \x1b[2J\n
    """
    return "".join(
        letter if letter in keep or not _acts(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _acts(letter: str) -> bool:
    """Whether a terminal may do something else than show it: controls, those of direction too."""
    directs = unicodedata.bidirectional(letter) in DIRECTIONS
    return directs or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def _cells(texts: Iterable[str]) -> list[str]:
    return [printable(text) for text in texts]


def _styled(stream: TextIO) -> bool:
    """Whether to use colours: on a terminal whose user did not ask for none (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def training_text(progress: Progress) -> str:
    """One line: "3m05s left  21.3 images/s  total 0.4560  noise 0.0123", what matters first."""
    names = sorted(progress.losses, key=lambda name: name != "total")
    losses = "  ".join(f"{name} {progress.losses[name]:.4f}" for name in names)
    left = duration_text(progress.seconds_left)
    return f"{left} left  {progress.images_per_second:.1f} images/s  {losses}"


def duration_text(seconds: float) -> str:
    """Seconds as "45s", "3m05s" or "2h07m".

    >>> [duration_text(s) for s in (44.6, 185, 7620)]
    ['45s', '3m05s', '2h07m']
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def bytes_text(count: int) -> str:
    """Bytes as whole MB below ten thousand, else GB.

    >>> bytes_text(123_456_789), bytes_text(12_345_678_901)
    ('123 MB', '12.3 GB')
    """
    return f"{count / 1e6:.0f} MB" if count < 1e10 else f"{count / 1e9:.1f} GB"


def number(value: float | None, digits: int = 4) -> str:
    """A metric for a table; a dash where it is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


@contextmanager
def _terminal_bar(what: str, total: int | None) -> Iterator[Callable[[int, int | None, str], None]]:
    from tqdm import tqdm

    size = shutil.get_terminal_size()  # tqdm's own is 0 by 0 on a terminal that does not tell it
    layout = "{desc} {bar:12} {n_fmt}/{total_fmt}{postfix}"
    with tqdm(
        total=total, desc=what, bar_format=layout, file=sys.stderr, mininterval=0.25,
        ncols=size.columns, nrows=size.lines, colour="green" if _styled(sys.stderr) else None,
    ) as bar:  # fmt: skip

        def update(done: int, of: int | None, text: str) -> None:
            bar.ncols = shutil.get_terminal_size().columns
            bar.total = of or None
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)

        yield update
