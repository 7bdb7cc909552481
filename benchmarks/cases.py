"""The cases: what is measured, on which networks, with which engines. CASES is the list."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import inputs
from engines import LAYOUTS
from measuring import PASS_ENGINES, Bench, Measured, Row, Settings, alternate, make_row
from operations import measure_operations
from workers import Worker, WorkerError

from diffusionad import _core

Networks = Callable[[bool], Settings]
SAME_LOSS = 1e-4  # largest relative difference of the first training step
QUICK = {
    "image_size": 64,
    "base_channels": 32,
    "channel_mults": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [32],
    "seg_channels": 16,
}


def paper(quick: bool) -> Settings:
    return inputs.network_settings("paper", **(QUICK if quick else {}))


def compact(quick: bool) -> Settings:
    return inputs.network_settings("compact")


def small_training(quick: bool) -> Settings:
    full = {"image_size": 128, "base_channels": 32, "seg_channels": 16}
    return inputs.network_settings("paper", **(QUICK if quick else full))


@dataclass(frozen=True)
class Case:
    """A name, one line on what it is, how its rows are made, and the networks it exports."""

    name: str
    about: str
    rows: Callable[[str, Bench, bool], Iterator[Row]]  # of name, bench, quick
    networks: Networks | None = None


# ---- the networks -------------------------------------------------------------------------------


def pass_rows(
    name: str,
    bench: Bench,
    quick: bool,
    batch: int = 1,
    option: str | None = None,
    fresh: bool = False,
) -> Iterator[Row]:
    networks = paper(quick)
    options = {option: True} if option else {}
    if option == "bfloat16" and not _core.has_bfloat16():
        bench.say(f"{name} is left out: this processor has no AVX512_BF16")
        return
    job = bench.network_job("pass", networks, batch, options=options)
    measured = bench.measure(job, PASS_ENGINES, fresh=fresh)
    errors, row_extra = bench.errors(job, measured), {"batch": batch}
    reference = bench.reference(job)
    if reference is not None:
        row_extra["gflop"] = batch * float(reference["flops"]) / 1e9
    yield per_image(make_row(name, measured, errors, **row_extra), batch)


def per_image(row: Row, count: int) -> Row:
    """The row with seconds divided by the number of images of a run."""
    scaled = {k: v / count for k, v in row.items() if k.endswith("_s") and isinstance(v, float)}
    runs = {k: [v / count for v in values] for k, values in row["runs_s"].items()}
    rate = count / row["ours_s"] if row["ours_s"] else None
    return row | scaled | {"runs_s": runs, "images_per_second": rate}


def detect_rows(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    images = 16 if quick else 64
    job = bench.network_job("detect", compact(quick), 8, images=images)
    measured = bench.measure(job, PASS_ENGINES)
    errors = bench.errors(job, measured)
    yield per_image(make_row(name, measured, errors, images=images, batch=8), images)


def first_rows(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    job = bench.network_job("first-result", paper(quick), 1)
    yield make_row(name, bench.measure(job, PASS_ENGINES, fresh=True, warm=False))


def train_rows(
    name: str, bench: Bench, quick: bool, networks: Networks, batch: int, fresh: bool = False
) -> Iterator[Row]:
    job = bench.network_job("train", networks(quick), batch)
    measured = bench.measure(job, ["ours", *LAYOUTS], fresh=fresh)
    losses = {engine: float(found["loss"][0]) for engine, found in measured.outputs.items()}
    if max(losses.values()) - min(losses.values()) > SAME_LOSS * max(losses.values()):
        raise WorkerError(f"{name}: the first step's losses differ: {losses}")
    yield make_row(name, measured, batch=batch, size=networks(quick)["size"], losses=losses)


def thread_rows(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    """Ours with 1 to n threads, alternated; `ours_s` is with all."""
    images = 16 if quick else 64
    of_pass = bench.network_job("pass", paper(quick), 1)
    of_compact = bench.network_job("detect", compact(quick), 8, images=images)
    for what, job, count in (("pass-1", of_pass, 1), ("compact", of_compact, images)):
        bench.ready(job, ["ours"])
        counts = range(1, bench.threads + 1)
        workers = {n: Worker("ours", {**job, "threads": n}) for n in counts}
        try:
            for worker in workers.values():
                worker.run()
            turns = {str(n): partial(worker.run, 0.2) for n, worker in workers.items()}
            seconds = alternate(turns, bench.rounds)
        finally:
            for worker in workers.values():
                worker.close()
        medians = {n: statistics.median(values) / count for n, values in seconds.items()}
        row = per_image(
            make_row(f"{name}-{what}", Measured({"ours": seconds[str(bench.threads)]})), count
        )
        yield row | {"by_threads_s": medians}


# ---- around the networks ------------------------------------------------------------------------


def metrics_rows(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    job = {"kind": "metrics", "maps": 12 if quick else 60, "size": 256, "threads": bench.threads}
    measured = bench.measure(job, ["ours", "adeval"])
    values = {k: {n: float(v) for n, v in found.items()} for k, found in measured.outputs.items()}
    yield make_row(name, measured, maps=job["maps"], values=values)


def synthesis_rows(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    """Seconds per image on one core."""
    images = 16 if quick else 64
    job = {"kind": "synthesis", "images": images, "size": 256, "threads": 1}
    yield per_image(make_row(name, bench.measure(job, ["ours"]), images=images), images)


def import_rows(name: str, bench: Bench, quick: bool) -> Iterator[Row]:
    """What importing costs beyond NumPy, and `diffusionad --help` beyond that."""
    commands = {
        "numpy": ["-c", "import numpy"],
        "diffusionad": ["-c", "import diffusionad"],
        "help": ["-m", "diffusionad", "--help"],
    }
    turns = {what: partial(process_seconds, command) for what, command in commands.items()}
    alternate(turns, 1)
    seconds = alternate(turns, max(bench.rounds, 5))
    for case, what, base in ((name, "diffusionad", "numpy"), ("help", "help", "diffusionad")):
        beyond = [a - b for a, b in zip(seconds[what], seconds[base], strict=True)]
        yield make_row(case, Measured({"ours": beyond}), whole_s=statistics.median(seconds[what]))


def process_seconds(arguments: list[str]) -> float:
    """With bytecode, which the first run writes where installing has not."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *arguments]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin


