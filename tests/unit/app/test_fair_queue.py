"""Clients take turns, and so do the requests of a client."""

from __future__ import annotations

from dallemini.app.fair_queue import FairQueue


def test_clients_take_turns_and_so_do_their_requests() -> None:
    queue: FairQueue[str] = FairQueue()
    for client, request, pictures in (("a", "a1", 3), ("a", "a2", 1), ("b", "b1", 2)):
        queue.add(client, request, pictures)
    taken = []
    while queue:
        first = queue.peek()
        taken.append(queue.take())
        assert taken[-1] == first
    assert taken == [("a1", 0), ("b1", 0), ("a2", 0), ("b1", 1), ("a1", 1), ("a1", 2)]


def test_a_removed_request_leaves_nothing_behind() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add("a", "a1", 2)
    queue.add("a", "a2", 2)
    queue.add("b", "b1", 1)
    queue.take()
    queue.remove("a1")
    queue.remove("b1")
    queue.remove("never there")
    assert (len(queue), queue.count("a"), queue.count("b")) == (2, 2, 0)
    assert queue.requests() == ["a2"]
    assert queue.take() == ("a2", 0)
