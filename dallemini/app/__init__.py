"""Generating for others: the app in a browser by `dallemini app`, the service by `dallemini serve`.

The app: `studio` draws what a form asks for and knows no page; `sessions` remembers what was drawn
for whom; `gui` is the page and `web` serves it. The last two need the extra `app`.

The service, which needs the extra `serve`: `batcher` draws the pictures of all clients together and
knows no HTTP; `fair_queue` decides whose picture is next; `order` is what the pipeline does for
both. `service` answers in the shapes of `api`, behind `guards`; `server` runs it.
"""

from __future__ import annotations
