"""The server: scores as predict gives them, whatever comes in and however much of it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from python_multipart.exceptions import MultipartParseError
from starlette.requests import Request
from test_cli import fails, run

import diffusionad as dad
from diffusionad.serving import app, arguments, command
from diffusionad.serving.app import Service
from diffusionad.serving.batching import Batcher
from diffusionad.serving.limits import Limits
from diffusionad.serving.pictures import LEVELS

SIDE = 32
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(dad.__file__).parents[1]),
    "DIFFUSIONAD_NUM_THREADS": "1",
}


def pixels(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


PNG = encoded(pixels(0))


@pytest.fixture(scope="module")
def model() -> dad.DiffusionAD:
    made = dad.DiffusionAD(preset="compact", image_size=SIDE, seed=3)
    made.threshold = 0.5
    return made


@pytest.fixture
def service(model) -> Service:
    return Service(model, "part.safetensors", Limits(upload=100_000, megapixels=1, queue=8))


@pytest.fixture
def client(service):
    with TestClient(service.app(), raise_server_exceptions=False) as made:
        yield made


def from_url(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def refused(answer: httpx2.Response, status: int) -> str:
    """The one line of a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    text = answer.json()["error"]
    assert text
    assert "\n" not in text
    return text


# ---- scores and pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("form", [False, True])
def test_a_prediction_equals_predict(client, model, form):
    sent = {"files": {"image": ("bolt.png", PNG)}} if form else {"content": PNG}
    answer = client.post("/predict", **sent)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    expected = model.predict([pixels(0)])
    assert result["score"] == expected.scores[0]
    assert result["label"] == expected.labels[0]
    assert (result["width"], result["height"]) == (56, 40)
    assert (result["threshold"], result["model"]) == (0.5, "part.safetensors")
    assert result["seconds"] > 0
    assert result["picture"] is None


@pytest.mark.parametrize(
    ("kind", "media", "options"),
    [
        ("JPEG", "image/jpeg", {"quality": 90}),
        ("BMP", "image/bmp", {}),
        ("TIFF", "image/tiff", {}),
        ("WEBP", "image/webp", {"lossless": True}),
        ("GIF", "application/octet-stream", {}),
        ("PPM", "image/x-portable-pixmap", {}),
        ("JPEG", "image/jpg", {"quality": 90}),  # names that are no standard's, from here on
        ("JPEG", "image/pjpeg", {"quality": 90}),
        ("TIFF", "image/tif", {}),
        ("PNG", "image/x-png", {}),
    ],
)
def test_every_usual_format_is_read_as_predict_reads_it(
    client, model, tmp_path, kind, media, options
):
    data = encoded(pixels(1), kind, **options)
    (tmp_path / "image.png").write_bytes(data)  # Pillow goes by the content
    answer = client.post("/predict", content=data, headers={"Content-Type": media})
    assert answer.json()["score"] == model.predict(tmp_path / "image.png").scores[0]


@pytest.mark.parametrize("size", ["model", "input"])
def test_the_map_as_a_picture_of_numbers(client, model, size):
    answer = client.post(f"/predict?picture=map&size={size}", content=PNG)
    with from_url(answer.json()["picture"]) as picture:
        levels = np.asarray(picture)
    expected = model.predict([pixels(0)], size=size).maps[0]
    assert levels.shape == expected.shape == ((SIDE, SIDE) if size == "model" else (40, 56))
    np.testing.assert_array_equal(levels, np.floor(expected * np.float32(LEVELS) + 0.5))


def test_a_png_by_query_or_by_accept(client, model):
    by_query = client.post("/predict?format=png", content=PNG)
    by_accept = client.post("/predict", content=PNG, headers={"Accept": "text/html, image/png;q=1"})
    assert by_query.headers["content-type"] == by_accept.headers["content-type"] == "image/png"
    assert by_query.content == by_accept.content
    assert float(by_query.headers["x-score"]) == model.predict([pixels(0)]).scores[0]
    with Image.open(io.BytesIO(by_query.content)) as overlay:
        assert (overlay.size, overlay.mode) == ((56, 40), "RGB")
    with from_url(client.post("/predict?picture=overlay", content=PNG).json()["picture"]) as same:
        assert np.array_equal(
            np.asarray(same), np.asarray(Image.open(io.BytesIO(by_query.content)))
        )
    as_json = client.post("/predict?format=json", content=PNG, headers={"Accept": "image/png"})
    assert "score" in as_json.json()


