"""The service as an ASGI application: OpenAI's images API over one pipeline.

    app = create_service(Pipeline.from_pretrained())

`server` runs it; any other ASGI server can. One process draws: more of them would hold the weights
several times and could not draw together.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Body, FastAPI, Form, Request, Response, UploadFile
from fastapi.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from .._version import __version__
from ..errors import ConfigError, DalleMiniError
from ..generation import GenerationOverrides, Sampler
from ..generation.watermark import SCHEME, Watermark
from ..images import open_image
from ..pipeline.guarding import guarded
from ..pipeline.pipeline import Pipeline
from ..pipeline.signing import C2PASigner
from ..safety.checker import SafetyChecker, describe_checker
from . import openapi
from .api import (
    Asked,
    EditRequest,
    GenerationRequest,
    Health,
    ImagesResponse,
    VariationRequest,
)
from .batcher import Batcher
from .config import ServiceConfig
from .docs_page import docs_page
from .errors import ServiceError, add_handlers, refuse
from .guards import Counting, Guard
from .limits import MOST_PIXELS
from .mask import clear_parts
from .metrics import Metrics
from .order import Order
from .room import count_rows
from .sizes import find_sizes
from .ticket import Ticket

MOST_WINDOWS = 4  # times the model's own tokens, that a picture that is sent may become

Result = TypeVar("Result")


def create_service(
    pipe: Pipeline,
    *,
    config: ServiceConfig | None = None,
    api_key: str | None = None,
    sampler: Sampler | None = None,
    safety_checker: SafetyChecker | Literal["usual"] | None = "usual",
    watermark: Watermark | None = None,
    c2pa: C2PASigner | None = None,
) -> FastAPI:
    """Make the service of a pipeline.

    Its drawing thread runs from the start of the application to its end, by ASGI's lifespan.

    Args:
        pipe: draws; meanwhile it must not be moved or changed.
        config: limits; the defaults when None.
        api_key: asked for under /v1/; None asks for none.
        sampler: chooses the tokens, instead of the pipeline's settings.
        safety_checker: asked about prompts and pictures; "usual" is the pipeline's own, or
            `usual_checker()` where it has none; None is none.
        watermark: a key whose mark all pictures get.
        c2pa: signs the files of all finished pictures.

    Raises:
        ConfigError: `api_key` is empty, or nothing that a header can hold.
        InputTypeError: the sampler cannot be called with logits and a state; or what is given as a
            safety checker or watermark is none.
    """
    service = Service(
        guarded(pipe, safety_checker),
        config or ServiceConfig(),
        sampler,
        watermark=watermark,
        c2pa=c2pa,
    )
    app = FastAPI(
        title="dallemini",
        version=__version__,
        description=f"Text to image in the shape of OpenAI's images API. {service.safeguards}",
        lifespan=service.lifespan,
        docs_url=None,  # the pages of FastAPI ask a server far away for their scripts
        redoc_url=None,
    )
    app.state.batcher = service.batcher
    _add_drawing(app, service)
    _add_reports(app, service)
    add_handlers(app)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    limits = service.config
    app.add_middleware(
        Guard,
        api_key=check_key(api_key),
        max_upload=limits.max_upload,
        max_body=limits.max_body,
    )
    app.add_middleware(Counting, count=service.metrics.count, paths=paths)
    openapi.describe(app, limits, sizes=service.sizes, model=pipe.name, has_key=bool(api_key))
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            # which monitors send; after the description, to which it would add nothing
            route.methods |= {"HEAD"}
    return app


class Service:
    """One pipeline, its batcher, and what requests are made of them.

    Args:
        pipe: draws.
        config: limits.
        sampler: instead of the pipeline's settings.
        watermark: a key whose mark all pictures get.
        c2pa: signs the files of all finished pictures.
    """

    def __init__(
        self,
        pipe: Pipeline,
        config: ServiceConfig,
        sampler: Sampler | None,
        *,
        watermark: Watermark | None = None,
        c2pa: C2PASigner | None = None,
    ) -> None:
        self.pipe, self.config = pipe, config
        self.sampler, self.watermark, self.c2pa = sampler, watermark, c2pa
        self.sizes = find_sizes(pipe)
        # which has the settings of the pipeline, and the mark
        usual = pipe._request("", sampler, {"num_images_per_prompt": 1, "seed": 0}, watermark)
        self.batcher = Batcher(
            pipe.transformer,
            usual.sampler,
            num_codes=pipe.vqgan.codebook_size,
            most_rows=count_rows(pipe, config),
            most_waiting=config.max_waiting,
        )
        self.metrics = Metrics(self.batcher)
        self._preparing = threading.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the drawing thread."""
        self.batcher.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.batcher.close, self.config.timeout)

    async def respond(self, request: Request, asked: Asked, pictures: Order) -> Any:
        """Draw pictures and answer with them.

        Raises:
            BusyError: too many pictures wait, or the service is ending.
            ServiceError: the time was up, drawing failed, or the client hung up.
        """
        looks = (asked.partial_images or 0) if asked.stream else 0
        kind = "image_generation" if isinstance(asked, GenerationRequest) else "image_edit"
        ticket = Ticket(
            self.batcher, self.metrics, timeout=self.config.timeout, kind=kind, c2pa=self.c2pa
        )
        ticket.submit(pictures, client=_client(request), looks=looks)
        if asked.stream:
            return _Events(ticket)
        try:
            return await _unless_gone(request, ticket.collect())
        finally:
            ticket.close()

    def settings(self, asked: Asked) -> GenerationOverrides:
        """Return the settings that a request asks for, those it leaves out as the model's.

        Raises:
            ServiceError: it asks for something that there is not.
        """
        if asked.model not in (None, self.pipe.name):
            raise ServiceError(
                404,
                f"The model {asked.model!r:.80} is not served here, but {self.pipe.name!r} is.",
                param="model",
                code="model_not_found",
            )
        if (asked.n or 1) > self.config.max_images:
            most = self.config.max_images
            raise ServiceError(400, f"n must be at most {most}, not {asked.n}.", param="n")
        settings: GenerationOverrides = {"num_images_per_prompt": asked.n or 1, "seed": asked.seed}
        if asked.size not in (None, "auto"):
            settings |= self._size_of(asked)
        if asked.guidance_scale is not None:
            settings["guidance_scale"] = asked.guidance_scale
        return settings

    def _size_of(self, asked: Asked) -> GenerationOverrides:
        """Return the size of the pictures that a request asks for.

        Raises:
            ServiceError: it is not drawn.
        """
        sizes = self.sizes
        if not isinstance(asked, GenerationRequest):
            sizes = sizes.own  # an edit is as large as its picture
        found = sizes.read(str(asked.size))
        if found is None:
            raise ServiceError(
                400,
                f"This model draws {sizes}, not {asked.size!r:.80}; leave size out.",
                param="size",
            )
        return {} if found == sizes.first else {"width": found[0], "height": found[1]}

    @property
    def safeguards(self) -> str:
        """What is checked, and what mark the pictures get, in words for clients."""
        mark = "no watermark" if self.watermark is None else f"a watermark ({SCHEME})"
        checked = describe_checker(self.pipe.safety_checker)
        signed = "not signed" if self.c2pa is None else "signed (C2PA)"
        return f"Safety check: {checked}. The pictures have {mark}, and are {signed}."

    @property
    def for_orders(self) -> dict[str, Any]:
        """What all orders have in common."""
        return {"sampler": self.sampler, "watermark": self.watermark}

    def check_prompt(self, prompt: str, *, may_be_empty: bool = False) -> str:
        """Return a prompt that says something and is short enough.

        Raises:
            ServiceError: it does not, or is not.
        """
        if not (prompt.strip() or may_be_empty):
            raise ServiceError(
                400, "The prompt is empty; say in words what to draw.", param="prompt"
            )
        most = self.config.max_prompt_length
        if len(prompt) > most:
            raise ServiceError(
                400,
                f"The prompt must have at most {most} characters, not {len(prompt)}.",
                param="prompt",
                code="prompt_too_long",
            )
        return prompt

    async def open(self, upload: UploadFile, name: str, *, keep_alpha: bool = False) -> Any:
        """Open a picture that was sent.

        Raises:
            ServiceError: it is none, or has too many pixels.
        """
        content = await upload.read()
        try:
            return await asyncio.to_thread(
                open_image, content, max_pixels=MOST_PIXELS, keep_alpha=keep_alpha
            )
        except DalleMiniError as error:
            raise ServiceError(400, str(error), param=name) from error

    async def prepare(self, make: Callable[[], Order]) -> Order:
        """Check a request aside from the event loop, one at a time: pictures may be encoded.

        Raises:
            ServiceError: the library or the safety checker does not accept it.
        """

        def check() -> Order:
            with self._preparing:
                order = make()
                _ = order.call  # which looks at the prompt
                return order

        try:
            pictures = await asyncio.to_thread(check)
        except DalleMiniError as error:
            raise refuse(error) from error
        places, most = pictures.pictures[0].tokens, self.pipe.transformer.config.image_length
        if len(places) > MOST_WINDOWS * most:
            raise ServiceError(
                400, "The picture is too long and narrow; cut it to at most 4:1.", param="image"
            )
        return pictures


