"""`dallemini app`: the app in a browser."""

from __future__ import annotations

from dataclasses import dataclass

from ..app.listening import open_socket, url_of, warn_of_strangers
from .options import needing
from .serving import Serving


@dataclass(frozen=True, kw_only=True)
class App(Serving):
    """Draw in a browser: previews, a history, and editing. Needs the extra `app`.

    It asks no other server, and deletes its pictures when it ends.
    """

    port: int = 7860

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            DalleMiniError: an option, the address or the model is no good, or the extra is missing.
        """
        self.check_address()
        with needing("app", "The app"):
            from ..app.web import create_app, serve, workplace

        guards = self.safeguards()
        warn_of_strangers(self.host, "no password is asked for")
        with open_socket(self.host, self.port) as listener, workplace() as folder:
            source = self.where.open(self.model)
            pipe = self.drawing.load(source, self.where)
            app = create_app(
                pipe,
                folder,
                source=source,
                safety_checker=guards.checker,
                watermark=guards.watermark,
                c2pa=guards.c2pa,
            )
            print(f"{pipe.name} draws on {url_of(listener)}")
            print(guards, flush=True)
            serve(app, listener)
