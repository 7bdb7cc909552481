"""Streams of frames: order, equality with predict(), bounds, errors, closing."""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from test_model import SIZE, tiny

import diffusionad as dad
from diffusionad import streaming
from diffusionad.errors import InputError


@pytest.fixture(scope="module")
def model() -> dad.DiffusionAD:
    made = tiny()
    made.threshold = 0.5
    return made


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + 3 * i, 40, 3), dtype=np.uint8) for i in range(7)]


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "diffusionad-frames"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    for thread in readers():
        thread.join(10)
    assert readers() == []


@pytest.mark.parametrize("size", ["model", "input"])
@pytest.mark.parametrize(
    ("batch_size", "max_latency"),
    [(1, 0.0), (3, None), (3, 0.0), (50, 0.1), (3, float("inf")), (3, 1e300)],
)
def test_results_are_those_of_predict_in_order(model, frames, batch_size, max_latency, size):
    whole = model.predict(frames, size=size)
    results = list(model.predict_stream(iter(frames), batch_size, max_latency, size))
    assert [result.index for result in results] == list(range(7))
    for result, expected in zip(results, whole, strict=True):
        assert result.score == expected.score
        assert result.label == expected.label
        assert result.threshold == 0.5
        assert result.map.tobytes() == expected.map.tobytes()
        assert result.reconstruction.tobytes() == expected.reconstruction.tobytes()
        assert result.image.tobytes() == expected.image.tobytes()


def test_any_source_of_images(tmp_path, model, frames):
    for index, frame in enumerate(frames[:3]):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    scores = model.predict(frames[:3]).scores.tolist()
    paths = sorted(tmp_path.iterdir())
    for source in (tmp_path, paths, (Image.open(path) for path in paths), tuple(frames[:3])):
        assert [result.score for result in model.predict_stream(source)] == scores
    assert [r.path for r in model.predict_stream(tmp_path)] == [str(path) for path in paths]
    assert [r.path for r in model.predict_stream(frames[:2])] == [None, None]
    assert [r.score for r in model.predict_stream(frames[0])] == scores[:1]  # an array is one image
    assert list(model.predict_stream([])) == []


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (SIZE, SIZE, 3), (SIZE, SIZE)])
def test_a_source_may_use_one_buffer_for_all_frames(model, shape):
    values = np.random.default_rng(1).random((6, *shape), dtype=np.float32)
    expected = model.predict(list(values)).scores.tolist()
    buffer = np.empty(shape, np.float32)

    def camera() -> Iterator[np.ndarray]:
        for value in values:
            buffer[:] = value
            yield buffer

    stream = model.predict_stream(camera(), batch_size=3, max_latency=None)
    assert [result.score for result in stream] == expected


def test_a_frame_does_not_wait_for_frames_that_do_not_come(model, frames):
    """With a latency of 0 each frame's result is there before the next frame exists."""
    wanted: queue.Queue[np.ndarray] = queue.Queue()
    camera = (wanted.get() for _ in frames)
    stream = model.predict_stream(camera, batch_size=4, max_latency=0.0)
    for index, frame in enumerate(frames):
        wanted.put(frame)
        assert next(stream).index == index
    assert next(stream, None) is None


def test_memory_is_bounded_however_fast_frames_come(model, frames):
    read = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            read.append(1)
            yield frames[0]

    stream = model.predict_stream(endless(), batch_size=3, max_latency=None)
    for count in range(1, 20):
        next(stream)
        in_batch = -count % 3
        # in the batch, in the queue, in the reader's hands
        assert len(read) <= count + in_batch + 3 + 1
    stream.close()


def test_nothing_is_read_before_the_first_result_is_asked_for(model, frames):
    read = []
    model.predict_stream(read.append(1) or frame for frame in frames)
    assert read == []


def test_an_error_of_the_source_comes_after_the_results_before_it(model, frames):
    class CameraLost(Exception):
        pass

    def camera() -> Iterator[np.ndarray]:
        yield from frames[:5]
        raise CameraLost("cable")

    stream = model.predict_stream(camera(), batch_size=2)
    assert [next(stream).index for _ in range(5)] == list(range(5))
    with pytest.raises(CameraLost, match="cable"):
        next(stream)
    assert next(stream, None) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_whatever_the_source_raises_is_raised_here(model, error):
    def source() -> Iterator[np.ndarray]:
        raise error
        yield

    with pytest.raises(error):
        list(model.predict_stream(source()))


