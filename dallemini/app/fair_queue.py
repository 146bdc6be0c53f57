"""Whose picture is drawn next: clients take turns, and so do the requests of one client.

Knows neither pictures nor threads: the batcher locks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Request = TypeVar("Request")


class FairQueue(Generic[Request]):
    """Requests of so many pictures each; one picture at a time is taken, from one after the other.

    Example:
        >>> from dallemini.app.fair_queue import FairQueue
        >>> queue = FairQueue()
        >>> queue.add("greedy", "nine apples", 9)
        >>> queue.add("modest", "a pear", 1)
        >>> [queue.take() for _ in range(3)]
        [('nine apples', 0), ('a pear', 0), ('nine apples', 1)]
        >>> len(queue), queue.count("greedy")
        (7, 7)
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[str, deque[_Waiting[Request]]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many pictures wait."""
        return sum(map(self.count, self._turns))

    def __bool__(self) -> bool:
        """Tell whether any picture waits."""
        return bool(self._turns)

    def count(self, client: str) -> int:
        """Return how many pictures of a client wait."""
        return sum(waiting.left for waiting in self._turns.get(client, ()))

    def add(self, client: str, request: Request, pictures: int) -> None:
        """Let the pictures of a request wait."""
        self._turns.setdefault(client, deque()).append(_Waiting(request, pictures))

    def peek(self) -> tuple[Request, int]:
        """Return what `take` would, without taking it; there must be something."""
        waiting = next(iter(self._turns.values()))[0]
        return waiting.request, waiting.taken

    def take(self) -> tuple[Request, int]:
        """Take the next picture: its request, and its number there; there must be something."""
        client, requests = self._turns.popitem(last=False)
        waiting = requests.popleft()
        number, waiting.taken = waiting.taken, waiting.taken + 1
        if waiting.left:
            requests.append(waiting)
        if requests:
            self._turns[client] = requests
        return waiting.request, number

    def remove(self, request: Request) -> None:
        """Forget a request, if it waits."""
        for client, requests in self._turns.items():
            for waiting in requests:
                if waiting.request is request:
                    requests.remove(waiting)
                    if not requests:
                        del self._turns[client]
                    return

    def requests(self) -> list[Request]:
        """Return the requests that wait, wholly or in part."""
        return [waiting.request for requests in self._turns.values() for waiting in requests]


class _Waiting(Generic[Request]):
    """A request and how many of its pictures were taken."""

    def __init__(self, request: Request, pictures: int) -> None:
        self.request, self.pictures, self.taken = request, pictures, 0

    @property
    def left(self) -> int:
        return self.pictures - self.taken
