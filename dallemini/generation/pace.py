"""How many positions a pass should decode: from the seconds that rows cost, and guesses held.

Knows numbers only. A pass over several positions of a picture takes longer than over one, but not
by as many times, as long as reading the weights is what takes the time; how much of it counts is
seen afterwards. Both are measured while pictures are drawn: they differ by model, processor, and
by what else computes.
"""

from __future__ import annotations

from collections import deque

WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)

_REMEMBERED = 4  # passes of as many rows; the fastest counts, since others may have waited
_TRIED = 16  # passes until another width is tried, whose time may have changed
_HELD, _OF = 1.0, 2.0  # guesses that held, of how many: before any is made


class Pace:
    """Learns what passes cost and bring, and says how wide the next one should be.

    Example:
        >>> from dallemini.generation.pace import Pace
        >>> pace = Pace()
        >>> for rows, seconds in ((2, 1.0), (8, 1.2), (32, 4.0)):
        ...     pace.learn_time(rows, seconds)
        >>> for _ in range(9):
        ...     pace.learn_kept(4, 4)  # all guesses held
        >>> pace.choose(2, most=16)
        4
    """

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._held = [_HELD] * max(WIDTHS)
        self._made = [_OF] * max(WIDTHS)
        self._passes = 0

    def learn_time(self, rows: int, seconds: float) -> None:
        """Note what a pass of so many rows, times positions, took."""
        self._seconds.setdefault(rows, deque(maxlen=_REMEMBERED)).append(seconds)

    def learn_kept(self, width: int, kept: int) -> None:
        """Note how many positions counted of a pass of this width, one for certain."""
        for depth in range(min(kept, width - 1)):
            self._made[depth] += 1
            self._held[depth] += depth + 1 < kept

    def tokens(self, width: int) -> float:
        """Return how many positions of a pass of this width are likely to count."""
        chance, total = 1.0, 1.0
        for held, made in zip(self._held[: width - 1], self._made, strict=False):
            chance *= held / made
            total += chance
        return total

    def cost(self, rows: int) -> float:
        """Return how long a pass of so many rows takes, or would: on a line between those known."""
        known = sorted(self._seconds)
        if rows in self._seconds:
            return min(self._seconds[rows])
        if len(known) < 2:
            return min(self._seconds[known[0]]) if known else 1.0
        at = min(max(sum(one < rows for one in known), 1), len(known) - 1)
        low, high = known[at - 1], known[at]
        first, second = min(self._seconds[low]), min(self._seconds[high])
        slope = max(0.0, second - first) / (high - low)
        return max(first, 1e-9) + slope * (rows - low)

    def choose(self, rows: int, *, most: int) -> int:
        """Return how many positions of these rows, at most so many, the next pass should decode."""
        widths = [width for width in WIDTHS if width <= most]
        rates = [self.tokens(width) / self.cost(rows * width) for width in widths]
        best = rates.index(max(rates))
        self._passes += 1
        turn, now = divmod(self._passes, _TRIED)
        if now == 0:  # the narrower and the wider one in turn
            best = min(max(best + (1 if turn % 2 else -1), 0), len(widths) - 1)
        return widths[best]
