"""The web application: what each address answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusionad import __version__, system
from diffusionad.console import printable
from diffusionad.errors import InputError, TooManyPixels
from diffusionad.serving.batching import Batcher, Scored
from diffusionad.serving.counters import Counters
from diffusionad.serving.limits import Limits
from diffusionad.serving.pictures import data_url, map_png, overlay_png
from diffusionad.serving.uploads import FORM, TYPES, Decoded, decode, read_upload

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

# Images decoded at a time. Each takes 18 to 24 bytes a pixel meanwhile, 16-bit grey the most.
MOST_DECODERS = 4
HELD = "diffusionad.held"  # in a request's scope
QUERIES = ("format", "picture", "size")  # of a request for a prediction
PIECE = 65_536  # bytes of an answer that are sent before it waits for the client to take them
# The page loads nothing from anywhere, and no other page may frame it.
PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'"
)
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILE_FORM = {"schema": {"type": "object", "properties": {"image": BINARY["schema"]}}}
PREDICT_DOCS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {FORM: FILE_FORM, **{kind: BINARY for kind in sorted(TYPES)}},
    }
}


class Result(BaseModel):
    """What the model says of one image."""

    score: float = Field(description="higher where more anomalous")
    label: int | None = Field(description="1 where the score reaches the threshold, else 0")
    threshold: float | None = Field(description="the model's; null without one")
    width: int = Field(description="of the image, pixels")
    height: int = Field(description="of the image, pixels")
    seconds: float = Field(description="from the request to this answer")
    model: str = Field(description="name of the model's file")
    picture: str | None = Field(description="a PNG as data URL, where asked for")


class Service:
    """A model with its name and limits, and everything that one server needs to answer."""

    def __init__(self, model: DiffusionAD, name: str, limits: Limits) -> None:
        self.model = model
        self.name = name
        self.limits = limits
        self.counters = Counters()
        self.batcher = Batcher(model, limits.batch, limits.wait, self.counters.batches.observe)
        self.pool = ThreadPoolExecutor(min(MOST_DECODERS, system.processors()), "decode")
        self.inside = 0  # requests for a prediction; only the event loop's thread counts them
        self.html = resources.files(__package__).joinpath("page.html").read_text("utf-8")

    def app(self) -> FastAPI:
        """The application, whose model runs from its start-up to its shut-down."""
        app = FastAPI(
            title="diffusionad",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,  # these pages load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
        )
        app.add_middleware(_Counted, counters=self.counters)
        app.add_middleware(_Holding)
        app.add_api_route("/", self.page, include_in_schema=False)
        app.add_api_route("/health", self.health)
        app.add_api_route("/metrics", self.metrics, response_class=PlainTextResponse)
        app.add_api_route(
            "/predict", self.predict, methods=["POST"], response_model=Result,
            openapi_extra=PREDICT_DOCS, responses={200: {"content": {"image/png": BINARY}}},
        )  # fmt: skip
        app.add_exception_handler(StarletteHTTPException, _http_error)
        app.add_exception_handler(RequestValidationError, _invalid_query)
        app.add_exception_handler(InputError, _input_error)
        app.add_exception_handler(ClientDisconnect, _gone)
        app.add_exception_handler(Exception, _failed)
        return app

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.batcher.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.batcher.stop)
            self.pool.shutdown()

    async def page(self) -> HTMLResponse:
        """The page for operators."""
        return HTMLResponse(self.html, headers={"Content-Security-Policy": PAGE_POLICY})

    async def health(self) -> JSONResponse:
        """Whether the model answers, and which one it is; 503 where it does not."""
        alive = self.batcher.alive
        about = {
            "status": "ok" if alive else "stopped",
            "model": self.name,
            "image_size": self.model.config.image_size,
            "threshold": self.model.threshold,
            "version": __version__,
        }
        return JSONResponse(about, 200 if alive else 503)

    async def metrics(self) -> PlainTextResponse:
        """Numbers in the text format of Prometheus."""
        text = self.counters.text(self.name, __version__, self.batcher.waiting, self.inside)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def predict(
        self,
        request: Request,
        format: Annotated[
            Literal["json", "png"] | None, Query(description="json unless Accept asks for a PNG")
        ] = None,
        picture: Annotated[
            Literal["map", "overlay"] | None,
            Query(description="map: 16-bit grey, value times 65535; overlay: colours on the image"),
        ] = None,
        size: Annotated[
            Literal["model", "input"],
            Query(description="a map has the model's size, or that of its image"),
        ] = "model",
    ) -> Any:
        """Score the image in the body: the bytes of a file, or a form with a file in it."""
        start = time.perf_counter()
        _refuse_other_queries(request)
        try:
            request.scope[HELD].enter_context(self._place())
            as_png = _wants_png(request, format)
            wanted = picture or ("overlay" if as_png else None)
            image = await self._image(request, show=wanted == "overlay")
            scored = await asyncio.wrap_future(self.batcher.submit(image.pixels))
            png = b""
            if wanted is not None:
                png = await self._run(self._draw, image, scored, wanted, size)
        finally:
            seconds = time.perf_counter() - start
            self.counters.seconds.observe(seconds)
        self.counters.labels["none" if scored.label is None else str(scored.label)] += 1
        if as_png:
            label = "null" if scored.label is None else str(scored.label)
            said = {"X-Score": repr(scored.score), "X-Label": label}
            return _Answer(png, self.limits.body_seconds, "image/png", said)
        result = Result(
            score=scored.score,
            label=scored.label,
            threshold=self.model.threshold,
            width=image.width,
            height=image.height,
            seconds=seconds,
            model=self.name,
            picture=None,
        )
        body = await self._run(_encoded, result, png)
        return _Answer(body, self.limits.body_seconds, "application/json")

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for requests, whose number bounds what bodies, images, answers take."""
        if self.inside >= self.limits.queue:
            text = f"{self.inside} requests are under way, no more are taken; try again"
            raise HTTPException(503, text, headers={"Retry-After": "1"})
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def _image(self, request: Request, show: bool) -> Decoded:
        limits = self.limits
        try:
            name, data = await asyncio.wait_for(
                read_upload(request, limits.upload), limits.body_seconds
            )
        except asyncio.TimeoutError as error:
            text = f"the image did not arrive within {limits.body_seconds:g} seconds"
            raise HTTPException(408, text) from error
        side, pixels = self.model.config.image_size, limits.megapixels * 1_000_000
        decoded: Decoded = await self._run(decode, data, name, pixels, side, show)
        return decoded

    def _draw(self, image: Decoded, scored: Scored, picture: str, size: str) -> bytes:
        if picture == "map":
            return map_png(scored.map, (image.height, image.width) if size == "input" else None)
        assert image.shown is not None
        return overlay_png(image.shown, scored.map, self.model.threshold)

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)


