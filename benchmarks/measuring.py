"""Alternated runs of several engines, and what a row of the result says about them."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import statistics
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engines import LAYOUTS, family, graph_name, in_bfloat16
from workers import Worker, WorkerError

Settings = dict[str, Any]
Row = dict[str, Any]
Turns = Mapping[str, Callable[[], float]]

COLUMNS = ("torch", "onnxruntime", "openvino")
PASS_ENGINES = ("ours", *LAYOUTS, "onnxruntime", "openvino")
NEEDS = {
    "torch": ("torch",),
    "onnxruntime": ("torch", "onnx", "onnxruntime"),
    "openvino": ("torch", "openvino"),
    "adeval": ("adeval", "cv2"),
}
LOADS = {  # what exporting.py writes for each engine
    "ours": ["model"],
    "torch": ["weights"],
    "onnxruntime": ["weights", "onnx"],
    "openvino": ["weights", "openvino"],
}
FILES = {  # by graph ("pass-1") and its kind ("pass")
    "model": "model.safetensors",
    "weights": "networks.pt",
    "onnx": "{0}.onnx",
    "openvino": "{0}.xml",
    "reference": "{1}.npz",
}
LEAST = 0.2  # seconds of a turn: shorter runs are repeated
AGREE = 1e-3  # largest relative error with which an engine counts as computing the same
AGREE_BFLOAT16 = 0.3  # the same where products round to 8 bits
CLOSE = 1.1  # a memory layout of PyTorch stays in while it is at most this much slower


def alternate(turns: Turns, rounds: int) -> dict[str, list[float]]:
    """Seconds of each turn; every round starts with the next one."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    order = deque(turns)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(turns[name]())
        order.rotate(-1)
    return seconds


def slower_layouts(first: Mapping[str, float]) -> list[str]:
    """PyTorch's memory layouts that are clearly slower than its best one."""
    layouts = {name: first[name] for name in LAYOUTS if name in first}
    return [name for name, took in layouts.items() if took > CLOSE * min(layouts.values())]


@dataclass
class Measured:
    """What was found of each engine: seconds of every turn, MiB, results."""

    seconds: dict[str, list[float]]
    peaks: dict[str, float | None] = field(default_factory=dict)
    outputs: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)  # of the first run

    def medians(self) -> dict[str, float]:
        """By engine; of PyTorch's layouts the faster one."""
        found: dict[str, float] = {}
        for name, values in self.seconds.items():
            median, key = statistics.median(values), family(name)
            found[key] = min(median, found.get(key, math.inf))
        return found

    def peak_medians(self) -> dict[str, float]:
        """Peak memory by engine; of PyTorch's layouts the faster one's."""
        found: dict[str, float] = {}
        for name in sorted(self.seconds, key=lambda n: -statistics.median(self.seconds[n])):
            peak = self.peaks.get(name)
            if peak is not None:
                found[family(name)] = peak
        return found