def named(*cases: Case) -> Mapping[str, Case]:
    return {case.name: case for case in cases}


def training(networks: Networks, batch: int, fresh: bool) -> Callable[..., Iterator[Row]]:
    return partial(train_rows, networks=networks, batch=batch, fresh=fresh)


CASES: Mapping[str, Case] = named(
    Case("pass-1", "norm-guided pass, paper's networks, one image", pass_rows, paper),
    Case("pass-1-fast", "the same, fast=True", partial(pass_rows, option="fast"), paper),
    Case(
        "pass-1-bfloat16",
        "bfloat16=True, PyTorch and OpenVINO in bfloat16 as well",
        partial(pass_rows, option="bfloat16"),
        paper,
    ),
    Case("pass-1-lowmem", "low_memory=True", partial(pass_rows, option="low_memory"), paper),
    Case("first-result", "from a model file to the first result", first_rows, paper),
    Case("pass-4", "batch of 4, per image", partial(pass_rows, batch=4, fresh=True), paper),
    Case("pass-8", "batch of 8, per image", partial(pass_rows, batch=8, fresh=True), paper),
    Case("train-paper", "training step, batch 1", training(paper, 1, True), paper),
    Case("train-small", "training step, batch 8", training(small_training, 8, False)),
    Case("train-compact", "the same with compact's networks", training(compact, 8, False)),
    Case("compact", "decoded image to score, compact preset, per image", detect_rows),
    Case("threads", "ours with 1 to n threads", thread_rows),
    Case("metrics", "AUPRO, AUROC, AP of maps, against ADEval's bins", metrics_rows),
    Case("synthesis", "anomalous samples of 256 px, per image on one core", synthesis_rows),
    Case("import", "import diffusionad beyond numpy; --help beyond that", import_rows),
    Case("operations", "single operations against PyTorch and the roofline", measure_operations),
)


def sweep_points(quick: bool, threads: int, sizes: Any, batches: Any) -> Iterator[Settings]:
    """What --sweep measures: one of image size, batch and threads changes at a time."""
    base = paper(quick)
    for size in sizes or ((64, 96, 128) if quick else (64, 128, 256, 512, 1024)):
        yield {"what": "image_size", "value": size, "size": size, "batch": 1, "threads": threads}
    for batch in batches or ((1, 2, 4) if quick else (1, 2, 4, 8, 16)):
        point = {"what": "batch", "value": batch, "batch": batch, "threads": threads}
        yield point | {"size": base["size"]}
    for count in range(1, threads + 1):
        point = {"what": "threads", "value": count, "batch": 1, "threads": count}
        yield point | {"size": base["size"]}


def sweep_networks(quick: bool, size: int) -> Settings:
    """The same networks at any image size."""
    base = paper(quick)
    mults = base["unet"]["channel_mults"] or [1, 1, 2, 2, 4, 4]
    changes = {"image_size": size, "channel_mults": mults}
    return inputs.network_settings(base["preset"], **{**base["overrides"], **changes})