def check_key(api_key: str | None) -> str | None:
    """Return a key that clients can send.

    Raises:
        ConfigError: it is empty or not in printable ASCII without spaces.
    """
    plain = api_key is None or (api_key.isascii() and api_key.isprintable())
    if api_key is not None and not (plain and api_key.split() == [api_key]):
        raise ConfigError(
            "The API key must be printable ASCII without spaces, and not empty; leave it out to "
            "ask for none."
        )
    return api_key


class _Events(StreamingResponse):
    """Server-sent events; whoever hangs up is forgotten, however early."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(
            ticket.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.close()


def _add_drawing(app: FastAPI, service: Service) -> None:
    """Add what pictures are asked for by."""

    @app.post("/v1/images/generations", tags=["images"], summary="Draw pictures from a prompt")
    async def generations(
        request: Request, asked: Annotated[GenerationRequest, Body()]
    ) -> ImagesResponse:
        prompt, settings = service.check_prompt(asked.prompt), service.settings(asked)
        pictures = await service.prepare(
            lambda: Order.of(service.pipe, prompt, **service.for_orders, **settings)
        )
        response: ImagesResponse = await service.respond(request, asked, pictures)
        return response

    @app.post("/v1/images/edits", tags=["images"], summary="Redraw a part of a picture")
    async def edits(request: Request, asked: Annotated[EditRequest, Form()]) -> ImagesResponse:
        prompt, settings = service.check_prompt(asked.prompt), service.settings(asked)
        image = await service.open(asked.image, "image")
        name, upload = ("image", asked.image) if asked.mask is None else ("mask", asked.mask)
        await upload.seek(0)
        mask = clear_parts(await service.open(upload, name, keep_alpha=True), name)
        pictures = await service.prepare(
            lambda: Order.inpaint(
                service.pipe, prompt, image, mask, **service.for_orders, **settings
            )
        )
        response: ImagesResponse = await service.respond(request, asked, pictures)
        return response

    @app.post("/v1/images/variations", tags=["images"], summary="Redraw regions of a picture")
    async def variations(
        request: Request, asked: Annotated[VariationRequest, Form()]
    ) -> ImagesResponse:
        prompt = service.check_prompt(asked.prompt, may_be_empty=True)
        settings = service.settings(asked)
        image = await service.open(asked.image, "image")
        pictures = await service.prepare(
            lambda: Order.vary(
                service.pipe, image, prompt, asked.strength, **service.for_orders, **settings
            )
        )
        response: ImagesResponse = await service.respond(request, asked, pictures)
        return response


def _add_reports(app: FastAPI, service: Service) -> None:
    """Add what the service says of itself."""

    @app.get(
        "/health",
        tags=["service"],
        summary="Whether the service draws",
        responses={503: {"model": Health, "description": "It is ending, or has failed."}},
    )
    async def health(response: Response) -> Health:
        batcher = service.batcher
        response.status_code = 200 if batcher.is_ready else 503
        return Health(
            status="ok" if batcher.is_ready else "unavailable",
            model=service.pipe.name,
            drawing=batcher.drawing,
            waiting=batcher.waiting,
            safety=describe_checker(service.pipe.safety_checker),
            watermark=None if service.watermark is None else SCHEME,
            c2pa=service.c2pa is not None,
        )

    @app.get("/", include_in_schema=False)
    async def front() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get(
        "/metrics",
        tags=["service"],
        summary="Counters for Prometheus",
        response_class=PlainTextResponse,
    )
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Wait for something as long as the client does.

    Raises:
        ServiceError: it hung up.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServiceError(499, "The client hung up.")
        return await task
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _client(request: Request) -> str:
    return request.client.host if request.client else ""
