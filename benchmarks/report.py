"""What the rows look like: a table on the terminal, a Markdown table, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusionad.console import Console

Row = Mapping[str, Any]
ENGINES = {
    "ours": "diffusionad",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
COLUMNS = [
    *("case", *ENGINES.values(), "speed-up", "MB, ours", "MB, peer"),
    *("error, ours", "error, peers", "eps, ours", "eps, peers"),
]
OPERATION_COLUMNS = ["operation", "diffusionad", "PyTorch", "", "speed-up", "of the limit"]


def seconds(value: float | None) -> str:
    """As "2.40 s", "13.1 ms", or a dash."""
    if value is None:
        return "–"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def worst(row: Row, what: str, ours: bool) -> float | None:
    """The error of ours, or the range's upper end over the peers."""
    errors = row.get("errors", {})
    found = [e[what] for name, e in errors.items() if (name == "ours") is ours and what in e]
    return max(found, default=None)


def cells(row: Row) -> list[str]:
    """A row of the table of cases."""
    return [
        row["case"] + (f" (against {other})" if (other := other_peer(row)) else ""),
        *(seconds(row[f"{name}_s"]) for name in ENGINES),
        number(row["ratio_to_fastest_peer"], ".2f"),
        number(row["ours_peak_mb"], ".0f"),
        number(row["peer_peak_mb"], ".0f"),
        *(number(worst(row, w, o), ".1e") for w in ("output", "eps") for o in (True, False)),
    ]


def other_peer(row: Row) -> str | None:
    """A peer that has no column: its name and time."""
    if row.get("adeval_s") is None:
        return None
    return f"ADEval {seconds(row['adeval_s'])}"


def operation_cells(row: Row) -> list[str]:
    return [
        row["operation"],
        number(row["rate"], ".0f"),
        number(row.get("torch_rate"), ".0f"),
        row["unit"],
        number(row.get("ratio_to_fastest_peer"), ".2f"),
        number(row.get("share_of_limit"), ".2f"),
    ]


def tables(data: Row) -> list[tuple[list[str], list[list[str]]]]:
    """Columns and rows of each table that the file has something for."""
    found = [
        (COLUMNS, [cells(row) for row in data.get("rows", [])]),
        (OPERATION_COLUMNS, [operation_cells(row) for row in data.get("operations", [])]),
        (["sweep", "value", "s a run", "MB"], [sweep_cells(row) for row in data.get("sweep", [])]),
    ]
    return [(columns, rows) for columns, rows in found if rows]


def sweep_cells(row: Row) -> list[str]:
    memory = number(row["peak_mb"], ".0f")
    return [row["what"], str(row["value"]), seconds(row["seconds"]), memory]


def show(data: Row) -> None:
    """The tables on the console."""
    console = Console()
    for columns, rows in tables(data):
        console.table("", columns, rows)
    for text in roofline(data):
        console.say(text)


def markdown(data: Row) -> str:
    """The same tables in Markdown, with the machine in the first line."""
    machine = data["machine"]
    text = [f"{machine['processor']}, {machine['threads']} threads, {machine['simd']}; "]
    text[0] += ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    for columns, rows in tables(data):
        text += ["", line(columns), "|" + "---|" * len(columns), *map(line, rows)]
    return "\n".join([*text, "", *roofline(data)]).rstrip()


def line(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def roofline(data: Row) -> list[str]:
    """How far the passes get beyond the multiply-adds that a direct convolution would need."""
    limits = {row["operation"]: row["rate"] for row in data.get("operations", [])}
    peak = limits.get("limit: gemm")
    if peak is None:
        return []
    rows = [row for row in data["rows"] if row.get("gflop") and row["ours_s"]]
    return [
        f"{row['case']}: {rate:.0f} GFLOP/s of the direct algorithm, {rate / peak:.2f} times the "
        f"{peak:.0f} GFLOP/s of a product of large matrices"
        for row in rows
        if (rate := row["gflop"] / row.get("batch", 1) / row["ours_s"])
    ]


# ---- the picture --------------------------------------------------------------------------------


def plot(data: Row, path: Path) -> None:
    """Time and memory of each case beside the peers', and the sweep where there is one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = [r for r in data.get("rows", []) if r.get("ratio_to_fastest_peer") is not None]
    compared = [row for row in compared if other_peer(row) is None]
    sweeps = list(dict.fromkeys(row["what"] for row in data.get("sweep", [])))
    if not compared and not sweeps:
        raise SystemExit("nothing to draw: no row has a peer, and there is no sweep")
    parts = bool(compared) + bool(sweeps)
    figure = pyplot.figure(figsize=(11, 4.6 * parts), layout="constrained")
    lines = iter(figure.subfigures(parts, 1, squeeze=False)[:, 0])
    if compared:
        left, right = next(lines).subplots(1, 2)
        draw_bars(left, compared, "time, of ours", relative_times)
        draw_bars(right, compared, "peak memory, MB", peak_memory)
    if sweeps:
        panels = next(lines).subplots(1, len(sweeps), squeeze=False)[0]
        for what, axes in zip(sweeps, panels, strict=True):
            draw_sweep(axes, what, [row for row in data["sweep"] if row["what"] == what])
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def relative_times(row: Row) -> dict[str, float]:
    """Each engine's time divided by ours."""
    times = {name: row[f"{name}_s"] for name in ENGINES}
    return {name: took / row["ours_s"] for name, took in times.items() if took is not None}


def peak_memory(row: Row) -> dict[str, float]:
    return {name: peak for name, peak in row.get("peaks_mb", {}).items() if name in ENGINES}


def draw_bars(axes: Any, rows: Sequence[Row], title: str, value: Any) -> None:
    height = 0.8 / len(ENGINES)
    for index, (name, shown) in enumerate(ENGINES.items()):
        found = [(i, value(row)[name]) for i, row in enumerate(rows) if name in value(row)]
        places = [i + (index - (len(ENGINES) - 1) / 2) * height for i, _ in found]
        axes.barh(places, [v for _, v in found], height, label=shown)
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)


def draw_sweep(axes: Any, what: str, rows: Sequence[Row]) -> None:
    values = [row["value"] for row in rows]
    axes.loglog(values, [row["seconds"] for row in rows], "o-", label="seconds a run")
    axes.loglog(values, [row["peak_mb"] / 1000 for row in rows], "s--", label="peak memory, GB")
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.set_title(f"ours by {what.replace('_', ' ')}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
