"""Parts of the server by themselves: limits, batches, counts, the end."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
from fastapi.testclient import TestClient
from test_model import tiny

from diffusionad.cli import build_parser
from diffusionad.serving import arguments, command
from diffusionad.serving.app import Service
from diffusionad.serving.batching import Batcher, Scored
from diffusionad.serving.counters import Histogram
from diffusionad.serving.limits import Limits


class Blank:
    """A model to which all images are the same."""

    def predict(self, images: list[np.ndarray], batch_size: int) -> SimpleNamespace:
        count = len(images)
        return SimpleNamespace(scores=np.zeros(count), maps=np.zeros((count, 2, 2)), labels=None)


def test_every_option_is_its_own_limit():
    given = "--max-upload 1MB --max-megapixels 2 --max-batch 3 --max-wait 4ms --max-queue 5"
    args = build_parser().parse_args(["serve", "m", *given.split()])
    assert arguments.limits(args) == Limits(
        upload=1_000_000, megapixels=2, batch=3, wait=0.004, queue=5
    )


def test_a_batch_waits_for_images_that_come_later():
    sizes: list[int] = []
    batcher = Batcher(Blank(), most=2, wait=30.0, observe=sizes.append)
    batcher.start()
    results: list[Future[Scored]] = []
    for _ in range(2):
        results.append(batcher.submit(np.zeros((4, 4, 3), np.uint8)))
        time.sleep(0.1)
    assert [result.result(30).score for result in results] == [0.0, 0.0]
    batcher.stop()
    assert sizes == [2]


def test_a_value_at_a_bound_counts_below_it():
    histogram = Histogram((1, 2, 4))
    for value in (1, 2, 2, 5):
        histogram.observe(value)
    counts = [line.rpartition(" ")[2] for line in histogram.lines("x")]
    assert counts[:4] == ["1", "3", "3", "4"]


def test_the_models_thread_ends_with_the_service():
    service = Service(tiny(), "m", Limits())
    with TestClient(service.app()):
        assert service.batcher.alive
    assert not service.batcher.alive


def test_requests_under_way_have_so_many_seconds_at_the_end(monkeypatch):
    configs = []

    class Server:
        def __init__(self, config: object) -> None:
            configs.append(config)

        def run(self, sockets: object) -> None:
            pass

    monkeypatch.setattr(command.uvicorn, "Server", Server)
    command.serve(tiny(), "m", Limits(), "127.0.0.1", 0, lambda url: None)
    assert configs[0].timeout_graceful_shutdown == command.STOP_SECONDS
