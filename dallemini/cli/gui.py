"""`dallemini app`: the app in a browser."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..app.listening import open_socket, url_of, warn_of_strangers
from ..hub.source import BUNDLED_MODEL
from .options import (
    Drawing,
    OptionalPath,
    Safety,
    Where,
    needing,
    safeguards,
    safety_by_default,
    served_watermark,
)
from .words import checking_usage


@dataclass(frozen=True, kw_only=True)
class App:
    """Draw in a browser: previews, a history, and editing. Needs the extra `app`.

    It asks no other server, and deletes its pictures when it ends.

    Attributes:
        model: Hub id or local folder of a pipeline.
        host: address to listen on; 0.0.0.0 lets everybody in who reaches this machine.
        port: to listen on; 0 for a free one.
        watermark_key_file: a file with a secret, whose mark all pictures get; the environment
            variable DALLEMINI_WATERMARK_KEY is another place for the secret itself.
        safety: what looks at prompts and pictures.
        drawing: of the model.
        where: of the model.
    """

    model: str = BUNDLED_MODEL
    host: str = "127.0.0.1"
    port: int = 7860
    watermark_key_file: OptionalPath = None
    safety: Safety = field(default_factory=safety_by_default)
    drawing: Drawing
    where: Where

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            DalleMiniError: an option, the address or the model is no good, or the extra is missing.
        """
        with needing("app", "The app"):
            from ..app.web import create_app, serve, workplace

        with checking_usage():
            self.drawing.check()
            checker, watermark = self.safety.checker(), served_watermark(self.watermark_key_file)
        warn_of_strangers(self.host, "no password is asked for")
        with open_socket(self.host, self.port) as listener, workplace() as folder:
            source = self.where.open(self.model)
            pipe = self.drawing.load(source, self.where)
            app = create_app(
                pipe, folder, source=source, safety_checker=checker, watermark=watermark
            )
            print(f"{pipe.name} draws on {url_of(listener)}")
            print(safeguards(checker, watermark), flush=True)
            serve(app, listener)
