"""Make anew the pictures of the app in its page: a desktop, a part that is redrawn, and a phone.

    python tests/app_screenshots.py [FOLDER]

Needs what the tests of the app in a browser need (`app_browser`). To be run when the bundled model
or the app's page changes; look at the result.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from app_browser import chromium, running_app

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PROMPT = "draw me a snowman"
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
WAIT = 300_000  # milliseconds


def wait_for(page: Any, pictures: str) -> None:
    """Wait until the pictures of a tab are drawn and shown."""
    page.locator(f"#{pictures}-status").get_by_text(re.compile("^Done in")).wait_for()
    page.wait_for_function(
        f"[...document.querySelectorAll('#{pictures} img')].every(image => image.complete)"
    )
    page.wait_for_timeout(1000)


def shoot(page: Any, path: Path, size: dict[str, int]) -> None:
    """Store the whole page at a width as a small file."""
    page.set_viewport_size(size)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # the page is laid out anew
    with Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled"))) as shot:
        shot.convert("RGB").save(path, quality=90, method=6)
    print(path.name, path.stat().st_size)


def paint(page: Any) -> None:
    """Paint over the upper third of the picture that is to be redrawn."""
    box = page.locator("#painting canvas").first.bounding_box()
    middle, top = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.2
    page.mouse.move(middle - 40, top)
    page.mouse.down()
    for line in range(6):
        side = 40 if line % 2 == 0 else -40
        page.mouse.move(middle + side, top + 10 * line, steps=8)
    page.mouse.up()


def main(folder: Path) -> None:
    """Draw nine pictures, redraw a part of the first, and store what the page looks like."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as logs, chromium() as browser:
        command = ["-m", "dallemini", "app", "--port", "0"]
        with running_app(command, Path(logs, "log")) as address:
            page = browser.new_page(viewport=DESKTOP)
            page.set_default_timeout(WAIT)
            page.goto(address)
            page.locator("#prompt textarea").fill(PROMPT)
            page.locator("#seed input, #seed textarea").first.fill("1")
            page.get_by_role("button", name="Draw", exact=True).first.click()
            wait_for(page, "pictures")
            shoot(page, folder / "app-desktop.webp", DESKTOP)
            shoot(page, folder / "app-phone.webp", PHONE)
            page.set_viewport_size(DESKTOP)
            page.locator("#pictures .thumbnail-item").first.click()
            page.get_by_role("button", name="Redraw a part").first.click()
            page.locator("#painting canvas").first.wait_for()
            page.wait_for_timeout(2000)  # the editor places the picture
            page.locator("#redraw-seed input, #redraw-seed textarea").first.fill("1")
            paint(page)
            page.locator("#redraw-draw").click()
            wait_for(page, "redraw-pictures")
            shoot(page, folder / "app-redraw.webp", DESKTOP)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else IMAGES)