class _Counted:
    """Counts answers by path and status; addresses that there are not count as one."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self.app = app
        self.counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if "route" in scope else "other"
                self.counters.requests[path, message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counting)


class _Holding:
    """Lets a request hold what is in scope[HELD], its place, until its answer has been sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as scope[HELD]:
            await self.app(scope, receive, send)


class _Answer(Response):
    """An answer that is sent as fast as its client takes it, and given up after `seconds`."""

    def __init__(
        self, content: bytes, seconds: float, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, media_type=kind, headers=headers)
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.TimeoutError):  # the server then ends what is not whole
            await asyncio.wait_for(self._send(send), self.seconds)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for first in range(0, len(self.body), PIECE):
            piece = self.body[first : first + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # lets the server see that a client has gone
        await send({"type": "http.response.body", "body": b""})


def _encoded(result: Result, png: bytes) -> bytes:
    """The result as JSON, with its picture where there is one."""
    picture = data_url(png) if png else None
    return json.dumps({**result.model_dump(), "picture": picture}, allow_nan=False).encode()


def _refuse_other_queries(request: Request) -> None:
    """Raise HTTPException for a name that would be passed over."""
    for name in request.query_params:
        if name not in QUERIES:
            known = ", ".join(QUERIES)
            raise HTTPException(422, f"{printable(name)[:100]}: no such query; there are: {known}")


def _wants_png(request: Request, format: str | None) -> bool:
    accepted = request.headers.get("accept", "").lower()
    named = any(kind.partition(";")[0].strip() == "image/png" for kind in accepted.split(","))
    return format == "png" or (format is None and named)


# ---- errors: one line as JSON -----------------------------------------------------------------


def _error(status: int, text: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split())}, status, headers)


async def _http_error(_: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail), error.headers)


async def _invalid_query(_: Request, error: Any) -> Response:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return _error(422, f"{name}: {first['msg']}")


async def _input_error(_: Request, error: Exception) -> Response:
    return _error(413 if isinstance(error, TooManyPixels) else 422, str(error))


async def _gone(_: Request, __: Exception) -> Response:
    return _error(400, "the request ended before its body did")


async def _failed(_: Request, error: Exception) -> Response:
    # Starlette raises it once more behind this answer, so that the server logs it.
    return _error(500, f"internal error: {type(error).__name__}; the server's log has more")