def make_row(
    case: str,
    measured: Measured,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    **extra: Any,
) -> Row:
    """A row of the JSON file; engines that took no part are None."""
    medians, peaks, errors = measured.medians(), measured.peak_medians(), errors or {}
    ours, others = medians.get("ours"), [v for k, v in medians.items() if k != "ours"]
    row: Row = {"case": case, "ours_s": ours}
    row |= {f"{name}_s": medians.get(name) for name in COLUMNS}
    row |= {f"{name}_s": v for name, v in medians.items() if name not in ("ours", *COLUMNS)}
    row["ratio_to_fastest_peer"] = min(others) / ours if others and ours else None
    row["ours_peak_mb"] = peaks.get("ours")
    row["peer_peak_mb"] = min((v for k, v in peaks.items() if k != "ours"), default=None)
    row["max_error_vs_float64"] = errors.get("ours", {}).get("output")
    return row | {"peaks_mb": peaks, "errors": dict(errors), "runs_s": measured.seconds} | extra


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest error against the largest value; infinite where something is not a number."""
    error = float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())
    return error if math.isfinite(error) else math.inf


def output_errors(
    outputs: Mapping[str, Mapping[str, np.ndarray]], reference: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """By engine: `output`, the larger error of reconstruction and mask, and `eps` where given."""
    errors: dict[str, dict[str, float]] = {}
    for name, found in outputs.items():
        each = {k: relative_error(found[k], reference[k]) for k in found if k in reference}
        entry = {"output": max(each["x0"], each["mask"])}
        errors[family(name)] = entry | ({"eps": each["eps"]} if "eps" in each else {})
    return errors


@dataclass
class Bench:
    """The settings of this run, its folder of exported files, and what it says meanwhile."""

    threads: int
    rounds: int
    folder: Path
    say: Callable[[str], None]
    missing: set[str] = field(default_factory=set)
    exporter: Worker | None = None

    def available(self, engines: Iterable[str]) -> list[str]:
        """Those whose packages are installed; what is missing is said once."""
        found = []
        for engine in engines:
            names = NEEDS.get(family(engine), ())
            lacking = [name for name in names if importlib.util.find_spec(name) is None]
            if not lacking:
                found.append(engine)
            elif family(engine) not in self.missing:
                self.missing.add(family(engine))
                self.say(f"{family(engine)} is left out: {', '.join(lacking)} not installed")
        return found

    # ---- files --------------------------------------------------------------------------------

    def network_folder(self, networks: Settings) -> Path:
        """Where the files of these networks are: a name by their settings."""
        key = zlib.crc32(json.dumps(networks, sort_keys=True).encode())
        folder = self.folder / f"{networks['preset']}-{networks['size']}-{key:08x}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def network_job(self, kind: str, networks: Settings, batch: int, **more: Any) -> Settings:
        folder = str(self.network_folder(networks))
        fixed = {"kind": kind, "networks": networks, "batch": batch, "folder": folder}
        return fixed | {"threads": self.threads} | more

    def export(self, job: Settings, whats: Sequence[str]) -> None:
        """Have those files written that are not there yet."""
        of = "detect" if job["kind"] == "detect" else "pass"
        graph, folder = graph_name({**job, "kind": of}), Path(job["folder"])
        for what in whats:
            if not (folder / FILES[what].format(graph, of)).exists():
                order = {**job, "kind": "export", "what": what, "of": of}
                if self.exporter is None:
                    self.exporter = Worker("export", order)
                self.exporter.prepare(order)
                self.exporter.run()

    def close(self) -> None:
        """End the process that exports."""
        if self.exporter is not None:
            self.exporter.close()
            self.exporter = None

    def reference(self, job: Settings) -> Mapping[str, np.ndarray] | None:
        """Results in float64, None without PyTorch."""
        if not self.available(["torch"]):
            return None
        self.export(job, ["reference"])
        of = "detect" if job["kind"] == "detect" else "pass"
        return dict(np.load(Path(job["folder"], FILES["reference"].format("", of))))

    def forget(self, networks: Settings) -> None:
        """Delete what was exported of these networks."""
        shutil.rmtree(self.network_folder(networks))

    # ---- runs ---------------------------------------------------------------------------------

    def measure(
        self, job: Settings, engines: Sequence[str], fresh: bool = False, warm: bool = True
    ) -> Measured:
        """Alternated runs of a job.

        `fresh` starts a process per turn, for jobs that do not fit into memory together or whose
        start is measured; `warm` is whether an uncounted run comes first. A peer that fails is
        left out and said so; ours must not fail.
        """
        engines = self.ready(job, engines)
        if fresh:
            return self._measure_fresh(job, engines, warm)
        with self.workers(job, engines) as workers:
            return self.take_turns(workers)

    @contextmanager
    def workers(self, job: Settings, engines: Sequence[str]) -> Iterator[dict[str, Worker]]:
        """A worker for each engine that can do the job."""
        with ExitStack() as stack:
            found: dict[str, Worker] = {}
            for engine in engines:
                with self.peer_may_fail(engine):
                    found[engine] = stack.enter_context(Worker(engine, job))
            yield found

    def take_turns(self, workers: Mapping[str, Worker]) -> Measured:
        """An uncounted run of each, then alternated ones without PyTorch's slower layout.

        Which of the layouts that is, a second run says: the first one may be of anything.
        """
        measured = Measured({})
        first: dict[str, float] = {}
        for engine, worker in workers.items():
            with self.peer_may_fail(engine):
                worker.run()
                measured.outputs[engine] = self._outputs(worker)
                first[engine] = worker.run(LEAST) if engine in LAYOUTS else 0.0
        names = [name for name in first if name not in slower_layouts(first)]
        turns = {name: partial(workers[name].run, LEAST) for name in names}
        measured.seconds = alternate(turns, self.rounds)
        measured.peaks = {name: workers[name].peak_mb() for name in names}
        return measured

    def ready(self, job: Settings, engines: Sequence[str]) -> list[str]:
        """The engines that can take part, their files written."""
        able = []
        for engine in self.available(engines):
            with self.peer_may_fail(engine):
                if "folder" in job:
                    self.export(job, LOADS[family(engine)])
                able.append(engine)
        return able

    @contextmanager
    def peer_may_fail(self, engine: str) -> Iterator[None]:
        """A peer that fails is said to be left out; an error of ours goes on."""
        try:
            yield
        except WorkerError as error:
            if engine == "ours":
                raise
            self.say(f"left out: {error}")

    def _measure_fresh(self, job: Settings, engines: Sequence[str], warm: bool) -> Measured:
        measured = Measured({})

        def turn(engine: str) -> float:
            with Worker(engine, job) as worker:
                took = worker.run()
                if engine not in measured.outputs:
                    measured.outputs[engine] = self._outputs(worker)
                if warm:
                    took = worker.run()
                measured.peaks[engine] = worker.peak_mb()
            return took

        first: dict[str, float] = {}
        for engine in engines:
            with self.peer_may_fail(engine):
                first[engine] = turn(engine)
        names = [name for name in first if name not in slower_layouts(first)]
        turns = {name: partial(turn, name) for name in names}
        later = alternate(turns, self.rounds - 1)
        measured.seconds = {name: [first[name], *later[name]] for name in names}
        return measured

    def _outputs(self, worker: Worker) -> Mapping[str, np.ndarray]:
        path = self.folder / f"{worker.engine}.npz"
        worker.outputs(path)
        with np.load(path) as found:
            return dict(found)

    def errors(self, job: Settings, measured: Measured) -> dict[str, dict[str, float]]:
        """Of every engine against float64. Raises WorkerError where one computes something else."""
        reference = self.reference(job)
        if reference is None:
            return {}
        errors = output_errors(measured.outputs, reference)
        agree = AGREE_BFLOAT16 if in_bfloat16(job) else AGREE
        for engine, found in errors.items():
            if not max(found.values()) < agree:
                raise WorkerError(f"{engine}: results differ from float64: {found}")
        return errors
