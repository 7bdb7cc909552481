"""Numbers about the server in the text format that Prometheus reads."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """How often a value was at most each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            text = "+Inf" if bound == math.inf else f"{bound:g}"
            yield f'{name}_bucket{{le="{text}"}} {total}'
        yield f"{name}_sum {self._sum:.9g}"
        yield f"{name}_count {total}"


class Counters:
    """What the server counts; each number has one thread that writes it."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.labels: Counter[str] = Counter()  # of the images scored
        self.seconds = Histogram(SECONDS)
        self.batches = Histogram(IMAGES)

    def text(self, model: str, version: str, waiting: int, inside: int) -> str:
        """Everything, with what is the case right now."""
        info = f'model="{_escaped(model)}",version="{_escaped(version)}"'
        requests = [
            f'diffusionad_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        labels = [
            f'diffusionad_images_total{{label="{label}"}} {count}'
            for label, count in sorted(self.labels.items())
        ]
        seconds, batch = "diffusionad_predict_seconds", "diffusionad_batch_images"
        parts = [
            ("diffusionad_model_info", "gauge", "The model that answers.",
             [f"diffusionad_model_info{{{info}}} 1"]),
            ("diffusionad_requests_total", "counter", "Answers by path and status.", requests),
            ("diffusionad_images_total", "counter", "Images scored, by label.", labels),
            (seconds, "histogram", "Seconds from a request for a prediction to its answer.",
             self.seconds.lines(seconds)),
            (batch, "histogram", "Images that the model looked at together.",
             self.batches.lines(batch)),
            ("diffusionad_queue_images", "gauge", "Images that wait for the model.",
             [f"diffusionad_queue_images {waiting}"]),
            ("diffusionad_requests_in_progress", "gauge", "Requests for a prediction under way.",
             [f"diffusionad_requests_in_progress {inside}"]),
        ]  # fmt: skip
        lines: list[str] = []
        for name, kind, about, samples in parts:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