def test_an_overlay_of_a_large_image_is_made_smaller(client):
    large = encoded(np.full((300, 1500, 3), 90, np.uint8))
    answer = client.post("/predict?format=png", content=large)
    with Image.open(io.BytesIO(answer.content)) as overlay:
        assert overlay.size == (1024, 205)


def test_without_a_threshold_there_is_no_label():
    model = dad.DiffusionAD(preset="compact", image_size=SIDE, seed=3)
    with TestClient(Service(model, "m", Limits()).app()) as client:
        result = client.post("/predict", content=PNG).json()
        assert (result["label"], result["threshold"]) == (None, None)
        answer = client.post("/predict?format=png", content=PNG)
        assert answer.headers["x-label"] == "null"
        assert 'diffusionad_images_total{label="none"} 2' in client.get("/metrics").text


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "image: the file is empty"),
        (b"no image at all", "image: not an image that can be read"),
        (PNG[:20], "image"),
        (PNG[: len(PNG) // 2], "image: the image is broken"),
        (encoded(pixels(0), "JPEG")[:-300], "image: the image is broken: image file is truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that can be read"),
    ],
)
def test_what_is_no_whole_image(client, data, words):
    assert words in refused(client.post("/predict", content=data), 422)
    assert client.post("/predict", content=PNG).status_code == 200


def test_floating_point_pixels(client):
    data = encoded(np.zeros((4, 4), np.float32), "TIFF")
    assert "floating-point" in refused(client.post("/predict", content=data), 422)


@pytest.mark.parametrize("shape", [(1001, 1000), (1, 60_000_000), (40_000, 40_000)])
def test_a_pixel_bomb_is_refused_by_its_header(client, shape):
    header = bytearray(PNG)
    width, height = (int(side).to_bytes(4, "big") for side in reversed(shape))
    header[16:24] = width + height
    header[29:33] = __import__("zlib").crc32(header[12:29]).to_bytes(4, "big")
    text = refused(client.post("/predict", content=bytes(header)), 413)
    assert "pixels" in text


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000)])
def test_an_image_with_a_side_that_the_core_does_not_take(client, size):
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    text = refused(client.post("/predict", content=file.getvalue()), 422)
    assert "{}x{} pixels".format(*size) in text


def test_too_many_bytes(client):
    data = b"x" * 100_001
    words = "expected at most 100,000 bytes"
    assert f"{words}, got 100,001" in refused(client.post("/predict", content=data), 413)
    assert words in refused(client.post("/predict", files={"image": data}), 413)
    pieces = (data[at : at + 1000] for at in range(0, len(data), 1000))  # of no declared length
    assert words in refused(client.post("/predict", content=pieces), 413)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "image/svg+xml"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_media_types_that_are_not_taken(client, headers):
    text = refused(client.post("/predict", content=PNG, headers=headers), 415)
    assert text.startswith("Content-")


def test_forms_that_hold_no_single_image(client):
    two = [("a", ("a.png", PNG)), ("b", ("b.png", PNG))]
    assert "Too many files" in refused(client.post("/predict", files=two), 400)
    text = "expected an image as a file in the form"
    assert text in refused(client.post("/predict", files={"note": (None, "hello")}), 400)
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/predict", content=b"--y\r\nnonsense", headers=broken), 400)
    refused(
        client.post("/predict", content=PNG, headers={"Content-Type": "multipart/form-data"}), 400
    )
    name = "..\\../etc/pass\nwd\u202e" + "x" * 300 + ".png"
    text = refused(client.post("/predict", files={"image": (name, PNG[:99])}), 422)
    assert len(text) < 250
    assert "etc" not in text


def test_what_older_parsers_of_forms_raise_is_a_bad_request(client, monkeypatch):
    def form(*_args, **_options):
        raise MultipartParseError("expected a boundary")

    monkeypatch.setattr(Request, "form", form)
    text = refused(client.post("/predict", files={"image": ("a.png", PNG)}), 400)
    assert text == "expected a form of type multipart/form-data: expected a boundary"


