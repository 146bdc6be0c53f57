"""What the app takes on; the rest is refused with a reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..config import Config
from ..errors import ConfigError

MOST_PIXELS = 1 << 24  # of a picture that is sent


@dataclass(frozen=True, kw_only=True)
class AppLimits(Config):
    """The limits of the app.

    Attributes:
        max_images: pictures of one click.
        max_candidates: candidates for each picture.
        max_prompt_length: characters of a prompt.
        max_waiting: clicks that wait while another one is served.
        max_upload: bytes of a picture that is sent.
        max_history: pictures of a session that are remembered; older ones are deleted.
        max_sessions: sessions that are remembered; the one that was idle longest is forgotten.

    Raises:
        ConfigError: a value is not a whole number from 1.

    Example:
        >>> from dallemini.app.limits import AppLimits
        >>> AppLimits(max_images=4).max_images
        4
    """

    max_images: int = 9
    max_candidates: int = 8
    max_prompt_length: int = 500
    max_waiting: int = 20
    max_upload: int = 8 << 20
    max_history: int = 180
    max_sessions: int = 100

    def __post_init__(self) -> None:
        self.check_types()
        for name in (field.name for field in fields(self)):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
