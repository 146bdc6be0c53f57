"""What the service is asked and what it answers, in the shape of OpenAI's images API.

Where a field is not in that API, its description says so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_PREVIEWS = 3
PREVIEW_EVENT, FINISHED_EVENT = "partial_image", "completed"
EVENTS = tuple(
    f"{kind}.{event}"
    for kind in ("image_generation", "image_edit")
    for event in (PREVIEW_EVENT, FINISHED_EVENT)
)
LARGEST_SEED = 2**53 - 1  # which every reader of JSON holds exactly


def _whole(value: Any) -> Any:
    """Return 2.0 as 2, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)


class Asked(BaseModel):
    """What every kind of request may say. A field that is null is as one left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str | None, Field(description="Of the served model; it may be left out.")] = (
        None
    )
    n: Annotated[
        Annotated[int, Field(ge=1), _WHOLE] | None, Field(description="Pictures; 1 if left out.")
    ] = None
    size: Annotated[
        str | None, Field(description="Pixels: 'auto' for those that the model draws.")
    ] = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    user: Annotated[str | None, Field(max_length=256, description="Accepted, and not used.")] = None
    seed: Annotated[
        Annotated[int, Field(ge=0, le=LARGEST_SEED), _WHOLE] | None,
        Field(
            description="Of the first picture, the next ones count up; fresh if left out. Not in "
            "OpenAI's API.",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        Field(
            ge=0,
            le=1000,
            description="How far the prompt pushes; the model's own if left out. Not in OpenAI's "
            "API.",
        ),
    ] = None
    stream: Annotated[
        bool | None, Field(description="Answer by server-sent events, as pictures come.")
    ] = None
    partial_images: Annotated[
        Annotated[int, Field(ge=0, le=MOST_PREVIEWS), _WHOLE] | None,
        Field(description="Previews of each picture, if it is a stream."),
    ] = None


class GenerationRequest(Asked):
    """Draw pictures from a prompt."""

    size: Annotated[
        str | None,
        Field(
            description="Pixels as 'WIDTHxHEIGHT', each a multiple of a token's from the model's "
            "own number to twice that; 'auto' for those that the model draws."
        ),
    ] = None

    prompt: Annotated[str, Field(min_length=1, description="What the pictures are to show.")]


class _Form(Asked):
    """What a form may say, whose fields are text."""

    model_config = ConfigDict(extra="forbid", strict=False)

    image: Annotated[UploadFile, Field(description="The picture, of at most 4:1.")]


class EditRequest(_Form):
    """Redraw a part of a picture."""

    prompt: Annotated[str, Field(min_length=1, description="What the whole picture shows.")]
    mask: Annotated[
        UploadFile | None,
        Field(
            description="A picture of the same size; what is transparent is redrawn. Without it, "
            "what is transparent of the image itself is."
        ),
    ] = None


class VariationRequest(_Form):
    """Redraw some regions of a picture, which the seed chooses."""

    prompt: Annotated[str, Field(description="What it shows. Not in OpenAI's API.")] = ""
    strength: Annotated[
        float, Field(gt=0, le=1, description="Share that is redrawn. Not in OpenAI's API.")
    ] = 0.5


_Safety = Annotated[
    str | None,
    Field(
        description="What the safety check did to it for which reason; null where it passed or "
        "nothing was checked. Not in OpenAI's API."
    ),
]
_Mark = Annotated[
    str | None,
    Field(description="What kind of watermark it has; null for none. Not in OpenAI's API."),
]


class Image(BaseModel):
    """A picture."""

    b64_json: Annotated[str, Field(description="A PNG file that says how it was drawn.")]
    seed: Annotated[int, Field(description="Draws it again, alone. Not in OpenAI's API.")]
    safety: _Safety = None


class ImagesResponse(BaseModel):
    """The pictures of a request, in the order of their seeds."""

    created: int
    data: list[Image]
    output_format: Literal["png"] = "png"
    size: str
    watermark: _Mark = None


class ErrorDetail(BaseModel):
    """What went wrong: `message` for people, `type` and `code` for programs."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorResponse(BaseModel):
    """The answer to what cannot be done."""

    error: ErrorDetail


class Health(BaseModel):
    """How the service is."""

    status: Literal["ok", "unavailable"]
    model: str
    drawing: int
    waiting: int
    safety: Annotated[str, Field(description="What is checked; 'off' for nothing.")]
    watermark: _Mark = None
    c2pa: Annotated[bool, Field(description="Whether finished pictures are signed.")] = False


class ImageEvent(BaseModel):
    """The data of a server-sent event: a preview, or a finished picture.

    `index` says which of the n pictures it is, which OpenAI's API has no field for.
    """

    type: str
    b64_json: str
    index: int
    seed: int
    partial_image_index: int | None = None
    created_at: int
    size: str
    output_format: Literal["png"] = "png"
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    safety: _Safety = None
    watermark: _Mark = None