@pytest.mark.parametrize("seen", [True, False])
def test_a_source_that_has_raised_is_let_go_of(model, frames, seen):
    """Without the garbage collector, whether or not its error was waited for."""
    raised = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        try:
            yield frames[0]
            raise OSError("cable")
        finally:
            raised.set()

    gc.disable()
    try:
        source = camera()
        alive = weakref.ref(source)
        stream = model.predict_stream(source, batch_size=2, max_latency=0.0)
        del source
        next(stream)
        assert raised.wait(10)
        if seen:
            with contextlib.suppress(OSError):  # pytest.raises would keep it
                next(stream)
        else:
            stream.close()
        for thread in readers():
            thread.join(10)
        del stream
        assert alive() is None
    finally:
        gc.enable()


def test_a_pil_image_that_is_cut_off_is_named(tmp_path, model, frames):
    path = tmp_path / "cut.png"
    Image.fromarray(np.tile(frames[0], (40, 40, 1))).save(path)
    path.write_bytes(path.read_bytes()[:40_000])
    with (
        Image.open(path) as image,
        pytest.raises(InputError, match=r"frames\[0\]: this PIL image cannot be used: .*truncated"),
    ):
        list(model.predict_stream(image))


def test_a_bad_frame_is_named_after_the_results_before_it(tmp_path, model, frames):
    stream = model.predict_stream([frames[0], frames[1], np.zeros((4, 4, 2))])
    assert next(stream).index == 0
    assert next(stream).index == 1
    with pytest.raises(InputError, match=r"frames\[2\]: expected uint8"):
        next(stream)
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        list(model.predict_stream([tmp_path / "none.png"]))


def test_an_error_of_the_model_stops_the_reader(frames):
    model = tiny()

    def fail(*_: object) -> None:
        raise MemoryError("arena")

    model._map = fail
    with pytest.raises(MemoryError, match="arena"):
        list(model.predict_stream(frames))


def test_closing_stops_the_thread(model, frames):
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield frames[0]

    stream = model.predict_stream(endless(), batch_size=2)
    next(stream)
    assert len(readers()) == 1
    stream.close()
    assert readers() == []
    for _ in model.predict_stream(endless(), batch_size=2):
        break  # leaving the loop closes it as well
    gc.collect()
    assert readers() == []


def test_closing_does_not_wait_for_a_source_that_hangs(model, frames, monkeypatch):
    monkeypatch.setattr(streaming, "CLOSING_SECONDS", 0.01)
    go_on = threading.Event()

    def hangs() -> Iterator[np.ndarray]:
        yield frames[0]
        go_on.wait(10)
        yield from frames

    stream = model.predict_stream(hangs(), max_latency=0.0)
    next(stream)
    stream.close()
    assert len(readers()) == 1
    go_on.set()
    readers_left = readers()
    for thread in readers_left:
        thread.join(10)
    assert readers() == []


def test_two_streams_of_one_model_at_once(model, frames):
    pairs = zip(model.predict_stream(frames), model.predict_stream(frames[::-1]), strict=True)
    there, back = zip(*((a.score, b.score) for a, b in pairs), strict=True)
    assert there == back[::-1]


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (3, {}, "frames: expected images to go through, got int"),
        (np.zeros((2, 9, 9, 3), np.uint8), {"batch_size": 0}, "batch_size: expected 1 or more"),
        ([], {"max_latency": -1.0}, "max_latency: expected 0 or more seconds, got -1.0"),
        ([], {"max_latency": float("nan")}, "max_latency: expected 0 or more seconds, got nan"),
        ([], {"size": "huge"}, 'size: expected "model" or "input"'),
        ("/nonexistent", {}, "nonexistent: no such file"),
    ],
)
def test_bad_arguments_are_named(model, source, options, words):
    with pytest.raises(InputError, match=words):
        list(model.predict_stream(source, **options))


def test_a_stack_of_frames_is_gone_through(model):
    stack = np.zeros((3, 3, SIZE, SIZE), np.float32)
    assert len(list(model.predict_stream(stack))) == 3