def test_queries_and_addresses_that_there_are_not(client):
    assert "picture" in refused(client.post("/predict?picture=frame", content=PNG), 422)
    assert "format" in refused(client.post("/predict?format=gif", content=PNG), 422)
    text = refused(client.post("/predict?size=input&pictur=map", content=PNG), 422)
    assert text == "pictur: no such query; there are: format, picture, size"
    assert len(refused(client.post(f"/predict?{'x' * 9000}", content=PNG), 422)) < 200
    refused(client.get("/predict"), 405)
    refused(client.get("/nowhere"), 404)
    refused(client.get("/predict/"), 404)
    text = client.get("/metrics").text
    assert 'diffusionad_requests_total{path="other",status="404"} 2' in text
    assert "nowhere" not in text


# ---- many at a time -----------------------------------------------------------------------------


def test_results_are_the_same_in_any_batch(client, model):
    images = [pixels(seed) for seed in range(24)]
    expected = model.predict(images, batch_size=1).scores
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda image: client.post("/predict", content=encoded(image)), images)
        )
    assert [answer.json()["score"] for answer in answers] == list(expected)
    text = client.get("/metrics").text
    assert 'diffusionad_requests_total{path="/predict",status="200"} 24' in text
    batches = int(re.search(r"diffusionad_batch_images_count (\d+)", text)[1])
    assert "diffusionad_batch_images_sum 24" in text
    assert batches < 24  # some were looked at together
    assert "diffusionad_predict_seconds_count 24" in text
    assert 'diffusionad_predict_seconds_bucket{le="+Inf"} 24' in text
    assert "diffusionad_queue_images 0" in text


class Slow:
    """A model that waits for permission; it notes the batches."""

    def __init__(self, model: dad.DiffusionAD) -> None:
        self.model, self.config, self.threshold = model, model.config, model.threshold
        self.go = threading.Event()
        self.sizes: list[int] = []

    def predict(self, images: list[np.ndarray], batch_size: int) -> object:
        assert self.go.wait(300)
        self.sizes.append(len(images))
        return self.model.predict(images, batch_size=batch_size)


def test_more_than_the_queue_holds_is_told_to_come_again(model):
    slow = Slow(model)
    service = Service(slow, "m", Limits(queue=3))
    with TestClient(service.app()) as client, ThreadPoolExecutor(3) as pool:
        held = [pool.submit(client.post, "/predict", content=PNG) for _ in range(3)]
        deadline = time.monotonic() + 300
        while service.inside < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        answer = client.post("/predict", content=PNG)
        assert "try again" in refused(answer, 503)
        assert answer.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        assert "diffusionad_requests_in_progress 3" in client.get("/metrics").text
        slow.go.set()
        assert [one.result().status_code for one in held] == [200, 200, 200]
        assert client.post("/predict", content=PNG).status_code == 200


@pytest.mark.parametrize("reads", [True, False])
def test_a_place_is_held_until_the_answer_has_been_taken(model, monkeypatch, reads):
    """Or given up: an answer that its client does not read takes memory for so long only."""
    monkeypatch.setattr(app, "map_png", lambda *_: bytes(30_000_000))  # more than sockets hold
    limits = Limits(queue=1) if reads else Limits(queue=1, body_seconds=1.5)
    with running(model, limits) as url, connected(url) as connection:
        head = "POST /predict?format=png&picture=map HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(f"{head}Content-Length: {len(PNG)}\r\n\r\n".encode() + PNG)
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert httpx2.post(f"{url}/predict", content=PNG).status_code == 503
        if reads:
            size = 0
            while piece := connection.recv(1_000_000):
                size += len(piece)
            assert size > 30_000_000
        assert answered(url).status_code == 200


def test_an_answer_is_encoded_beside_the_event_loop(model, monkeypatch):
    threads = []
    whole = app.data_url

    def noted(png: bytes) -> str:
        threads.append(threading.current_thread().name)
        return whole(png)

    monkeypatch.setattr(app, "data_url", noted)
    with TestClient(Service(model, "m", Limits()).app()) as client:
        assert client.post("/predict?picture=map", content=PNG).status_code == 200
    assert [name.partition("_")[0] for name in threads] == ["decode"]


