"""Pieces of the page that are used more than once, and what is written in them."""

from __future__ import annotations

import html
import re
from typing import Any

import gradio as gr

from .sessions import Drawn
from .studio import Look
from .wish import Wish

STYLE = """
.status { min-height: 3.2em; }
.status .bar { height: 4px; border-radius: 2px; background: var(--primary-500); }
.status .note { color: var(--body-text-color-subdued); }
.gallery .grid-wrap { max-height: none; min-height: 0; }
.gallery .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)); }
.gallery .caption-label { max-width: 96%; }
@media (max-width: 640px) {
  .gallery .caption-label { font-size: 0.58rem; padding: 1px 3px; }
}
footer { display: none !important; }
"""


# The fields as the page calls them, in place of the names of Python.
_NAMES = (
    (r"\bprompts\[\d+\] \((('|\").*?\2)\) has", r"\1 has"),
    (r"\bnegative_prompt\[\d+\]", "The negative prompt"),
    (r"(?<!\w)negative_prompt\b=?", "The negative prompt"),
    (r"\bguidance_scale(?:=| of )", "guidance "),
    (r"\bguidance_scale\b", "guidance"),
    (r"\bnum_images_per_prompt\b", "the number of pictures"),
    (r"; give a scale above 1, such as guidance 3, with it", "; raise that above 1, such as to 3"),
)


def own_words(message: str) -> str:
    """Return a message of the library in the words of the page.

    Example:
        >>> from dallemini.app.widgets import own_words
        >>> own_words("prompts[0] ('a blah') has no word that this model was taught.")
        "'a blah' has no word that this model was taught."
    """
    for pattern, told in _NAMES:
        message = re.sub(pattern, told, message)
    return message


def theme() -> Any:
    """Return a theme that asks no server for fonts."""
    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])


def prompt_box(elem_id: str, longest: int, label: str = "Prompt", **more: Any) -> gr.Textbox:
    """Make a field for a prompt."""
    return gr.Textbox(label=label, max_length=longest, elem_id=elem_id, **more)


def seed_box(elem_id: str) -> gr.Textbox:
    """Make a field for a seed; empty for a fresh one."""
    return gr.Textbox(
        label="Seed", placeholder="fresh", max_length=20, elem_id=elem_id, min_width=120
    )


def picture_box(elem_id: str) -> gr.Image:
    """Make a field for a picture, of which the path is handed over, whatever the file is.

    Gradio would open it first, and say nothing of what is wrong with it; the library does. (A class
    of our own would be nicer, but Gradio writes a file beside the module of each such class.)
    """
    box = gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        elem_id=elem_id,
        buttons=[],
    )
    box.preprocess = _path_of
    return box


def _path_of(payload: Any) -> str | None:
    return None if payload is None else str(payload.path)


def gallery(label: str, elem_id: str, columns: int = 3) -> gr.Gallery:
    """Make a gallery; saved files are shown and downloaded as they are."""
    return gr.Gallery(
        label=label,
        show_label=False,  # it would lie on the first picture
        columns=columns,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
        elem_id=elem_id,
        elem_classes="gallery",
    )


def show_pictures(look: Look) -> list[tuple[Any, str]]:
    """Return what a gallery shows of a look."""
    if look.drawn:
        return [(str(picture.path), picture.caption) for picture in look.drawn]
    return [(image, f"seed {seed}") for seed, image in look.previews.items()]


def say(text: str) -> str:
    """Return a line of the status, as HTML."""
    return f'<div role="status">{html.escape(text)}</div>'


def show_status(look: Look) -> str:
    """Return how far a wish is, as HTML."""
    if look.drawn:
        seeds = [picture.wish.seed or 0 for picture in look.drawn]
        several = f"seeds {min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}"
        told = f"Done in {look.seconds:.1f} s, {several}."
    else:
        told = f"Drawing: {look.share:.0%}"
    told_of = [own_words(note) for note in look.notes]
    if flags := list(dict.fromkeys(picture.flag for picture in look.drawn if picture.flag)):
        count = sum(bool(picture.flag) for picture in look.drawn)
        told_of.append(
            f"The safety check flagged {count} of {len(look.drawn)}: {'; '.join(flags)}."
        )
    notes = "".join(f'<div class="note">{html.escape(note)}</div>' for note in told_of)
    bar = f'<div class="bar" style="width:{look.share:.0%}"></div>'
    return f'<div role="status">{told}{bar}{notes}</div>'


def show_settings(picture: Drawn) -> str:
    """Return what a picture was drawn with, as HTML."""
    usual = Wish(prompt="")
    wish = {"prompt": picture.wish.prompt, "seed": picture.wish.seed}
    wish |= {
        name: value
        for name, value in picture.wish.to_dict().items()
        if name not in (*wish, "number") and value != getattr(usual, name)
    }
    if picture.score is not None:
        wish["score"] = f"{picture.score:.3f}"
    if picture.flag:
        wish["safety check"] = picture.flag
    rows = ((name.replace("_", " "), str(value)) for name, value in wish.items())
    told = ", ".join(f"<b>{name}</b> {html.escape(value)}" for name, value in rows)
    return f'<div role="status">{told}</div>'
