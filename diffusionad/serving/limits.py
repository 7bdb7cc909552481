"""What the server takes, and how much of it at a time."""

from __future__ import annotations

from dataclasses import dataclass

MOST_MEGAPIXELS = 89  # Pillow's own limit lies just above


@dataclass(frozen=True)
class Limits:
    """Bounds of the server's memory and of everybody's patience."""

    upload: int = 16_000_000  # bytes of a request's body
    megapixels: int = 50  # of an image, by what its header declares
    batch: int = 8  # images that the model looks at together
    wait: float = 0.005  # seconds that an image waits for others of its batch
    queue: int = 64  # requests at a time; one more is told to come again
    body_seconds: float = 60.0  # for a body to arrive, and for an answer to be taken
