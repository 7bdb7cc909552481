"""What a training run did, step by step: as rows, as a CSV file, as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import charts, validation
from .images import Bytes

COLUMNS = (
    "step", "total", "noise", "focal", "smooth_l1", "bce", "dice", *validation.COLUMNS, "seconds",
)  # fmt: skip
POINTS = 40  # of a curve; each is the mean of the steps around it, which a batch makes jump

Row = Mapping[str, float]


def text(rows: Sequence[Row]) -> str:
    """The rows as CSV; a validation's columns are empty where there was none."""
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
    table.writeheader()
    table.writerows({k: v if k == "step" else f"{v:.6g}" for k, v in row.items()} for row in rows)
    return file.getvalue()


def read(path: Path, steps: int) -> list[dict[str, Any]]:
    """The rows of the first `steps` steps; a log that is gone or broken begins anew."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {"step": int(row["step"])}
                | {k: float(v) for k, v in row.items() if v and k != "step"}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [row for row in rows if row["step"] <= steps]


def picture(rows: Sequence[Row]) -> Bytes:
    """Losses over steps, and below them the validation, where there was one: uint8 [H, W, 3].

    Raises ValueError without rows.
    """
    losses = [name for name in COLUMNS[1 : COLUMNS.index("dice") + 1] if name in rows[0]]
    parts = [
        charts.line_chart(
            {name: _smoothed(rows, name) for name in losses if any(row[name] for row in rows)},
            x_title="step",
            y_title="loss",
        )
    ]
    validated = [row for row in rows if validation.COLUMNS[0] in row]
    if validated:
        steps = [row["step"] for row in validated]
        curves = {
            name.removeprefix("val_").replace("_", " "): charts.Curve(
                steps, [row[name] for row in validated]
            )
            for name in validation.COLUMNS
        }
        parts.append(charts.line_chart(curves, x_title="step", y_title="held-out images"))
    return np.concatenate(parts)


def _smoothed(rows: Sequence[Row], name: str) -> charts.Curve:
    parts = np.array_split(np.arange(len(rows)), min(len(rows), POINTS))
    return charts.Curve(
        [float(np.mean([rows[i]["step"] for i in part])) for part in parts],
        [float(np.mean([rows[i][name] for i in part])) for part in parts],
    )
