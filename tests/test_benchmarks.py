"""What of benchmarks/ needs no other engine: alternation, rows, result files, refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import diffusionad as dad

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MODULES = ("cases", "engines", "inputs", "measuring", "operations", "peers", "report", "workers")
KEYS = {
    *("case", "ours_s", "torch_s", "onnxruntime_s", "openvino_s", "ratio_to_fastest_peer"),
    *("ours_peak_mb", "peer_peak_mb", "max_error_vs_float64"),
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import each other by name, as from the command line."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def measured(**seconds: list[float]) -> Any:
    from measuring import Measured

    named = {name.replace("_", "-"): values for name, values in seconds.items()}
    return Measured(named, peaks=dict.fromkeys(named, 100.0) | {"openvino": 50.0})


def test_every_round_starts_with_the_next_engine() -> None:
    from measuring import alternate

    order: list[str] = []
    turns = {name: lambda name=name: order.append(name) or 0.5 for name in "abc"}
    assert alternate(turns, 4) == {name: [0.5] * 4 for name in "abc"}
    assert alternate({}, 4) == {}
    assert "".join(order) == "abcbcacababc"


def test_a_row_has_medians_and_the_better_layout_of_pytorch() -> None:
    from measuring import make_row

    row = make_row(
        "c",
        measured(ours=[1, 2, 9], torch=[8, 8, 8], torch_channels_last=[6, 6, 6], openvino=[5, 3]),
        {"ours": {"output": 1e-6, "eps": 2e-6}},
    )
    assert set(row) >= KEYS
    assert (row["ours_s"], row["torch_s"], row["openvino_s"]) == (2, 6, 4)
    assert row["onnxruntime_s"] is None
    assert row["ratio_to_fastest_peer"] == 2
    assert (row["ours_peak_mb"], row["peer_peak_mb"]) == (100, 50)
    assert row["max_error_vs_float64"] == 1e-6


def test_a_row_of_ours_alone_has_no_peer() -> None:
    from measuring import make_row

    row = make_row("c", measured(ours=[1.0]))
    assert [row[k] for k in ("torch_s", "ratio_to_fastest_peer", "peer_peak_mb")] == [None] * 3


def test_a_peer_without_a_column_counts_as_the_fastest() -> None:
    from measuring import make_row

    row = make_row("c", measured(ours=[1.0], adeval=[3.0]))
    assert (row["adeval_s"], row["ratio_to_fastest_peer"]) == (3, 3)


def test_layouts_are_dropped_only_when_clearly_slower() -> None:
    from measuring import slower_layouts

    assert slower_layouts({"torch": 2.0, "torch-channels-last": 1.0}) == ["torch"]
    assert slower_layouts({"torch": 1.0, "torch-channels-last": 1.05, "openvino": 0.1}) == []


def test_a_first_run_does_not_choose_the_layout(tmp_path, monkeypatch) -> None:
    from measuring import Bench

    class Layout:
        def __init__(self, first, later):
            self.times = [first]
            self.later = later

        def run(self, least=0.0):
            return self.times.pop() if self.times else self.later

        def peak_mb(self):
            return None

    bench = Bench(1, 2, tmp_path, print)
    monkeypatch.setattr(bench, "_outputs", lambda worker: {})
    measured = bench.take_turns(
        {"torch": Layout(0.1, 2.0), "torch-channels-last": Layout(5.0, 1.0), "ours": Layout(1, 1)}
    )
    assert set(measured.seconds) == {"torch-channels-last", "ours"}


def test_errors_are_against_the_largest_value() -> None:
    from measuring import output_errors

    want = {"x0": np.array([2.0, -4.0]), "mask": np.array([1.0]), "eps": np.array([1.0])}
    got = {"x0": np.array([2.0, -3.0]), "mask": np.array([1.0]), "eps": np.array([np.nan])}
    assert output_errors({"ours": got}, want) == {"ours": {"output": 0.25, "eps": np.inf}}


def test_results_differing_from_float64_stop_the_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from measuring import Bench, Measured
    from workers import WorkerError

    bench, want = Bench(1, 1, tmp_path, print), {"x0": np.ones(1), "mask": np.ones(1)}
    monkeypatch.setattr(bench, "reference", lambda job: want)
    wrong = Measured({}, outputs={"openvino": {**want, "mask": np.full(1, 1.01)}})
    with pytest.raises(WorkerError, match="openvino: results differ"):
        bench.errors({}, wrong)


def test_missing_packages_are_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import measuring

    lines: list[str] = []
    monkeypatch.setitem(measuring.NEEDS, "torch", ("no_such_package",))
    bench = measuring.Bench(1, 1, tmp_path, lines.append)
    engines = ["ours", "torch", "torch-channels-last"]
    assert [bench.available(engines), bench.available(engines)] == [["ours"], ["ours"]]
    assert lines == ["torch is left out: no_such_package not installed"]


@pytest.mark.parametrize("option", ["fast", "bfloat16", "low_memory"])
def test_cases_of_options_set_them_on_both_networks(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cases
    from cases import CASES

    monkeypatch.setattr(cases._core, "has_bfloat16", lambda: True)

    class Measuring(Exception):
        pass

    class Bench:
        def network_job(self, kind: str, networks: Any, batch: int, **job: Any) -> Any:
            return job

        def measure(self, job: Any, *_: Any, **__: Any) -> Any:
            raise Measuring(job["options"])

    case = CASES["pass-1-" + option.replace("low_memory", "lowmem")]
    with pytest.raises(Measuring) as found:
        list(case.rows(case.name, Bench(), True))
    assert found.value.args == ({option: True},)
    unet = dad.UNet(image_size=32, base_channels=32, channel_mults=(1,), num_res_blocks=1)
    for network in (unet, dad.SegmentationNet(base_channels=4)):
        assert getattr(network, option) is False  # it exists, and is off by default


def test_without_bfloat16_its_case_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import cases
    from measuring import Bench

    lines: list[str] = []
    monkeypatch.setattr(cases._core, "has_bfloat16", lambda: False)
    case = cases.CASES["pass-1-bfloat16"]
    assert list(case.rows(case.name, Bench(1, 1, Path(), lines.append), True)) == []
    assert lines == ["pass-1-bfloat16 is left out: this processor has no AVX512_BF16"]


def test_a_worker_measures_answers_errors_and_survives_them() -> None:
    from workers import Worker, WorkerError

    job = {"kind": "synthesis", "size": 32, "images": 2, "threads": 1}
    with Worker("ours", job) as worker:
        assert worker.run() > 0
        peak = worker.peak_mb()
        assert peak is None or peak > 10
        with pytest.raises(WorkerError, match="ours: KeyError"):
            worker.prepare({"kind": "no such kind"})
        assert worker.run() > 0
    assert worker.process.returncode is not None


def test_a_worker_that_dies_is_an_error_not_a_hang() -> None:
    from workers import Worker, WorkerError

    with Worker("ours", {"kind": "synthesis", "size": 32, "images": 1, "threads": 1}) as worker:
        worker.process.kill()
        with pytest.raises(WorkerError, match="ours: ended with -9"):
            worker.run()


def test_quick_cases_write_the_promised_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import measuring
    import peers

    for name in measuring.NEEDS:
        monkeypatch.setitem(measuring.NEEDS, name, ("no_such_package",))
    path = tmp_path / "r.json"
    arguments = ["--quick", "--rounds", "1", "--json", str(path), "--cases"]
    assert peers.main([*arguments, "pass-1", "metrics"]) == 0
    assert peers.main([*arguments, "synthesis"]) == 0
    data = json.loads(path.read_text())
    assert [row["case"] for row in data["rows"]] == ["pass-1", "metrics", "synthesis"]
    assert all(set(row) >= KEYS and row["ours_s"] > 0 for row in data["rows"])


@pytest.mark.parametrize(("layouts", "rate"), [((), 1.0), (("torch",), 3.0), (("slow",), 1.0)])
def test_the_limit_of_multiply_adds_is_that_of_the_faster_library(
    layouts: tuple[str, ...], rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import operations
    from measuring import Measured

    size, square = 1024, operations.direct_gflop(operations.SQUARE_QUICK)
    seconds = {"numpy": 2e-9 * size**3, "torch": square / 3, "slow": 2 * square}
    bench = SimpleNamespace(
        threads=1,
        measure=lambda job, engines: Measured({name: [seconds[name]] for name in engines}),
    )
    monkeypatch.setattr(operations, "LAYOUTS", layouts)
    limits = operations.measure_limits(bench, quick=True)
    assert limits["gemm"]["rate"] == pytest.approx(rate)
    assert limits["copy"]["unit"] == "GB/s"


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("{", "not JSON"), ("[]", "expected machine and rows")],
)
def test_a_bad_result_file_is_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import peers

    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    assert peers.main(["--plot", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--cases", "nothing"], ["--rounds", "0"], ["--threads", "x"], ["--batch", "2"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    import peers

    with pytest.raises(SystemExit) as ended:
        peers.main(arguments)
    assert ended.value.code == 2
