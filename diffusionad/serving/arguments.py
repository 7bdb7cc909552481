"""The options of `diffusionad serve`; nothing here needs the extra."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable

from diffusionad.serving.limits import MOST_MEGAPIXELS, Limits

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All options but MODEL."""
    usual = Limits()
    command.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on (127.0.0.1: nobody but this machine)",
    )  # fmt: skip
    command.add_argument(
        "--port", type=whole(0, 65535), default=8000, metavar="N", help="port (8000); 0: any"
    )
    command.add_argument(
        "--max-upload", type=parse_size, default=usual.upload, metavar="SIZE",
        help="most bytes of a request, such as 500kB or 16MB (16MB)",
    )  # fmt: skip
    command.add_argument(
        "--max-megapixels", type=whole(1, MOST_MEGAPIXELS), default=usual.megapixels, metavar="N",
        help=f"most million pixels of an image ({usual.megapixels})",
    )  # fmt: skip
    command.add_argument(
        "--max-batch", type=whole(1, 256), default=usual.batch, metavar="N",
        help=f"most images that the model looks at together ({usual.batch})",
    )  # fmt: skip
    command.add_argument(
        "--max-wait", type=parse_wait, default=usual.wait, metavar="TIME",
        help="most time that an image waits for others, such as 5ms or 0 (5ms)",
    )  # fmt: skip
    command.add_argument(
        "--max-queue", type=whole(1, 4096), default=usual.queue, metavar="N",
        help=f"most requests at a time; others get 503 ({usual.queue})",
    )  # fmt: skip


def limits(args: argparse.Namespace) -> Limits:
    return Limits(
        args.max_upload, args.max_megapixels, args.max_batch, args.max_wait, args.max_queue
    )


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argument type: a whole number from `low` to `high`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {low} to {high}, got {text!r}"
            )
        return int(text)

    return number


def parse_size(text: str) -> int:
    """Bytes of "500kB", "16MB", "1.5GB" or a plain number of bytes; a kB is 1000 of them.

    >>> [parse_size(text) for text in ("500", "500kB", "16MB", "1.5g")]
    [500, 500000, 16000000, 1500000000]
    """
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]+)?) ?([kmg]?)b?", text.strip().lower())
    size = 0 if match is None else int(float(match[1]) * UNITS[match[2]])
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 500kB or 16MB, got {text!r}")
    return size


def parse_wait(text: str) -> float:
    """Seconds of "5ms", "0.1s" or a plain number of seconds, up to a minute.

    >>> [parse_wait(text) for text in ("5ms", "0.1s", "0")]
    [0.005, 0.1, 0.0]
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)(ms|s)?", text.strip().lower())
    seconds = math.inf if match is None else float(match[1]) / (1000 if match[2] == "ms" else 1)
    if seconds > 60:
        raise argparse.ArgumentTypeError(f"expected a time such as 5ms or 0, got {text!r}")
    return seconds
