"""How many positions a pass should decode: from the seconds that rows cost, and guesses held.

Knows numbers only. A pass over several positions of a picture takes longer than over one, but not
by as many times, as long as reading the weights is what takes the time; how much of it counts is
seen afterwards. Both are measured while pictures are drawn: they differ by model, processor, and
by what else computes.
"""

from __future__ import annotations

from collections import deque

WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)

_REMEMBERED = 8  # passes of as many rows; the fastest counts, since others may have waited
_TRIED = 16  # passes until another width is tried, whose time may have changed
_SLOPE, _WEIGHT = 0.03, 12  # what a row more costs of a pass, as if so many passes had shown it
_LEAST = 1.1  # times as fast as one by one, for what guessing takes between the passes
_HELD, _OF = 1.2, 2.0  # guesses that held, of how many: before any is made


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

    def tokens(self, width: int, *, pictures: int = 1, sure: int = 0) -> float:
        """Return how many positions of a pass of this width are likely to count.

        Args:
            width: of the pass.
            pictures: in step: that of which the fewest count decides when the next pass is.
            sure: how many of the next tokens are given, so that their guesses hold.
        """
        chance, total = 1.0, 1.0
        for depth in range(width - 1):
            if depth >= sure:
                chance *= self._held[depth] / self._made[depth]
            total += chance**pictures
        return total

    def costs(self) -> tuple[float, float]:
        """Return what a pass takes, whatever its rows, and what each row adds: a line of best fit.

        What is not known yet is taken to be as in models that were measured.
        """
        if not self._seconds:
            return 1.0, _SLOPE
        points = [(rows, min(each), len(each)) for rows, each in self._seconds.items()]
        fewest, fastest, _ = min(points)
        far = fewest + 16
        points.append((far, fastest * (1 + _SLOPE * (far - fewest)), _WEIGHT))
        weights = sum(weight for _, _, weight in points)
        middle = sum(rows * weight for rows, _, weight in points) / weights
        mean = sum(seconds * weight for _, seconds, weight in points) / weights
        spread = sum(weight * (rows - middle) ** 2 for rows, _, weight in points)
        tilt = sum(weight * (rows - middle) * (one - mean) for rows, one, weight in points)
        slope = max(0.0, tilt / spread)
        return max(mean - slope * middle, mean / 100), slope

    def choose(self, rows: int, *, most: int, pictures: int = 1, sure: int = 0) -> int:
        """Return how many positions of these rows, at most so many, the next pass should decode.

        `pictures` and `sure` are those of `tokens`.
        """
        widths = [width for width in WIDTHS if width <= most]
        whole, each = self.costs()
        rates = [
            self.tokens(width, pictures=pictures, sure=sure) / (whole + each * rows * width)
            for width in widths
        ]
        best = rates.index(max(rates))
        if rates[best] < _LEAST * rates[0]:
            best = 0
        self._passes += 1
        turn, now = divmod(self._passes, _TRIED)
        if now == 0:  # the narrower and the wider one in turn
            best = min(max(best + (1 if turn % 2 else -1), 0), len(widths) - 1)
        return widths[best]
