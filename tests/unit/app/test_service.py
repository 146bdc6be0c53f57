"""The service over a socket of this machine: pictures, events, refusals, limits, and its end."""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app_service import GENERATIONS, Served, serving, wait_until
from certificates import make_signer
from dallemini import Pipeline, SafetyFlag, Watermark, WordSafetyChecker
from dallemini.app.config import ServiceConfig
from dallemini.app.service import create_service
from dallemini.app.sizes import Sizes, find_sizes
from dallemini.errors import ConfigError, DalleMiniWarning
from dallemini.pipeline.signing import read_credentials
from dallemini.testing import TINY_TRANSFORMER, tiny_transformer


def decode(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def events(body: bytes) -> Iterator[tuple[str, Any]]:
    for block in body.decode().split("\n\n")[:-1]:
        kind, data = block.split("\n")
        yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def number(served: Served, name: str) -> float:
    """Return what /metrics says."""
    lines = served.ask(path="/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_pictures_are_those_of_the_pipeline(shared: Served, pipe: Pipeline) -> None:
    body = {"prompt": "a red apple", "n": 3, "seed": 5, "size": "16x16", "model": "tiny"}
    reply = shared.ask(body | {"response_format": "b64_json", "user": "me", "output_format": None})
    assert reply.status == 200, reply.body
    alone = pipe("a red apple", num_images_per_prompt=3, seed=5, progress=False)
    assert (reply.json["size"], len(reply.json["data"])) == ("16x16", 3)
    for index, found in enumerate(reply.json["data"]):
        picture = decode(found["b64_json"])
        assert found["seed"] == 5 + index
        assert picture.tobytes() == alone.images[index].tobytes()
        told = alone.metadata(index) | {"sampler": "Gate"}
        assert told.items() <= picture.info.items()
        assert b"trainedAlgorithmicMedia" in picture.info["xmp"]


def test_requests_at_once_are_drawn_together(shared: Served, pipe: Pipeline) -> None:
    shared.gate.shut()
    waits = [
        shared.ask_later({"prompt": prompt, "seed": seed, "guidance_scale": 2})
        for seed, prompt in enumerate(["a bird", "a rocket", "a red apple"])
    ]
    wait_until(lambda: shared.batcher.drawing + shared.batcher.waiting == 3)
    shared.gate.open()
    for seed, (wait, prompt) in enumerate(
        zip(waits, ["a bird", "a rocket", "a red apple"], strict=True)
    ):
        (found,) = wait().json["data"]
        alone = pipe(prompt, seed=seed, guidance_scale=2, progress=False).images[0]
        assert decode(found["b64_json"]).tobytes() == alone.tobytes()


def test_a_seed_is_chosen_where_none_is_given(shared: Served) -> None:
    seeds = {shared.ask({"prompt": "a cat"}).json["data"][0]["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_previews_come_as_events(shared: Served, pipe: Pipeline) -> None:
    body = {"prompt": "a red apple", "n": 2, "seed": 5, "stream": True, "partial_images": 3}
    reply = shared.ask(body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = list(events(reply.body))
    kinds = ["image_generation.partial_image"] * 6 + ["image_generation.completed"] * 2
    assert [kind for kind, _ in found] == kinds == [data["type"] for _, data in found]
    looks = {}
    for step in pipe.stream(
        "a red apple", every=4, seed=5, num_images_per_prompt=2, progress=False
    ):
        looks[step.position] = step.images
    for _, data in found:
        position = 4 * (data.get("partial_image_index", 3) + 1)
        assert decode(data["b64_json"]).tobytes() == looks[position][data["index"]].tobytes()
        assert (data["seed"], data["size"]) == (5 + data["index"], "16x16")
    assert decode(found[-1][1]["b64_json"]).info["prompt"] == "a red apple"


REFUSED: dict[str, tuple[Any, int, str, str]] = {
    "no prompt": ({}, 400, "The parameter 'prompt' is missing.", "missing_parameter"),
    "blank prompt": ({"prompt": " \n"}, 400, "The prompt is empty; say in words", ""),
    "long prompt": ({"prompt": "x" * 41}, 400, "at most 40 characters, not 41", "prompt_too_long"),
    "many": ({"prompt": "x", "n": 5}, 400, "n must be at most 4, not 5.", "invalid_value"),
    "none": (
        {"prompt": "x", "n": 0},
        400,
        "n: input should be greater than or equal to 1, not 0.",
        "",
    ),
    "text for n": (
        {"prompt": "x", "n": "2"},
        400,
        "n: input should be a valid integer, not '2'.",
        "",
    ),
    "typo": ({"prompt": "x", "sed": 1}, 400, "There is no parameter 'sed'", "unknown_parameter"),
    "size": (
        {"prompt": "x", "size": "18x16"},
        400,
        "This model draws 16x16 pixels, and multiples of 4 up to 32x32, not '18x16'",
        "",
    ),
    "url": ({"prompt": "x", "response_format": "url"}, 400, "should be 'b64_json', not 'url'.", ""),
    "model": ({"prompt": "x", "model": "dall-e-2"}, 404, "'tiny' is", "model_not_found"),
    "not an object": ([1], 400, "must be a JSON object", "invalid_value"),
    "not JSON": (b"{", 400, "The request's body is not valid JSON.", "invalid_json"),
    "NaN": (b'{"prompt": "x", "guidance_scale": NaN}', 400, "guidance_scale: ", "invalid_value"),
    "half a letter": (b'{"prompt": "\\ud800"}', 400, "prompt: ", "invalid_value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_is_told_in_one_sentence(shared: Served, name: str) -> None:
    body, status, message, code = REFUSED[name]
    reply = shared.ask(body)
    assert reply.status == status, reply.body
    assert message in reply.error["message"]
    assert reply.error["message"].count("\n") == 0
    assert (reply.error["type"], reply.error["code"]) == (
        "invalid_request_error",
        code or "invalid_value",
    )


def test_other_failures_have_the_same_shape(shared: Served) -> None:
    missing = shared.ask(path="/v1/nothing")
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    wrong = shared.ask(path=GENERATIONS)
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    form = shared.ask(b"prompt=x", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (form.status, form.error["type"]) == (400, "invalid_request_error")
    large = shared.ask({"prompt": "x" * 20_000})
    assert (large.status, large.error["code"]) == (413, "request_too_large")
    assert "The request has more than 16864 bytes" in large.error["message"]


def test_a_failure_of_the_drawing_is_told_without_its_inside(shared: Served) -> None:
    for stream in (False, True):
        shared.gate.error = RuntimeError("a secret path")
        reply = shared.ask({"prompt": "x", "stream": stream})
        error = next(events(reply.body))[1]["error"] if stream else reply.error
        assert reply.status == (200 if stream else 500)
        assert error["message"] == ("The pictures could not be drawn; the service's log says why.")
        assert (error["type"], error["code"]) == ("server_error", "server_error")
    assert shared.ask({"prompt": "x"}).status == 200


def test_who_hangs_up_is_no_longer_drawn_for(shared: Served) -> None:
    def given_up() -> float:
        return number(shared, "dallemini_requests_given_up_total")

    before = given_up()
    for count, stream in enumerate((False, True), start=1):
        shared.gate.shut()
        hang_up = shared.hang_up_later({"prompt": "x", "n": 4, "stream": stream})
        wait_until(lambda: shared.batcher.drawing == 4)
        hang_up()
        again = shared.ask_later({"prompt": "y"})
        wait_until(functools.partial(lambda wanted: given_up() == wanted, before + count))
        shared.gate.open()
        assert again().status == 200
        wait_until(lambda: shared.batcher.drawing == 0)


def send_form(served: Served, path: str, fields: dict[str, str | bytes]) -> Any:
    """Send a form; bytes are files."""
    parts = []
    for name, value in fields.items():
        file = '; filename="x.png"' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        head = f'--limit\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    body = b"".join(parts) + b"--limit--\r\n"
    return served.ask(
        body, path=path, headers={"Content-Type": "multipart/form-data; boundary=limit"}
    )


def to_png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


@pytest.fixture
def picture(pipe: Pipeline) -> Image.Image:
    return pipe("a bird", seed=3, progress=False).images[0]


@pytest.fixture
def hole() -> Image.Image:
    """White where it is redrawn."""
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    return mask


def test_edits_are_those_of_the_pipeline(
    shared: Served, pipe: Pipeline, picture: Image.Image, hole: Image.Image
) -> None:
    clear = picture.copy()
    clear.putalpha(hole.point([255] + [0] * 255))
    alone = pipe.inpaint(
        "a red apple", picture, hole, seed=5, num_images_per_prompt=2, progress=False
    )
    fields: dict[str, str | bytes] = {"prompt": "a red apple", "seed": "5", "n": "2"}
    fields["image"] = to_png(picture)
    reply = send_form(shared, "/v1/images/edits", {**fields, "mask": to_png(clear)})
    assert reply.status == 200, reply.body
    for index, found in enumerate(reply.json["data"]):
        drawn = decode(found["b64_json"])
        assert drawn.tobytes() == alone.images[index].tobytes()
        told = alone.metadata(index) | {"sampler": "Gate"}
        assert told.items() <= drawn.info.items()
    fields |= {"stream": "true", "partial_images": "1"}
    reply = send_form(shared, "/v1/images/edits", {**fields, "mask": to_png(clear)})
    kinds = [kind for kind, _ in events(reply.body)]
    assert sorted(kinds) == ["image_edit.completed"] * 2 + ["image_edit.partial_image"] * 2


def test_the_transparent_part_of_a_picture_is_its_own_mask(
    shared: Served, picture: Image.Image, hole: Image.Image
) -> None:
    picture.putalpha(hole.point([255] + [0] * 255))
    fields: dict[str, str | bytes] = {"prompt": "x", "image": to_png(picture)}
    (found,) = send_form(shared, "/v1/images/edits", fields).json["data"]
    assert json.loads(decode(found["b64_json"]).info["edit"])["operation"] == "inpaint"


def test_variations_are_those_of_the_pipeline(
    shared: Served, pipe: Pipeline, picture: Image.Image
) -> None:
    fields: dict[str, str | bytes] = {"image": to_png(picture), "prompt": "a cat"}
    reply = send_form(shared, "/v1/images/variations", {**fields, "seed": "4", "strength": "0.3"})
    assert reply.status == 200, reply.body
    alone = pipe.vary(picture, "a cat", strength=0.3, seed=4, progress=False)
    assert decode(reply.json["data"][0]["b64_json"]).tobytes() == alone.images[0].tobytes()


def test_pictures_that_cannot_be_used_are_refused(shared: Served, picture: Image.Image) -> None:
    good, long = to_png(picture), to_png(Image.new("RGB", (16, 160)))
    cases: list[tuple[str, dict[str, str | bytes], str]] = [
        ("edits", {"image": good}, "The mask has no transparent part"),
        ("edits", {"image": good}, "The image has no transparent part"),
        ("edits", {}, "The parameter 'image' is missing; send a form"),
        ("variations", {"image": b"no picture"}, "cannot be read as a picture"),
        ("variations", {"image": "a"}, "The parameter 'image' must be a file, sent as multipart"),
        ("variations", {"image": long}, "too long and narrow; cut it to at most 4:1"),
        ("variations", {"image": good, "strength": "0"}, "strength: input should be greater"),
        ("variations", {"image": good, "n": "5"}, "n must be at most 4, not 5."),
        ("edits", {"image": good, "size": "32x32"}, "This model draws 16x16 pixels, not '32x32'"),
        ("variations", {"image": good, "what": "5"}, "There is no parameter 'what'"),
    ]
    cases[0][1]["mask"] = good
    for path, fields, message in cases:
        reply = send_form(shared, f"/v1/images/{path}", {"prompt": "x", **fields})
        assert reply.status == 400, reply.body
        assert message in reply.error["message"]


def test_metrics_count_what_happens(shared: Served) -> None:
    names = (
        "dallemini_pictures_total",
        "dallemini_tokens_total",
        'dallemini_requests_total{path="/v1/images/generations",status="200"}',
        'dallemini_requests_total{path="other",status="404"}',
        'dallemini_request_seconds_count{path="/v1/images/generations"}',
    )
    before = [number(shared, name) for name in names]
    shared.ask({"prompt": "x", "n": 2})
    shared.ask(path="/made/up")
    wait_until(lambda: number(shared, names[2]) > before[2])
    after = [number(shared, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 32, 1, 1, 1]
    assert (number(shared, "dallemini_drawing"), number(shared, "dallemini_waiting")) == (0, 0)


def test_health_and_pages(shared: Served) -> None:
    health = {"status": "ok", "model": "tiny", "drawing": 0, "waiting": 0}
    assert shared.ask(path="/health").json == {
        **health,
        "safety": "off",
        "watermark": None,
        "c2pa": False,
    }
    page = shared.ask(path="/docs")
    assert page.headers["content-type"].startswith("text/html")
    for told in ("POST /v1/images/edits", "GET /health", "openapi.json", "partial_images", "429"):
        assert told in page.body.decode()
    assert not re.search(r"https?://|<script|src=", page.body.decode())  # it needs no network
    schema = shared.ask(path="/openapi.json").json
    fields = schema["components"]["schemas"]["GenerationRequest"]["properties"]
    assert fields["prompt"]["maxLength"] == 40
    sides = "16|20|24|28|32"
    assert fields["size"]["anyOf"][0]["pattern"] == f"^(auto|({sides})x({sides}))$"
    edit = schema["components"]["schemas"]["EditRequest"]["properties"]
    assert edit["size"]["enum"] == ["auto", "16x16"]  # no null: it is a form
    assert fields["n"]["anyOf"][0]["maximum"] == 4
    answers = schema["paths"][GENERATIONS]["post"]["responses"]
    assert sorted(answers) == ["200", "400", "404", "408", "413", "429", "500", "503"]


def test_size_is_that_which_is_asked_for(shared: Served, pipe: Pipeline) -> None:
    body = {"prompt": "a cat", "seed": 3, "size": "32x20", "stream": True, "partial_images": 1}
    (_, preview), (_, finished) = events(shared.ask(body).body)
    alone = pipe("a cat", seed=3, width=32, height=20, progress=False).images[0]
    assert preview["size"] == finished["size"] == "32x20"
    assert decode(finished["b64_json"]).tobytes() == alone.tobytes()
    assert shared.ask({"prompt": "a cat", "size": "16x16"}).json["size"] == "16x16"


def test_a_tokenizer_of_one_size_has_one_size(pipe: Pipeline) -> None:
    class Fixed:
        """Decodes pictures of the model's own size, as any `ImageTokenizer` may."""

        codebook_size, image_length = pipe.vqgan.codebook_size, pipe.vqgan.image_length
        device, encode = pipe.vqgan.device, pipe.vqgan.encode

        def decode(self, image_tokens: Any) -> Any:
            return pipe.vqgan.decode(image_tokens)

    fixed = Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, vqgan=Fixed())
    assert find_sizes(fixed) == Sizes([16], [16])
    assert find_sizes(pipe) == Sizes(sides := [16, 20, 24, 28, 32], sides)


def test_pictures_that_are_no_squares_have_widths_and_heights(pipe: Pipeline) -> None:
    config = dataclasses.replace(TINY_TRANSFORMER, image_length=12, image_grid=(2, 6))
    wide = Pipeline(
        tokenizer=pipe.tokenizer, transformer=tiny_transformer(config), vqgan=pipe.vqgan
    )
    sizes = find_sizes(wide)
    assert (sizes.widths[0], sizes.widths[-1], *sizes.heights) == (24, 48, 8, 12, 16)
    assert str(sizes) == "24x8 pixels, and multiples of 4 up to 48x16"
    assert (sizes.first, sizes.read("40x12")) == ((24, 8), (40, 12))
    assert [sizes.read(text) for text in ("24x24", "8x24", "24", "x8")] == [None] * 4


class Strict(WordSafetyChecker):
    """Flags every picture, with words of its own for prompts."""

    def check_image(self, image: Image.Image, /) -> SafetyFlag | None:
        return SafetyFlag(action=self.action, reason="everything is")


def test_marks_and_flags_are_told(pipe: Pipeline) -> None:
    mark, checker = Watermark("secret", strength=20), Strict(action="warn")
    with serving(pipe, watermark=mark, safety_checker=checker) as served:
        told = served.ask({"prompt": "a cat", "seed": 3}).json
        alone = pipe("a cat", seed=3, watermark=mark, progress=False)
        assert told["watermark"] == alone.watermark == "dallemini-codes-1"
        drawn = decode(told["data"][0]["b64_json"])
        assert drawn.tobytes() == alone.images[0].tobytes()
        assert (drawn.info["watermark"], drawn.info["safety"]) == (
            "dallemini-codes-1",
            "warn: everything is",
        )
        assert told["data"][0]["safety"] == "warn: everything is"
        wide = served.ask({"prompt": "a cat", "seed": 3, "size": "32x16"}).json["data"][0]
        alone = pipe("a cat", seed=3, width=32, height=16, watermark=mark, progress=False)
        assert decode(wide["b64_json"]).tobytes() == alone.images[0].tobytes()
        body = {"prompt": "a cat", "stream": True, "partial_images": 1}
        (_, preview), (_, finished) = events(served.ask(body).body)
        assert preview["safety"] == finished["safety"] == "warn: everything is"
        assert finished["watermark"] == "dallemini-codes-1"
        health = served.ask(path="/health").json
        assert (health["safety"], health["watermark"]) == ("words (warn)", "dallemini-codes-1")
    assert pipe.safety_checker is None  # the service has its own


def test_finished_pictures_are_signed(pipe: Pipeline, tmp_path: Path) -> None:
    with serving(pipe, c2pa=make_signer(tmp_path)) as served:
        answer = served.ask({"prompt": "a cat", "seed": 3}).json["data"][0]
        body = {"prompt": "a cat", "stream": True, "partial_images": 1}
        (_, preview), (_, finished) = events(served.ask(body).body)
        states = []
        for picture in (answer, finished, preview):
            told = read_credentials(base64.b64decode(picture["b64_json"]))
            states.append(told and told.state)
        assert states == ["valid", "valid", None]
        assert served.ask(path="/health").json["c2pa"] is True
        about = served.ask(path="/openapi.json").json["info"]["description"]
        assert "are signed (C2PA)" in about


def test_what_is_refused_is_told_and_not_drawn(pipe: Pipeline, caplog: Any) -> None:
    with serving(pipe, safety_checker=Strict()) as served:
        for prompt, reason in (("naked", "ask in other words"), ("a cat", "is not shown")):
            reply = served.ask({"prompt": prompt})
            assert reply.status == 400, reply.body
            assert reason in reply.error["message"]
            assert reply.error["code"] == "content_policy_violation"
        edit: dict[str, str | bytes] = {"image": to_png(Image.new("RGB", (16, 16)))}
        reply = send_form(served, "/v1/images/variations", {**edit, "prompt": "naked"})
        assert reply.error["code"] == "content_policy_violation"
    assert "naked" not in caplog.text
    assert "a cat" not in caplog.text


def test_the_service_checks_unless_it_is_told_not_to(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(DalleMiniWarning, match="Only the words of prompts are checked"):
        app = create_service(pipe)
    assert "Safety check: words (refuse). The pictures have no watermark," in app.description
    own = copy.copy(pipe)
    own.safety_checker = Strict()
    assert "Safety check: words (refuse)." in create_service(own).description
    assert "Safety check: off." in create_service(own, safety_checker=None).description


def test_too_many_are_asked_to_come_again(pipe: Pipeline) -> None:
    config = ServiceConfig(max_batch=1, max_waiting=2, max_images=1, timeout=60)
    with serving(pipe, config=config) as served:
        served.gate.shut()
        waits = [served.ask_later({"prompt": "x"})]
        wait_until(lambda: served.batcher.drawing == 1)
        waits.append(served.ask_later({"prompt": "y"}))
        wait_until(lambda: served.batcher.waiting == 1)
        refused = served.ask({"prompt": "z"})
        assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
        assert refused.error["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        served.gate.open()
        assert [wait().status for wait in waits] == [200, 200]


def test_what_takes_too_long_is_given_up(pipe: Pipeline) -> None:
    with serving(pipe, config=ServiceConfig(timeout=0.2)) as served:
        served.gate.shut()
        reply = served.ask({"prompt": "x"})
        assert (reply.status, reply.error["code"]) == (503, "timeout")
        assert "The pictures were not drawn within 0.2 seconds" in reply.error["message"]
        assert "retry-after" in reply.headers
        stream = served.ask({"prompt": "x", "stream": True})
        ((kind, data),) = events(stream.body)
        assert (kind, data["error"]["code"]) == ("error", "timeout")
        served.gate.open()
        wait_until(lambda: served.batcher.drawing == 0)
        assert number(served, "dallemini_requests_given_up_total") == 2


def test_the_end_finishes_what_is_drawn(pipe: Pipeline) -> None:
    with serving(pipe, config=ServiceConfig(max_batch=1)) as served:
        served.gate.shut()
        drawn = served.ask_later({"prompt": "a red apple", "seed": 1, "n": 2})
        wait_until(lambda: served.batcher.drawing == 1)
        waiting = served.ask_later({"prompt": "y"})
        wait_until(lambda: served.batcher.waiting == 2)
        served.end()
        wait_until(lambda: not served.batcher.is_ready)
        served.gate.open()
        assert len(drawn().json["data"]) == 2
        refused = waiting()
        assert (refused.status, refused.error["code"]) == (503, "unavailable")
        assert "The service is ending" in refused.error["message"]
        served.join()
        with pytest.raises(ConnectionRefusedError):
            served.ask({"prompt": "x"})


def test_a_key_is_asked_for_where_there_is_one(pipe: Pipeline) -> None:
    with serving(pipe, api_key="open-sesame") as served:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "open-sesame"}):
            refused = served.ask({"prompt": "x"}, headers=header)
            assert (refused.status, refused.error["type"]) == (401, "authentication_error")
            assert "send it as 'Authorization: Bearer KEY'" in refused.error["message"]
            assert refused.headers["www-authenticate"] == "Bearer"
        assert (
            served.ask({"prompt": "x"}, headers={"Authorization": "Bearer open-sesame"}).status
            == 200
        )
        assert served.ask(path="/health").status == 200
        schema = served.ask(path="/openapi.json").json
        assert "401" in schema["paths"][GENERATIONS]["post"]["responses"]


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\n"])
def test_a_key_that_no_client_can_send_is_refused(pipe: Pipeline, key: str) -> None:
    with pytest.raises(ConfigError, match="must be printable ASCII without spaces, and not empty"):
        create_service(pipe, api_key=key)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"timeout": 0.0}, "timeout must be a finite number above 0, not 0.0"),
        ({"max_batch": 0}, "max_batch must be a finite number above 0, not 0"),
        ({"max_images": 9, "max_waiting": 8}, "so that a request finds room, not 9 where 8 may"),
    ],
)
def test_limits_that_make_no_sense_are_refused(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServiceConfig(**field)
