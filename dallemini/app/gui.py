"""The page: what people see, and what happens when they press something. Needs the extra `app`.

Knows Gradio; what is drawn is the studio's affair, what was drawn the sessions'.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from ..errors import DalleMiniError, InputError
from ..hub.source import BUNDLED_MODEL
from . import about
from .mask import read_painting, read_picture
from .sessions import Drawn, Sessions
from .studio import Look, Studio
from .widgets import (
    gallery,
    own_words,
    picture_box,
    prompt_box,
    say,
    seed_box,
    show_pictures,
    show_settings,
    show_status,
)
from .wish import SHAPES, Wish

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_DRAWING: dict[str, Any] = {**_PRIVATE, "concurrency_id": "drawing", "concurrency_limit": 1}
_AT_ONCE: dict[str, Any] = {**_PRIVATE, "queue": False}
_SIDES = ("left", "right", "top", "bottom")
_EDITED = 4  # pictures of an edit

Fields = dict[str, Any]  # the components of a form, by the field of `Wish` that they set


class Page:
    """The page and its events.

    Args:
        studio: draws.
        sessions: remember.
        card: what the model's makers say of it, in Markdown.
        ranks: whether the model brings a scorer: the best come first unless told otherwise.
    """

    def __init__(
        self, studio: Studio, sessions: Sessions, *, card: str = "", ranks: bool = False
    ) -> None:
        self.studio, self.sessions = studio, sessions
        self._told, self._ranks = about.told_by(card), ranks
        self._targets: dict[str, list[Any]] = {}  # of each tab that takes a picture
        self._wanted: set[str] = set()  # clicks that are waited for

    def build(self) -> gr.Blocks:
        """Return the page."""
        blocks = gr.Blocks(title="dallemini", analytics_enabled=False, delete_cache=(3600, 86400))
        with blocks:
            self._key = gr.BrowserState(storage_key="dallemini", secret=secrets.token_hex(8))
            with gr.Row():
                name = html.escape(self.studio.pipe.name)
                with gr.Column(min_width=240):
                    gr.Markdown(f"# dallemini\nModel: {name}")
                limits = gr.Button("Limits and responsible use", size="sm", scale=0, min_width=220)
            with gr.Tabs() as self._tabs:
                self._add_tabs()
            limits.click(lambda: gr.Tabs(selected="limits"), None, self._tabs, **_AT_ONCE)
            blocks.load(self._open, self._key, [self._key, self._history], **_AT_ONCE)
        return blocks

    def _add_tabs(self) -> None:
        self._history = gallery("History", "history-pictures", columns=6).unrender()
        with gr.Tab("Draw", id="draw"):
            buttons, taking = self._add_drawing()
        self._add_redrawing()
        self._add_extending()
        self._add_varying()
        for tab, button in buttons.items():
            self._send(button, tab, taking)
        with gr.Tab("History", id="history"):
            self._add_history()
        with gr.Tab("Limits", id="limits"):
            here = about.safeguards(
                self.studio.pipe.safety_checker,
                has_mark=self.studio.watermark is not None,
                is_signed=self.studio.c2pa is not None,
            )
            gr.Markdown(about.RESPONSIBLE_USE + here)
            if self._told:
                gr.Markdown(f"## What the makers of this model say\n\n{self._told}")

    # The form

    def _add_drawing(self) -> tuple[dict[str, Any], Any]:
        limits = self.studio.limits
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = prompt_box("prompt", limits.max_prompt_length, lines=2, autofocus=True)
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", min_width=80)
                    again = gr.Button("Again", min_width=80)
                    cancel = gr.Button("Cancel", variant="stop", min_width=80)
                with gr.Row():
                    most = limits.max_images
                    number = gr.Slider(1, most, most, step=1, label="Pictures")
                    seed = seed_box("seed")
                with gr.Accordion("More settings", open=False):
                    self._more = self._add_more()
            with gr.Column(scale=3, min_width=320):
                status, pictures, shown, chosen = self._add_result("pictures")
                buttons = self._add_sending()
        bundled = self.studio.pipe.name == BUNDLED_MODEL
        examples = about.BUNDLED_EXAMPLES if bundled else about.EXAMPLES
        gr.Examples([[text] for text in examples], prompt, label="Examples")
        self._form: Fields = {"prompt": prompt, "number": number, "seed": seed, **self._more}
        outputs = [self._key, pictures, status, shown, chosen, self._history]
        turn, fields = gr.State(""), list(self._form.values())
        for trigger, work in (
            (draw.click, self._draw),
            (prompt.submit, self._draw),
            (again.click, self._draw_again),
        ):
            self._on(trigger, work, turn, fields, outputs)
        self._let_cancel(cancel, turn)
        return buttons, chosen

    def _add_more(self) -> Fields:
        limits, config, own = self.studio.limits, self.studio.pipe.config, self.studio.size
        scale: Any = config.guidance_scale  # a schedule ends in its last number
        guidance = scale[-1] if isinstance(scale, tuple) else scale
        candidates = min(config.candidates, limits.max_candidates)
        sizes = [(f"{name} ({own[0] * w}×{own[1] * h})", name) for name, (w, h) in SHAPES.items()]
        return {
            "guidance_scale": gr.Slider(
                0, 20, guidance, step=0.5, label="Guidance",
                info="how far the prompt pushes; 1 is off",
            ),
            "negative_prompt": prompt_box(
                "negative", limits.max_prompt_length, "Negative prompt",
                info="what to lead away from; needs guidance above 1",
            ),
            "candidates": gr.Slider(
                1, limits.max_candidates, candidates, step=1, label="Candidates",
                info="drawn for each picture that is kept",
            ),
            "rank": gr.Checkbox(self._ranks, label="Best first", info="with scores"),
            "shape": gr.Radio(sizes, value="square", label="Size"),
            "upscale": gr.Radio([("no", 1), ("2×", 2), ("4×", 4)], value=1, label="Upscale"),
        }  # fmt: skip

    def _add_result(self, elem_id: str, columns: int = 3) -> tuple[Any, Any, Any, Any]:
        """Add what shows pictures: status, gallery, what is in it, and which one was chosen."""
        status = gr.HTML(elem_id=f"{elem_id}-status", elem_classes="status")
        pictures = gallery("Pictures", elem_id, columns)
        shown, chosen = gr.State([]), gr.State(None)
        pictures.select(_choose, shown, chosen, **_AT_ONCE)
        return status, pictures, shown, chosen

    def _add_sending(self) -> dict[str, Any]:
        """Add buttons that take the chosen picture to another tab."""
        labels = {"redraw": "Redraw a part", "extend": "Extend", "vary": "Vary"}
        with gr.Row():
            return {tab: gr.Button(label, size="sm", min_width=90) for tab, label in labels.items()}

    # The tabs that begin with a picture

    def _add_redrawing(self) -> None:
        with gr.Tab("Redraw a part", id="redraw"), gr.Row():
            with gr.Column(min_width=320):
                painting = gr.ImageEditor(
                    label="Paint over what is to be redrawn",
                    type="pil",
                    format="png",
                    sources=("upload", "clipboard"),
                    transforms=(),
                    brush=gr.Brush(default_size=24, colors=["#ff3b30"], color_mode="fixed"),
                    layers=gr.LayerOptions(allow_additional_layers=False),
                    canvas_size=(480, 480),
                    elem_id="painting",
                )
            self._add_edit("redraw", painting, {}, self._redraw)

    def _add_extending(self) -> None:
        unit = self.studio.unit
        most = max(self.studio.size)
        with gr.Tab("Extend", id="extend"), gr.Row():
            with gr.Column(min_width=320):
                image = picture_box("extend-picture")
                with gr.Row():
                    around = {
                        side: gr.Slider(
                            0,
                            most,
                            most // 2 // unit * unit if side == "right" else 0,
                            step=unit,
                            label=f"Pixels {side}",
                            min_width=180,
                        )
                        for side in _SIDES
                    }
            self._add_edit("extend", image, around, self._extend)

    def _add_varying(self) -> None:
        with gr.Tab("Vary", id="vary"), gr.Row():
            with gr.Column(min_width=320):
                image = picture_box("vary-picture")
                strength = gr.Slider(
                    0.1, 1, 0.5, step=0.1, label="Strength", info="share that is redrawn"
                )
            self._add_edit("vary", image, {"strength": strength}, self._vary)

    def _add_edit(
        self, tab: str, picture: Any, extra: Fields, work: Callable[..., Iterator[Look]]
    ) -> None:
        """Add the form of a tab, its pictures and its events."""
        with gr.Column(min_width=320):
            prompt = prompt_box(
                f"{tab}-prompt",
                self.studio.limits.max_prompt_length,
                info="what the whole picture shows; more settings are in the tab Draw",
            )
            most = min(_EDITED, self.studio.limits.max_images)
            with gr.Row():
                number = gr.Slider(1, most, most, step=1, label="Pictures")
                seed = seed_box(f"{tab}-seed")
            with gr.Row():
                go = gr.Button("Draw", variant="primary", min_width=80, elem_id=f"{tab}-draw")
                cancel = gr.Button("Cancel", variant="stop", min_width=80, elem_id=f"{tab}-cancel")
            status, pictures, shown, chosen = self._add_result(f"{tab}-pictures", columns=2)
        self._targets[tab] = [picture, prompt]
        form: Fields = {"prompt": prompt, "number": number, "seed": seed, **self._form_of_edits()}

        def edit(key: object, *values: object) -> Iterator[Look]:
            given, extras, rest = values[0], values[1 : 1 + len(extra)], values[1 + len(extra) :]
            return work(_wish(form, rest), given, dict(zip(extra, extras, strict=True)))

        outputs = [self._key, pictures, status, shown, chosen, self._history]
        turn, fields = gr.State(""), [picture, *extra.values(), *form.values()]
        self._on(go.click, edit, turn, fields, outputs)
        self._let_cancel(cancel, turn)

    def _on(
        self,
        trigger: Any,
        work: Callable[..., Iterator[Look]],
        turn: Any,
        fields: list[Any],
        outputs: list[Any],
    ) -> None:
        """Let a click begin some work, which gets the session's key and the fields."""

        def show(turn: str, key: object, *values: object) -> Iterator[list[Any]]:
            yield from self._show(turn, key, lambda key: work(key, *values))

        begun = trigger(self._begin, turn, [turn, outputs[2]], **_AT_ONCE)
        begun.then(show, [turn, self._key, *fields], outputs, trigger_mode="multiple", **_DRAWING)

    def _let_cancel(self, button: Any, turn: Any) -> None:
        """Let a button end the work of the last click, which then says so itself."""
        button.click(self._end, turn, None, **_AT_ONCE)

    def _form_of_edits(self) -> Fields:
        return {name: field for name, field in self._more.items() if name != "shape"}

    def _add_history(self) -> None:
        gr.Markdown(
            "What was drawn from this browser, the newest first. Choose one to see its settings."
        )
        details, chosen = gr.HTML(elem_id="details"), gr.State(None)
        self._history.render()
        reuse = gr.Button("Use these settings", size="sm", min_width=90)
        for tab, button in self._add_sending().items():
            self._send(button, tab, chosen)
        self._history.select(self._choose_old, self._key, [chosen, details], **_AT_ONCE)
        fields = list(self._form.values())
        reuse.click(self._reuse, chosen, [self._tabs, *fields], **_AT_ONCE)

    def _send(self, button: Any, tab: str, chosen: Any) -> None:
        going = button.click(lambda picture: _go(tab, picture), chosen, self._tabs, **_AT_ONCE)
        going.success(  # an editor takes no picture before its tab is there
            lambda picture: self._take(tab, picture), chosen, self._targets[tab], **_AT_ONCE
        )

    # What happens

    def _open(self, key: object) -> tuple[str, Any]:
        """Begin or find the session of a browser."""
        key = self.sessions.open(key)
        return key, self._show_history(key)

    def _begin(self, last: str) -> tuple[str, str]:
        """Note a click, which takes the place of the last one of its tab."""
        self._wanted.discard(last)
        turn = secrets.token_hex(8)
        self._wanted.add(turn)
        return turn, say("Waiting for its turn.")

    def _end(self, turn: str) -> None:
        self._wanted.discard(turn)

    def _draw(self, key: str, *values: object) -> Iterator[Look]:
        return self.studio.draw(_wish(self._form, values))

    def _draw_again(self, key: str, *values: object) -> Iterator[Look]:
        wish, last = _wish(self._form, values), self.sessions.last_wish(key)
        return self.studio.draw(wish if last is None else wish.after(last))

    def _redraw(self, wish: Wish, painting: object, _: Fields) -> Iterator[Look]:
        return self.studio.redraw(wish, *read_painting(painting))

    def _extend(self, wish: Wish, image: object, around: Fields) -> Iterator[Look]:
        return self.studio.extend(wish, read_picture(image), around)

    def _vary(self, wish: Wish, image: object, settings: Fields) -> Iterator[Look]:
        return self.studio.vary(wish, read_picture(image), settings["strength"])

    def _show(
        self, turn: str, key: object, work: Callable[[str], Iterator[Look]]
    ) -> Iterator[list[Any]]:
        """Show looks: values for the key, gallery, status, what is shown, chosen, and history."""
        key = self.sessions.open(key)
        try:
            for look in work(key) if turn in self._wanted else ():
                if turn not in self._wanted:
                    break
                pictures: Any = show_pictures(look) or gr.skip()
                if look.drawn:
                    drawn = list(look.drawn)
                    self.sessions.add(key, look.wish, drawn)
                    history = self._show_history(key)
                    yield [key, pictures, show_status(look), drawn, drawn[0], history]
                    return
                yield [key, pictures, show_status(look), [], None, gr.skip()]
            yield [key, gr.skip(), say("Cancelled."), [], None, gr.skip()]
        except DalleMiniError as error:
            told = own_words(str(error))
            yield [key, gr.skip(), say(told), [], None, gr.skip()]
            raise gr.Error(html.escape(told, quote=False), print_exception=False) from error
        finally:
            self._wanted.discard(turn)

    def _show_history(self, key: object) -> list[tuple[str, str]]:
        found = self.sessions.drawn(key)
        return [(str(drawn.path), f"{drawn.wish.prompt}, {drawn.caption}") for drawn in found]

    def _choose_old(self, key: object, event: gr.SelectData) -> tuple[Drawn | None, str]:
        drawn = self.sessions.drawn(key)
        picture = drawn[event.index] if 0 <= event.index < len(drawn) else None
        return picture, "" if picture is None else show_settings(picture)

    def _reuse(self, picture: Drawn | None) -> list[Any]:
        """Fill the form with the settings of a picture."""
        if picture is None:
            raise gr.Error("Choose a picture first.", print_exception=False)
        values = [getattr(picture.wish, name) for name in self._form]
        values[list(self._form).index("seed")] = str(picture.wish.seed)
        return [gr.Tabs(selected="draw"), *values]

    def _take(self, tab: str, picture: Drawn) -> list[Any]:
        """Return a picture as its tab shows it, and its prompt."""
        path: Any = str(picture.path)
        if tab == "redraw":
            path = {"background": path, "layers": [], "composite": path}
        return [path, picture.wish.prompt]


def _wish(form: Fields, values: Sequence[object]) -> Wish:
    """Return what a form asks for; an empty field means the usual.

    Raises:
        InputError: the seed, or a number of pictures, is not a whole number.
        ConfigError: a value has the wrong type.
    """
    given = {name: value for name, value in zip(form, values, strict=True) if value is not None}
    seed = str(given.pop("seed", "")).strip()
    if seed and not seed.isdecimal():
        raise InputError(
            f"The seed is a whole number from 0, or empty for a fresh one, not {seed}."
        )
    for name, told in (("number", "pictures"), ("candidates", "candidates")):
        count = given.get(name)
        if isinstance(count, float):
            if not count.is_integer():
                raise InputError(f"The number of {told} is a whole one, not {count:g}.")
            given[name] = int(count)
    return Wish.from_dict({"prompt": "", **given, "seed": int(seed) if seed else None})


def _go(tab: str, picture: Drawn | None) -> Any:
    if picture is None:
        raise gr.Error("Draw something first, or choose a picture.", print_exception=False)
    return gr.Tabs(selected=tab)


def _choose(shown: list[Drawn], event: gr.SelectData) -> Drawn | None:
    return shown[event.index] if 0 <= event.index < len(shown) else None
