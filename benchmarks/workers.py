"""One engine in a process of its own, driven over pipes.

So its peak memory is its own, its threads do not get in the way of another engine's, and it sleeps
in a read while another one runs. The parent holds a Worker; this file run by itself is the child.
A request is one line of JSON, and so is the answer:

    {"prepare": job}      builds what is to be measured; {}
    {"run": least}        runs it for at least so many seconds; {"seconds": median, "runs": n}
    {"outputs": file}     writes what the last run gave as .npz; {}
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

PAUSE = 0.05  # seconds after a run, in which spinning threads go to sleep


class WorkerError(Exception):
    """An engine could not do what it was asked; the message says which and why."""


class Worker:
    """The parent's end. Ends the process on leaving a `with` block."""

    def __init__(self, engine: str, job: dict[str, Any]) -> None:
        self.engine = engine
        threads = str(job.get("threads", 1))
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DIFFUSIONAD_NUM_THREADS")
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | dict.fromkeys(names, threads),
        )
        try:
            self.prepare(job)
        except BaseException:
            self.close()
            raise

    def prepare(self, job: dict[str, Any]) -> None:
        """Make ready for another job."""
        self._ask({"prepare": {**job, "engine": self.engine}})

    def run(self, least: float = 0.0) -> float:
        """Seconds of a run: the median of as many as take `least` seconds together."""
        seconds = self._ask({"run": least})["seconds"]
        time.sleep(PAUSE)
        return float(seconds)

    def outputs(self, path: Path) -> None:
        """Have the results of the last run written."""
        self._ask({"outputs": str(path)})

    def peak_mb(self) -> float | None:
        """The most memory it has held so far, in MiB; None where the system does not say."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return None
        peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(peaks[0]) / 1024 if peaks else None

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # what a dead process has not read
                stream.close()
        self.process.kill()
        self.process.wait()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.engine}: ended with {self.process.wait()}: {self._last()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.engine}: {answer['error']}")
        return answer

    def _last(self) -> str:
        self._log.seek(0)
        lines = self._log.read().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no message")


def repeat(run: Any, least: float) -> tuple[list[float], Any]:
    """Seconds of each run until they are `least` together, and the last result.

    A job that measures itself returns its seconds as a float.
    """
    seconds: list[float] = []
    while not seconds or sum(seconds) < least:
        begin = time.perf_counter()
        result = run()
        took = time.perf_counter() - begin
        seconds.append(result if isinstance(result, float) else took)
    return seconds, result


class Child:
    """The child's end: keeps the prepared job and its last result."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in request:
            import engines

            self.job = engines.build(request["prepare"])
        elif "run" in request:
            seconds, self.result = repeat(self.job.run, request["run"])
            return {"seconds": statistics.median(seconds), "runs": len(seconds)}
        else:
            import numpy as np

            np.savez(request["outputs"], **self.job.outputs(self.result))
        return {}

    def serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not come between the answers
        for line in sys.stdin:
            try:
                answer = self.answer(json.loads(line))
            except Exception as error:
                traceback.print_exc()
                text = str(error).strip().split("\n")[0]
                answer = {"error": f"{type(error).__name__}: {text}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH
    Child().serve()
