"""diffusionad side by side with PyTorch, ONNX Runtime and OpenVINO, in alternated runs.

    python benchmarks/peers.py --json benchmarks/results.json          every case
    python benchmarks/peers.py --quick                                 small networks, a minute
    python benchmarks/peers.py --sweep --json benchmarks/results.json  cost by size, batch, threads
    python benchmarks/peers.py --plot benchmarks/results.json          picture, and Markdown tables

README.md says what is measured and how. With --json, cases and sweeps that the file already has
from the same machine and settings are replaced, and the others stay.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import report
from cases import CASES, Case, sweep_networks, sweep_points
from measuring import Bench
from workers import Worker, WorkerError

from diffusionad import _core, system
from diffusionad.errors import DiffusionADError, InputError
from diffusionad.files import atomic_path

NOT_QUICK = ("pass-8", "train-paper")  # say nothing that pass-4 and train-small do not
PACKAGES = ("diffusionad", "numpy", "torch", "onnxruntime", "openvino", "ADEval")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="cases: " + "; ".join(f"{case.name}: {case.about}" for case in CASES.values()),
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help="(all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument("--quick", action="store_true", help="small networks, two rounds")
    parser.add_argument("--rounds", type=positive, help="runs of each engine (5; --quick: 2)")
    parser.add_argument("--threads", type=positive, default=_core.get_num_threads())
    parser.add_argument("--sweep", action="store_true", help="our cost by size, batch and threads")
    parser.add_argument("--image-size", type=positive, nargs="+", help="sizes of the sweep")
    parser.add_argument("--batch", type=positive, nargs="+", help="batches of the sweep")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep exported networks here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw FILE.png of a --json file")
    options = parser.parse_args(arguments)
    options.cases = options.cases or [n for n in CASES if not (options.quick and n in NOT_QUICK)]
    options.rounds = options.rounds or (2 if options.quick else 5)
    if (options.image_size or options.batch) and not options.sweep:
        parser.error("--image-size and --batch choose points of --sweep")
    return options


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


# ---- the result file ----------------------------------------------------------------------------


def machine(threads: int) -> dict[str, Any]:
    """What the numbers depend on."""
    memory = system.memory_bytes()
    return {
        "processor": processor(),
        "processors": system.processors(),
        "threads": threads,
        "simd": _core.simd_level(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": dict(installed_versions()),
    }


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name, family = (
            next(line for line in lines if line.startswith(key)).split(":")[1].strip()
            for key in ("model name", "cpu family")
        )
        return f"{name}, family {family}"  # virtual machines leave the rest of the name away
    return platform.processor() or platform.machine()


def installed_versions() -> Iterator[tuple[str, str]]:
    from diffusionad import __version__

    yield "diffusionad", __version__
    for name in PACKAGES[1:]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def read_results(path: Path) -> dict[str, Any]:
    """A file that --json wrote. Raises InputError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict) or not {"machine", "rows"} <= set(data):
        raise InputError(f"{path}: expected machine and rows, as --json writes them")
    return data


class Results:
    """The rows so far, written after every case: an interrupted run keeps what it has."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {**settings, "rows": [], "operations": [], "sweep": []}
        if path is not None and path.exists():
            old = read_results(path)
            if all(old.get(name) == value for name, value in settings.items()):
                self.data |= {name: old.get(name, []) for name in ("rows", "operations", "sweep")}

    def add(self, row: dict[str, Any]) -> None:
        part, key = next(
            (part, key)
            for part, key in (("operations", "operation"), ("sweep", "what"), ("rows", "case"))
            if key in row
        )
        same = (row[key], row.get("value"))
        rows = self.data[part]
        places = [i for i, r in enumerate(rows) if (r[key], r.get("value")) == same]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)

    def write(self) -> None:
        if self.path is None:
            return
        with atomic_path(self.path) as temporary:
            Path(temporary).write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")


# ---- runs ---------------------------------------------------------------------------------------


@contextmanager
def folder_for_files(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="diffusionad-peers-") as name:
        yield Path(name)


def run_cases(bench: Bench, options: argparse.Namespace, results: Results) -> None:
    chosen = [CASES[name] for name in dict.fromkeys(options.cases)]
    for index, case in enumerate(chosen):
        bench.say(f"{case.name}: {case.about}")
        for row in case.rows(case.name, bench, options.quick):
            results.add(row)
        results.write()
        forget_unneeded(bench, options, case, chosen[index + 1 :])


def forget_unneeded(
    bench: Bench, options: argparse.Namespace, case: Case, later: list[Case]
) -> None:
    """Delete gigabytes of exported networks as soon as no later case uses them."""
    needed = case.networks in [other.networks for other in later]
    if case.networks is not None and options.cache is None and not needed:
        bench.forget(case.networks(options.quick))


def run_sweep(bench: Bench, options: argparse.Namespace, results: Results) -> None:
    points = sweep_points(options.quick, options.threads, options.image_size, options.batch)
    for point in points:
        bench.say(f"sweep: {point['what']} {point['value']}")
        networks = sweep_networks(options.quick, point["size"])
        job = bench.network_job("pass", networks, point["batch"], threads=point["threads"])
        bench.ready(job, ["ours"])
        with Worker("ours", job) as worker:
            worker.run()
            seconds = statistics.median(worker.run(0.2) for _ in range(min(3, options.rounds)))
            results.add({**point, "seconds": seconds, "peak_mb": worker.peak_mb()})
        results.write()
        if options.cache is None and point["what"] == "image_size":
            bench.forget(networks)


def draw(path: Path) -> None:
    """The picture beside the file, and Markdown on stdout."""
    data = read_results(path)
    picture = path.with_suffix(".png")
    report.plot(data, picture)
    print(report.markdown(data))
    print(f"{picture} written", file=sys.stderr)


def measure(options: argparse.Namespace) -> None:
    settings = {"machine": machine(options.threads), "quick": options.quick}
    results = Results(options.json, settings)
    with (
        folder_for_files(options.cache) as folder,
        closing(Bench(options.threads, options.rounds, folder, say)) as bench,
    ):
        (run_sweep if options.sweep else run_cases)(bench, options, results)
    report.show(results.data)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        draw(options.plot) if options.plot else measure(options)
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept")
        return 130
    except DiffusionADError as error:
        say(str(error))
        return error.exit_code
    except (WorkerError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
