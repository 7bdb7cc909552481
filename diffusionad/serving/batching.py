"""One thread that runs the model on the images that wait, several at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffusionad.images import Bytes, Floats

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD


@dataclass(frozen=True)
class Scored:
    """What the model says of one image: score, map [S, S], 1 or 0, or None without a threshold."""

    score: float
    map: Floats
    label: int | None


@dataclass(frozen=True)
class _Job:
    pixels: Bytes
    future: Future[Scored] = field(default_factory=Future)


class Batcher:
    """Gives images that come one by one, from many threads, to a model in batches.

    The core uses every thread that it may for one call, so calls come one after the other, and what
    comes meanwhile makes up the next batch. A batch that is not full waits up to `wait` seconds for
    others. A result is the same in any batch, bit by bit. `observe` is told each batch's size.
    """

    def __init__(
        self, model: DiffusionAD, most: int, wait: float, observe: Callable[[int], None]
    ) -> None:
        self._model = model
        self._most = most
        self._wait = wait
        self._observe = observe
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait until all that was submitted is done, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Images that no batch has taken yet."""
        return self._jobs.qsize()

    def submit(self, pixels: Bytes) -> Future[Scored]:
        """The result to come for one image, uint8 [H, W, 3]."""
        job = _Job(pixels)
        self._jobs.put(job)
        return job.future

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first, *self._others()]
            self._score([job for job in batch if job.future.set_running_or_notify_cancel()])

    def _others(self) -> Iterator[_Job]:
        """What else waits, or comes in time."""
        deadline = time.monotonic() + self._wait
        for _ in range(self._most - 1):
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if job is None:
                self._jobs.put(None)  # _run() shall see it, too
                return
            yield job

    def _score(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        self._observe(len(jobs))
        try:
            found = self._model.predict([job.pixels for job in jobs], batch_size=len(jobs))
        except Exception as error:  # the thread must go on for the next batch
            for job in jobs:
                job.future.set_exception(error)
            return
        for index, job in enumerate(jobs):
            label = None if found.labels is None else int(found.labels[index])
            job.future.set_result(Scored(float(found.scores[index]), found.maps[index], label))
