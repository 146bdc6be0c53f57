"""`dallemini serve`: a model as a service with OpenAI's images API."""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ..app.config import ServiceConfig
from ..app.listening import open_socket, url_of, warn_of_strangers
from ..errors import DalleMiniWarning, InputError
from .options import needing
from .serving import Serving
from .words import checking_usage

KEY_VARIABLE = "DALLEMINI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class Serve(Serving):
    """Serve a model over HTTP, with the images API of OpenAI; clients are drawn for together.

    The environment variable DALLEMINI_API_KEY, if set, is the key that clients must send.

    Attributes:
        config: limits of the service.
        access_log: write a line for each request.
    """

    port: int = 8000
    config: Annotated[ServiceConfig, tyro.conf.arg(name="")] = field(default_factory=ServiceConfig)
    access_log: bool = True

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; then what is drawn is finished.

        Raises:
            DalleMiniError: an option, the address, the key or the model is no good, or the extra
                is missing.
        """
        self.check_address()
        with needing("serve", "The service"):
            from ..app.server import Server
            from ..app.service import check_key, create_service

        with checking_usage():
            key = check_key(os.environ.get(KEY_VARIABLE))
        guards = self.safeguards()
        if key is None:
            warn_of_strangers(self.host, f"{KEY_VARIABLE} is not set")
        with open_socket(self.host, self.port) as listener:
            pipe = self.drawing.load(self.where.open(self.model), self.where)
            app = create_service(
                pipe,
                config=self.config,
                api_key=key,
                safety_checker=guards.checker,
                watermark=guards.watermark,
                c2pa=guards.c2pa,
            )
            server = Server(app, timeout=self.config.timeout, access_log=self.access_log)
            print(f"{pipe.name} is served on {url_of(listener)} (see /docs)")
            print(guards, flush=True)
            try:
                with contextlib.suppress(KeyboardInterrupt), warnings.catch_warnings():
                    warnings.simplefilter("ignore", DalleMiniWarning)  # they quote prompts
                    server.run(sockets=[listener])
            finally:
                app.state.batcher.close(0)  # where a second signal left no time to finish
        if not server.started:
            raise InputError("The service did not start; its log above says why.")
