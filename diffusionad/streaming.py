"""Frames as they come: a thread reads ahead while the core computes, results in the order given.

The reader holds at most as many frames as a batch has, brought to the networks' size, and waits
until there is room. Whatever the source raises is raised to the consumer after the results of the
frames before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusionad.images import Floats, fit_to_network, pixels_of
from diffusionad.prediction import ImageResult, Prediction, paths_of

CLOSING_SECONDS = 1.0  # that closing waits for a source in the middle of a frame
LONGEST = threading.TIMEOUT_MAX / 2  # seconds that can be waited; years


@dataclass(frozen=True)
class Frame:
    """A frame that has been read; the source's memory is no longer needed."""

    x0: Floats  # (3, S, S)
    shape: tuple[int, int]  # (height, width), as it came
    path: str | None
    read_at: float  # by the monotonic clock


def stream(
    look: Callable[[Sequence[Frame]], Prediction],
    frames: Iterable[Any],
    size: int,
    batch_size: int,
    max_latency: float | None,
) -> Iterator[ImageResult]:
    """Results of `look`, which takes a batch of frames at the networks' size, one by one."""
    reader = FrameReader(frames, size, ahead=batch_size)
    count = 0
    try:
        while batch := reader.batch(batch_size, max_latency):
            for result in look(batch):
                yield replace(result, index=count)
                count += 1
    finally:
        reader.close()


class FrameReader:
    """A thread that reads frames into a bounded queue."""

    def __init__(self, frames: Iterable[Any], size: int, ahead: int) -> None:
        self._frames, self._size = frames, size
        self._queue: queue.Queue[Frame | None] = queue.Queue(ahead)  # None: no more
        self._closed = threading.Event()
        self._ended = False
        self._errors: list[BaseException] = []  # what the source has raised, until it is raised on
        # A source that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, name="diffusionad-frames", daemon=True)
        self._thread.start()

    def batch(self, most: int, max_latency: float | None) -> list[Frame]:
        """Up to `most` frames, of which the first waits at most `max_latency` seconds for others.

        Waits for the first; empty at the end. Raises there what the source has raised.
        """
        frames: list[Frame] = []
        while len(frames) < most and not self._ended:
            wait = None
            if frames and max_latency is not None:
                left = frames[0].read_at + max_latency - time.monotonic()
                wait = min(max(0.0, left), LONGEST)
            try:
                item = self._queue.get(timeout=wait)
            except queue.Empty:
                break
            if item is None:
                self._ended = True
            else:
                frames.append(item)
        if not frames and self._errors:
            # An error holds the frames of its traceback: none of their variables may hold it.
            raise self._errors.pop()
        return frames

    def close(self) -> None:
        """Stop the thread; if the source is busy, it stops with the source's next frame."""
        self._closed.set()
        # Once closed is set the thread puts at most one more item, and there is room for it now.
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join(CLOSING_SECONDS)
        self._errors.clear()

    def _read(self) -> None:
        try:
            for index, item in enumerate(self._frames):
                frame = self._frame(item, index)
                if self._closed.is_set():
                    return
                self._queue.put(frame)
        except BaseException as raised:  # also an interrupt: the consumer waits for an end
            if not self._closed.is_set():
                self._errors.append(raised)
        if not self._closed.is_set():
            self._queue.put(None)

    def _frame(self, item: Any, index: int) -> Frame:
        pixels = pixels_of(item, f"frames[{index}]")
        height, width = pixels.shape[:2]
        x0 = fit_to_network(pixels, self._size)
        if np.may_share_memory(x0, pixels):
            x0 = x0.copy()  # the source may use its buffer for the next frame
        return Frame(x0, (height, width), paths_of([item])[0], time.monotonic())
