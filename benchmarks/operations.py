"""Single operations against PyTorch, and against what the machine can do at most.

The most it can do is measured, too: multiply-adds by a product of large matrices (in NumPy's
OpenBLAS or as PyTorch's 1x1 convolution, whichever is faster: not every library has kernels for
every processor's widest vectors), memory by a copy of large arrays. Winograd's convolutions pass
the first, because their rate counts the operations of the direct algorithm (2 N H W C O KH KW).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import inputs
from engines import LAYOUTS
from measuring import Bench, Row, make_row

# batch, channels in, map size, channels out, kernel
SHAPES = {
    "paper": [
        (2, 128, 256, 128, 3),
        (2, 256, 256, 128, 3),
        (2, 128, 128, 128, 3),
        (2, 256, 64, 256, 3),
        (2, 512, 64, 256, 3),
        (2, 256, 32, 256, 3),
        (2, 512, 16, 512, 3),
        (2, 1024, 16, 512, 3),
        (2, 512, 8, 512, 3),
        (2, 256, 128, 128, 1),
        (2, 512, 32, 256, 1),
        (2, 512, 16, 1536, 1),
    ],
    "compact": [
        (8, 3, 128, 32, 3),
        (8, 16, 128, 16, 3),
        (8, 32, 128, 32, 3),
        (8, 64, 64, 64, 3),
        (8, 128, 32, 128, 3),
        (8, 128, 16, 128, 3),
        (8, 128, 8, 128, 3),
        (8, 64, 128, 1, 3),
        (8, 32, 128, 64, 1),
        (8, 128, 32, 64, 1),
    ],
}
SQUARE, SQUARE_QUICK = (1, 1024, 64, 1024, 1), (1, 256, 32, 256, 1)  # products of matrices
QUICK = [(2, 64, 64, 64, 3), (2, 128, 16, 128, 3), (2, 128, 32, 64, 1)]
OPERATIONS = ("forward", "backward_data", "backward_filter")
ADAM_BYTES = 7 * 4  # a parameter: four values are read, three written
Shape = tuple[int, int, int, int, int]


def label(shape: Shape) -> str:
    """As "2 x 128->64 @32 3x3": batch, channels, map, kernel."""
    n, c, size, o, kernel = shape
    return f"{n} x {c}->{o} @{size} {kernel}x{kernel}"


def direct_gflop(shape: Shape) -> float:
    n, c, size, o, kernel = shape
    return 2e-9 * n * size * size * c * o * kernel * kernel


def measure_operations(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    """The machine's limits first, then rows that say how near each operation comes to them."""
    limits = measure_limits(bench, quick)
    yield from limits.values()
    networks = inputs.network_settings("paper", **({"base_channels": 64} if quick else {}))
    todo = [
        (f"{operation} {label(shape)}", "gemm", direct_gflop(shape), conv_job(shape, operation))
        for shape in (QUICK if quick else [s for group in SHAPES.values() for s in group])
        for operation in OPERATIONS
    ]
    gigabytes = ADAM_BYTES * parameters(networks) / 1e9
    todo.append(("Adam, fused", "copy", gigabytes, {"kind": "adam", "networks": networks}))
    threads = {"threads": bench.threads}
    engines = bench.available(["ours", *LAYOUTS])
    with bench.workers({**todo[0][-1], **threads}, engines) as workers:
        for text, limit, work, job in todo:
            for worker in workers.values():
                worker.prepare({**job, **threads})
            row = make_row(text, bench.take_turns(workers))
            yield operation_row(row, work, limits[limit])


def conv_job(shape: Shape, operation: str) -> dict[str, Any]:
    return {"kind": "conv", "shape": shape, "operation": operation}


def measure_limits(bench: Bench, quick: bool) -> dict[str, Row]:
    size, moved, shape = (1024, 1 << 27, SQUARE_QUICK) if quick else (3072, 1 << 29, SQUARE)
    jobs: list[tuple[str, dict[str, Any], list[str], float, str]] = [
        ("gemm", {"kind": "gemm", "size": size}, ["numpy"], 2e-9 * size**3, "GFLOP/s"),
        ("gemm", conv_job(shape, "forward"), list(LAYOUTS), direct_gflop(shape), "GFLOP/s"),
        ("copy", {"kind": "copy", "bytes": moved}, ["numpy"], 2e-9 * moved, "GB/s"),
    ]
    rows: dict[str, Row] = {}
    for name, job, engines, work, unit in jobs:
        measured = bench.measure({**job, "threads": bench.threads}, engines)
        best = min((min(times) for times in measured.seconds.values()), default=math.inf)
        if name not in rows or work / best > rows[name]["rate"]:
            rows[name] = {"operation": f"limit: {name}", "rate": work / best, "unit": unit}
    return rows


def operation_row(row: Row, work: float, limit: Row) -> Row:
    """Work per second (GFLOP or GB, as the limit has it) in the place of memory and errors."""
    return {
        "operation": row["case"],
        **{name: row[name] for name in ("ours_s", "torch_s", "ratio_to_fastest_peer")},
        "rate": work / row["ours_s"],
        "torch_rate": work / row["torch_s"] if row["torch_s"] else None,
        "unit": limit["unit"],
        "share_of_limit": work / row["ours_s"] / limit["rate"],
    }


def parameters(networks: dict[str, Any]) -> int:
    import diffusionad as dad

    return int(dad.UNet(**networks["unet"]).num_parameters)