def test_a_batch_takes_what_waits_up_to_its_size(model):
    slow = Slow(model)
    sizes: list[int] = []
    batcher = Batcher(slow, most=4, wait=0.0, observe=sizes.append)
    futures = [batcher.submit(pixels(0, SIDE, SIDE)) for _ in range(9)]
    futures[1].cancel()
    slow.go.set()
    batcher.start()
    batcher.stop()
    assert sizes == slow.sizes == [3, 4, 1]
    assert not batcher.alive
    done = [future.result(0).score for future in futures if not future.cancelled()]
    assert len(done) == 8
    assert len(set(done)) == 1


def test_a_model_that_fails_is_one_line_and_the_next_request_works(model, monkeypatch):
    slow = Slow(model)
    slow.go.set()
    with TestClient(Service(slow, "m", Limits()).app(), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(slow, "predict", lambda *_, **__: 1 / 0)
            assert "ZeroDivisionError" in refused(client.post("/predict", content=PNG), 500)
        assert client.post("/predict", content=PNG).status_code == 200


def test_a_body_that_does_not_arrive(model):
    with running(model, Limits(body_seconds=0.2)) as url, connected(url) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc")
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_takes_nothing_with_it(model):
    with running(model, Limits(queue=1)) as url:
        with connected(url) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc"
            )
        assert answered(url).status_code == 200


# ---- pages --------------------------------------------------------------------------------------


def test_the_page_is_whole_in_itself(client):
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import""", answer.text)
    assert "//" not in re.sub(r"(?m)\s// .*$", "", answer.text)


def test_health_and_schema(client, service):
    assert client.get("/health").json() == {
        "status": "ok", "model": "part.safetensors", "image_size": SIDE, "threshold": 0.5,
        "version": dad.__version__,
    }  # fmt: skip
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert {"multipart/form-data", "image/png"} <= set(operation["requestBody"]["content"])
    assert {"application/json", "image/png"} <= set(operation["responses"]["200"]["content"])
    service.batcher.stop()
    assert client.get("/health").status_code == 503


def test_metrics_are_what_prometheus_reads(client):
    client.post("/predict", content=PNG)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in answer.text.splitlines():
        number = r"-?[0-9.e+-]+"
        assert re.fullmatch(rf'# (HELP|TYPE) \w+ .+|\w+(\{{(\w+="[^"]*",?)+\}})? {number}', line)
    assert 'model_info{model="part.safetensors",version="' in answer.text


# ---- the command --------------------------------------------------------------------------------


class running:
    """A real server in a thread of this process."""

    def __init__(self, model: dad.DiffusionAD, limits: Limits) -> None:
        import uvicorn

        self.listening = command.listening("127.0.0.1", 0)
        app = Service(model, "m", limits).app()
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None))

    def __enter__(self) -> str:
        self.socket = self.listening.__enter__()
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listening.__exit__(None, None, None)


def connected(url: str) -> socket.socket:
    parts = httpx2.URL(url)
    made = socket.create_connection((parts.host, parts.port))
    made.settimeout(300)
    return made


def answered(url: str) -> httpx2.Response:
    """The answer, also where the one place is still taken by a request that has just ended."""
    for _ in range(200):
        answer = httpx2.post(f"{url}/predict", content=PNG)
        if answer.status_code != 503:
            break
        time.sleep(0.02)
    return answer


@contextmanager
def serving_process(file) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command, and what it says once it serves; it is killed where it still runs at the end."""
    arguments = ("serve", file, "--port", "0", "--json", "-", "--max-batch", "4")
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusionad", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        lines = ""
        while not lines.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines += line
        yield process, json.loads(lines)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command_serves_until_a_signal(model, tmp_path, number, code):
    model.save(tmp_path / "part.safetensors")
    with serving_process(tmp_path / "part.safetensors") as (process, told):
        assert told["threshold"] == 0.5
        answer = httpx2.post(f"{told['url']}/predict", files={"image": PNG})
        assert answer.json()["score"] == model.predict([pixels(0)]).scores[0]
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == code
    assert errors.splitlines() == (
        ["diffusionad serve: interrupted; what was finished is kept"] if code else []
    )


