"""Generating for others: the app in a browser, by `dallemini app`.

`studio` draws what a form asks for and knows no page; `sessions` remembers what was drawn for whom;
`gui` is the page and `web` serves it. The last two need the extra `app`.
"""

from __future__ import annotations
