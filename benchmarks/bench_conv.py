"""Our convolution kernels at chosen SIMD levels and by chosen algorithms, in alternated runs.

    python benchmarks/bench_conv.py [--shapes paper|compact|all] [--repeats 5] [--levels avx2 ...]
                                    [--algorithms auto winograd6 ...] [--operations forward ...]

Numbers are GFLOP/s of the direct algorithm (2 N H W C O KH KW operations) from the median time;
Winograd's algorithm needs fewer, so it can pass the processor's peak. Only ratios within one run
count on a shared machine. `peers.py --cases operations` compares with PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import numpy as np
from operations import OPERATIONS, SHAPES, Shape, direct_gflop, label

from diffusionad import _core


def measure(
    shape: Shape, operations: Sequence[str], columns: Sequence[tuple[str, str]], repeats: int
) -> None:
    n, c, size, o, kernel = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, size, size), dtype=np.float32)
    w = rng.standard_normal((o, c, kernel, kernel), dtype=np.float32)
    for operation in operations:
        times: dict[str, list[float]] = {}
        for _ in range(repeats):
            for level, algorithm in columns:
                if kernel == 1 and algorithm.startswith("winograd"):
                    continue
                _core.set_simd_level(level)
                took = _core.conv2d_seconds(operation, x, w, algorithm)
                times.setdefault(f"{level} {algorithm}", []).append(took)
        work = direct_gflop(shape)
        rates = {name: work / statistics.median(values) for name, values in times.items()}
        cells = "".join(f"  {name} {rate:7.1f}" for name, rate in rates.items())
        print(f"{label(shape):26s} {operation:16s}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--levels", nargs="+", default=[_core.simd_level()])
    parser.add_argument("--algorithms", nargs="+", default=["auto"])
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS)
    parser.add_argument("--threads", type=int, default=_core.get_num_threads())
    options = parser.parse_args()
    _core.set_num_threads(options.threads)
    columns = [(level, name) for level in options.levels for name in options.algorithms]
    print(f"{options.threads} threads, GFLOP/s of the direct algorithm")
    for group in SHAPES if options.shapes == "all" else [options.shapes]:
        for shape in SHAPES[group]:
            measure(shape, options.operations, columns, options.repeats)


if __name__ == "__main__":
    main()