def test_a_request_under_way_is_answered_before_the_end(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    with serving_process(tmp_path / "m.safetensors") as (process, told):
        address = urlsplit(told["url"])
        with socket.create_connection((address.hostname, address.port), timeout=300) as client:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n"
            client.sendall(head.encode() + PNG[:9])
            assert httpx2.get(f"{told['url']}/health").status_code == 200  # it has been taken
            process.send_signal(signal.SIGTERM)
            while process.poll() is None and not refuses(address):
                time.sleep(0.02)  # until the signal has been heard
            client.sendall(PNG[9:])
            answer = b""
            while part := client.recv(1 << 16):
                answer += part
        _, errors = process.communicate(timeout=300)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["score"] == pytest.approx(
        model.predict([pixels(0)]).scores[0]
    )
    assert (process.returncode, errors) == (0, "")


def refuses(address) -> bool:
    try:
        socket.create_connection((address.hostname, address.port), timeout=300).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_address_that_cannot_be_had_is_one_line(capsys, model, tmp_path):
    file = tmp_path / "m.safetensors"
    model.save(file)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "address already in use" in fails(capsys, 2, "serve", file, "--port", port)
    assert "no such address" in fails(capsys, 2, "serve", file, "--host", "no such host")
    assert "no such file" in fails(capsys, 2, "serve", tmp_path / "none.safetensors")


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_other_addresses_than_loopback_are_warned_of(
    capsys, model, tmp_path, monkeypatch, host, warned
):
    monkeypatch.setattr(command.uvicorn.Server, "run", lambda *_, **__: None)
    model.save(tmp_path / "m.safetensors")
    assert run("serve", tmp_path / "m.safetensors", "--host", host, "--port", 0) == 0
    captured = capsys.readouterr()
    assert f"m.safetensors at http://{host}:" in captured.out
    assert ("no password" in captured.err) == warned


def test_a_threshold_of_tiles_is_warned_of(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command.uvicorn.Server, "run", lambda *_, **__: None)
    made = dad.DiffusionAD(preset="compact", image_size=SIDE)
    for noted, warned in (("tiles of 32 px, overlap 0.25", True), ("whole images", False)):
        made.threshold = 0.5
        made.provenance["calibrated_on"] = noted
        made.save(tmp_path / "m.safetensors")
        assert run("serve", tmp_path / "m.safetensors", "--port", 0) == 0
        said = capsys.readouterr().err
        assert ("the threshold was set on tiles of 32 px" in said) == warned


def test_without_the_extra_one_line_says_what_to_install(capsys, model, tmp_path, monkeypatch):
    model.save(tmp_path / "m.safetensors")
    for name in ("diffusionad.serving.command", "diffusionad.serving.app"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(dad.serving, "command")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = fails(capsys, 1, "serve", tmp_path / "m.safetensors")
    assert "pip install 'diffusionad[serve]'" in line


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--port", "65536", "from 0 to 65535"),
        ("--max-batch", "0", "from 1 to 256"),
        ("--max-megapixels", "90", "from 1 to 89"),
        ("--max-upload", "16 monkeys", "expected a size such as 500kB or 16MB"),
        ("--max-upload", "0", "expected a size"),
        ("--max-wait", "soon", "expected a time such as 5ms"),
        ("--max-wait", "1e9", "expected a time such as 5ms"),
    ],
)
def test_bad_options_are_one_line(capsys, option, value, words):
    assert words in fails(capsys, 2, "serve", "m", option, value)


def test_sizes_and_times():
    sizes = {"1": 1, "16MB": 16_000_000, "500 kb": 500_000, "1.5G": 1_500_000_000, "7b": 7}
    assert {text: arguments.parse_size(text) for text in sizes} == sizes
    times = {"5ms": 0.005, "0": 0.0, "0.1s": 0.1, "60": 60.0}
    assert {text: arguments.parse_wait(text) for text in times} == times
