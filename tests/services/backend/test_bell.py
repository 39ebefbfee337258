"""Whoever waits is woken, and nothing falls between looking and waiting."""

from __future__ import annotations

from cutlayer.services.backend.bell import ALL, Bell, heard
from tests.services.backend.stage import play


def test_those_who_listen_are_woken() -> None:
    async def scene() -> None:
        bell = Bell()
        with bell.listening("a") as a, bell.listening("a") as other, bell.listening("b") as b:
            bell.ring(["a", "nobody"])
            assert (a.is_set(), other.is_set(), b.is_set()) == (True, True, False)
            bell.ring([ALL])
            assert b.is_set()
        with bell.listening("a") as a:
            assert not a.is_set(), "what rang before is over"

    play(scene())


def test_waiting_has_an_end() -> None:
    async def scene() -> None:
        bell = Bell()
        with bell.listening("a") as a:
            assert not await heard(a, 0)
            assert not await heard(a, -1)
            assert not await heard(a, 0.01)
            bell.ring(["a"])
            assert await heard(a, None)

    play(scene())


def test_a_closed_bell_lets_nobody_wait() -> None:
    async def scene() -> None:
        bell = Bell()
        with bell.listening("a") as a:
            bell.close()
            assert await heard(a, None)
        with bell.listening("b") as b:
            assert await heard(b, None)

    play(scene())
