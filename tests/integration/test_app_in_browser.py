"""The app as people use it: a real Chromium, a real server, and a tiny model.

Needs `chromium` and Playwright for Python (`pip install playwright`, without its own browsers).
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from app_browser import NoBrowserError, chromium, running_app
from dallemini import Pipeline
from dallemini.testing import (
    TINY_TRANSFORMER,
    TINY_VQGAN,
    tiny_clip_scorer,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from patience import patience

pytestmark = pytest.mark.browser

WAIT = 1000 * patience(90)  # milliseconds; nine pictures take long on busy cores
# The command, in a process that writes down whom it tries to reach.
SERVER = """
import sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = args[1] if event == "socket.connect" else args[0]
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(host, bytes):
            host = host.decode()
        if host and not str(host).startswith(("127.", "/")) and host not in ("localhost", "::1"):
            print("reached for", host, file=sys.stderr, flush=True)

sys.addaudithook(watch)
from dallemini.cli import main
sys.exit(main(sys.argv[1:]))
"""

# Notes what the page shows, since a tiny model may draw faster than a test looks.
WATCH = """() => {
    window.seen = [];
    new MutationObserver(() => window.seen.push([
        document.querySelector("#pictures-status").innerText,
        document.querySelectorAll("#pictures .thumbnail-item img").length,
    ])).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes long enough to be watched: 256 tokens a picture."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    transformer = dataclasses.replace(TINY_TRANSFORMER, image_length=256)
    Pipeline(
        tokenizer=tiny_tokenizer(),
        transformer=tiny_transformer(transformer),
        vqgan=tiny_vqgan(dataclasses.replace(TINY_VQGAN, resolution=64)),
        scorer=tiny_clip_scorer(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running app, and the file with what it complains of."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_app(["-c", SERVER, "app", "--model", str(model), "--port", "0"], log) as address:
        yield address, log


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with chromium() as found:
            yield found
    except NoBrowserError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="module")
def page(browser: Any, server: tuple[str, Path]) -> Iterator[Any]:
    """The app in a fresh profile; nothing may be fetched from elsewhere, and no script may fail.

    One for all tests: loading it takes longer than they do.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    elsewhere: list[str] = []
    failures: list[str] = []
    page.on("request", lambda asked: elsewhere.append(asked.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(server[0])
    page.locator("#prompt textarea").wait_for(timeout=5 * WAIT)  # the first one is slow
    yield page
    context.close()
    assert [url for url in elsewhere if not url.startswith((server[0], "data:", "blob:"))] == []
    assert failures == []
    assert "reached for" not in server[1].read_text()
    faults = re.findall(
        r"^(\w[\w.]*(?:Error|Exception|Disconnect)\b.*)", server[1].read_text(), re.M
    )
    assert [fault for fault in faults if "InvalidPathError" not in fault] == []  # asked for


def draw(page: Any, prompt: str, seed: object = "", **fields: int) -> None:
    """Fill the form and press Draw; no two tests share seeds, which tell what is done."""
    page.get_by_role("tab", name="Draw", exact=True).click()
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#seed input, #seed textarea").first.fill(str(seed))
    if (
        "Candidates" in fields
        and not page.get_by_role("spinbutton", name="Candidates").is_visible()
    ):
        page.get_by_role("button", name="More settings").click()
    for label, value in fields.items():
        page.get_by_role("spinbutton", name=label).first.fill(str(value))
    page.get_by_role("button", name="Draw", exact=True).first.click()


def status(page: Any, words: str, of: str = "pictures") -> str:
    """Wait until the line above the pictures has these words, and return it."""
    found = page.locator(f"#{of}-status").get_by_text(re.compile(words))
    found.wait_for()
    return str(found.inner_text())


def download(page: Any, of: str = "pictures") -> Any:
    """Open the first picture of a gallery and download it."""
    page.locator(f"#{of} button.thumbnail-item, #{of} .thumbnail-item").first.click()
    with page.expect_download() as told:
        page.locator(f"#{of}").get_by_label("Download", exact=True).first.click()
    image = PIL.Image.open(told.value.path())
    image.load()
    return image


def test_nine_pictures_fill_while_they_are_drawn(page: Any, model: Path) -> None:
    page.evaluate(WATCH)
    draw(page, "a red apple", 7)
    status(page, "Done in .*, seeds 7 to 15")
    pictures = page.locator("#pictures .thumbnail-item img")
    pictures.nth(8).wait_for()
    assert pictures.count() == 9
    seen = page.evaluate("window.seen")
    assert any(line.startswith("Drawing") and count == 9 for line, count in seen)
    assert page.locator("#pictures").get_by_text(re.compile(r"seed \d+ · -?\d")).count() == 9
    image = download(page)
    again = Pipeline.from_pretrained(model)("a red apple", seed=int(image.text["seed"]))
    assert image.format == "PNG"
    assert image.text["prompt"] == "a red apple"
    assert image.tobytes() == again.images[0].tobytes()


def test_again_takes_the_next_seeds(page: Any) -> None:
    draw(page, "a red apple", 100, Pictures=2)
    status(page, "seeds 100 to 101")
    page.get_by_role("button", name="Again").click()
    status(page, "seeds 102 to 103")


def test_cancel_stops_and_leaves_room_for_the_next(page: Any) -> None:
    draw(page, "a red apple", 200, Candidates=8, Pictures=9)
    status(page, "Drawing")
    page.get_by_role("button", name="Cancel").first.click()
    status(page, r"Cancelled\.")
    time.sleep(1)
    assert page.locator("#pictures-status").inner_text() == "Cancelled."  # nobody goes on
    draw(page, "a green bird", 300, Candidates=1, Pictures=1)
    status(page, r"Done in .*, seed 300\.")


def test_next_click_takes_the_place_of_the_last(page: Any) -> None:
    draw(page, "a red apple", 320, Candidates=8, Pictures=9)
    status(page, "Drawing")
    draw(page, "a green bird", 340, Candidates=1, Pictures=1)
    status(page, r"Done in .*, seed 340\.")


def test_painted_part_is_redrawn(page: Any) -> None:
    draw(page, "a red apple", 400, Pictures=1)
    status(page, r"Done in .*, seed 400\.")
    page.get_by_role("button", name="Redraw a part").first.click()
    canvas = page.locator("#painting canvas").first
    canvas.wait_for()
    assert page.locator("#redraw-prompt textarea").input_value() == "a red apple"
    page.locator("#redraw-draw").click()
    status(page, "Nothing is painted; paint over what is to be redrawn", of="redraw-pictures")
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=8)
    page.mouse.up()
    page.evaluate(WATCH.replace("#pictures", "#redraw-pictures"))
    page.locator("#redraw-draw").click()
    status(page, "Done", of="redraw-pictures")
    seen = page.evaluate("window.seen")
    assert any(line.startswith("Drawing") and count == 4 for line, count in seen)
    told = json.loads(download(page, of="redraw-pictures").text["edit"])
    assert told["operation"] == "inpaint"


def test_edit_is_cancelled_before_it_is_finished(page: Any) -> None:
    draw(page, "a red apple", 450, Pictures=1, Candidates=1)
    status(page, r"Done in .*, seed 450\.")
    page.get_by_role("button", name="Extend").first.click()
    page.locator("#extend-picture img").wait_for()
    page.locator("#extend-draw").click()
    status(page, "Drawing", of="extend-pictures")
    page.locator("#extend-cancel").click()
    status(page, r"Cancelled\.", of="extend-pictures")


def test_transparent_parts_of_your_own_picture_are_white(page: Any, tmp_path: Path) -> None:
    PIL.Image.new("RGBA", (64, 64)).save(tmp_path / "clear.png")
    page.get_by_role("tab", name="Vary").click()
    page.locator("#vary-prompt textarea").fill("a red apple")
    page.locator("#vary-picture input[type=file]").set_input_files(tmp_path / "clear.png")
    page.locator("#vary-picture img").wait_for()
    page.locator("#vary-draw").click()
    status(page, "Done", of="vary-pictures")
    pixels = np.asarray(download(page, of="vary-pictures").convert("RGB"))
    assert (pixels == 255).all(axis=-1).mean() > 0.3  # the half that is kept


def test_wrong_input_is_told_and_harmless(page: Any) -> None:
    draw(page, "  ")
    page.get_by_test_id("toast-text").get_by_text("Write what the pictures").first.wait_for()
    status(page, "Write what the pictures should show")
    draw(page, "a red apple", 2**60)
    status(page, r"The seed is from 0 to \d+, not")
    draw(page, "a red apple", -1)
    status(page, "The seed is a whole number from 0")
    draw(page, "x" * 2000, 500, Pictures=1)  # the field takes no more than the limit
    status(page, r"Done in .*, seed 500\.")
    assert len(page.locator("#prompt textarea").input_value()) == 500


def test_a_file_that_is_no_picture_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture at all")
    page.get_by_role("tab", name="Vary").click()
    page.locator("#vary-prompt textarea").fill("a red apple")
    remove = page.locator("#vary-picture").get_by_role("button", name=re.compile("Clear|Remove"))
    if remove.count():  # the picture of an earlier test
        remove.click()
    page.locator("#vary-picture input[type=file]").set_input_files(tmp_path / "words.png")
    page.locator("#vary-picture img").wait_for(state="attached")
    page.locator("#vary-draw").click()
    status(page, "The image cannot be read as a picture", of="vary-pictures")


def test_reload_keeps_the_history_and_ends_the_drawing(page: Any) -> None:
    draw(page, "a blue rocket <b>&", 600, Pictures=2)
    status(page, "Done in .*, seeds 600 to 601")
    draw(page, "a red apple", 700, Pictures=9, Candidates=8)
    status(page, "Drawing")
    page.reload()
    page.get_by_role("tab", name="History").click()
    page.locator("#history-pictures .thumbnail-item", has_text="a blue rocket").first.click()
    page.locator("#details").get_by_text("a blue rocket <b>&").wait_for()
    page.get_by_role("button", name="Use these settings").click()
    page.wait_for_function(
        "document.querySelector('#prompt textarea').value == 'a blue rocket <b>&'"
    )
    draw(page, "a red apple", 800, Pictures=1)
    status(page, r"Done in .*, seed 800\.")


def test_page_fits_a_phone_and_says_its_limits(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Limits and responsible use").click()
    page.get_by_text("Pictures are inventions.").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("tab", name="Draw", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_files_of_the_machine_are_not_served(server: tuple[str, Path], page: Any) -> None:
    for path in ("/etc/hostname", str(server[1])):
        assert page.request.get(f"{server[0]}/gradio_api/file={path}").status == 403
    big = page.request.post(f"{server[0]}/gradio_api/upload", data=b"x" * (10 << 20))
    assert big.status == 413


def test_pictures_of_the_machine_are_not_taken(
    server: tuple[str, Path], page: Any, tmp_path: Path
) -> None:
    PIL.Image.new("RGB", (64, 64), "red").save(tmp_path / "secret.png")
    config = page.request.get(f"{server[0]}/config").json()
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    (edit,) = (
        function
        for function in config["dependencies"]
        if ids["vary-picture"] in function["inputs"] and ids["vary-pictures"] in function["outputs"]
    )
    values: list[Any] = [None] * len(edit["inputs"])
    values[edit["inputs"].index(ids["vary-picture"])] = {
        "path": str(tmp_path / "secret.png"),
        "meta": {"_type": "gradio.FileData"},
    }
    asked = {"data": values, "fn_index": edit["id"], "session_hash": "stranger"}
    assert page.request.post(f"{server[0]}/gradio_api/queue/join", data=asked).ok
    told = page.request.get(f"{server[0]}/gradio_api/queue/data?session_hash=stranger").text()
    assert '"success":false' in told
    assert "InvalidPathError" in server[1].read_text()
