"""Convolution kernels side by side with PyTorch's, in alternated runs.

    python benchmarks/bench_conv.py [--shapes paper|compact|all] [--repeats 5] [--levels avx2 ...]
                                    [--algorithms auto winograd6 ...] [--operations forward ...]

Numbers are GFLOP/s of the direct algorithm (2 N H W C O KH KW operations) from the median time;
Winograd's algorithm needs fewer, so it can pass the processor's peak. Without PyTorch its column
stays empty. Only ratios within one run count on a shared machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from diffusionad import _core

try:
    import torch
except ImportError:
    torch = None

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
OPERATIONS = ("forward", "backward_data", "backward_filter")
Shape = tuple[int, int, int, int, int]


def torch_runs(shape: Shape) -> dict[str, Callable[[], object]]:
    """One call per operation on channels-last tensors, PyTorch's fastest layout on a CPU."""
    n, c, size, o, kernel = shape
    last = torch.channels_last
    x = torch.randn(n, c, size, size).to(memory_format=last)
    w = torch.randn(o, c, kernel, kernel).to(memory_format=last)
    dy = torch.randn(n, o, size, size).to(memory_format=last)

    def backward(wanted: list[bool]) -> Callable[[], object]:
        return lambda: torch.ops.aten.convolution_backward(
            dy, x, w, None, [1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1, wanted
        )

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, w, padding=kernel // 2),
        "backward_data": backward([True, False, False]),
        "backward_filter": backward([False, True, False]),
    }


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(
    shape: Shape, operations: Sequence[str], columns: Sequence[tuple[str, str]], repeats: int
) -> None:
    n, c, size, o, kernel = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, size, size), dtype=np.float32)
    w = rng.standard_normal((o, c, kernel, kernel), dtype=np.float32)
    work = 2e-9 * n * size * size * c * o * kernel * kernel
    peers = torch_runs(shape) if torch is not None else {}
    for operation in operations:
        times: dict[str, list[float]] = {}
        if peers:
            peers[operation]()
        for _ in range(repeats):
            if peers:
                times.setdefault("torch", []).append(seconds(peers[operation]))
            for level, algorithm in columns:
                if kernel == 1 and algorithm.startswith("winograd"):
                    continue
                _core.set_simd_level(level)
                took = _core.conv2d_seconds(operation, x, w, algorithm)
                times.setdefault(f"{level} {algorithm}", []).append(took)
        rates = {name: work / statistics.median(values) for name, values in times.items()}
        label = f"{n} x {c}->{o} @{size} {kernel}x{kernel}"
        cells = "".join(f"  {name} {rate:7.1f}" for name, rate in rates.items())
        print(f"{label:26s} {operation:16s}{cells}", flush=True)


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
    if torch is not None:
        torch.set_num_threads(options.threads)
    columns = [(level, name) for level in options.levels for name in options.algorithms]
    print(f"{options.threads} threads, GFLOP/s of the direct algorithm")
    for group in SHAPES if options.shapes == "all" else [options.shapes]:
        for shape in SHAPES[group]:
            measure(shape, options.operations, columns, options.repeats)


if __name__ == "__main__":
    main()
