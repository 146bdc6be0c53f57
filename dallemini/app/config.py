"""The limits of the service."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from ..config import Config
from ..errors import ConfigError

_OTHER_FIELDS = 16 << 10
MOST_IMAGES = 1000  # in one answer, which is held in memory


@dataclass(frozen=True, kw_only=True)
class ServiceConfig(Config):
    """What the service takes on; the rest is refused with a reason.

    Attributes:
        max_batch: pictures that are drawn at the same time; "auto" for as many as gain time and fit
            into the memory at hand.
        max_waiting: pictures that wait; one client may fill half of that.
        max_images: pictures of one request.
        max_prompt_length: characters of a prompt.
        max_upload: bytes of a request that carries pictures.
        timeout: seconds after which an unfinished request is given up.

    Raises:
        ConfigError: a value has the wrong type or is out of range.

    Example:
        >>> from dallemini.app.config import ServiceConfig
        >>> ServiceConfig(max_images=4).max_images
        4
    """

    max_batch: int | Literal["auto"] = "auto"
    max_waiting: int = 256
    max_images: int = 10
    max_prompt_length: int = 1000
    max_upload: int = 8 << 20
    timeout: float = 300.0

    @property
    def max_body(self) -> int:
        """Bytes of a request without pictures; JSON spells a character with 12 bytes at most."""
        return _OTHER_FIELDS + 12 * self.max_prompt_length

    def __post_init__(self) -> None:
        self.check_types()
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value != "auto" and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a finite number above 0, not {value}.")
        if self.max_images > min(self.max_waiting, MOST_IMAGES):
            raise ConfigError(
                f"max_images must be at most {MOST_IMAGES} and at most max_waiting, so that a "
                f"request finds room, not {self.max_images} where {self.max_waiting} may wait."
            )
