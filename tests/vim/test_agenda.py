"""Who is looked at and who chooses next."""

from __future__ import annotations

import asyncio

from services.vim.agenda import Agenda, Turn


async def test_the_first_in_priority_comes_first_and_each_only_once() -> None:
    agenda = Agenda()
    for name, priority in (("a", 0), ("b", 5), ("a", 0), ("c", 5), ("d", -1), ("a", 9)):
        agenda.add(name, priority)
    assert [await agenda.take() for _ in range(4)] == ["a", "b", "c", "d"]


async def test_what_is_in_hand_is_looked_at_again_afterwards() -> None:
    agenda = Agenda()
    agenda.add("a")
    assert await agenda.take() == "a"
    agenda.add("a", 7)
    agenda.add("b", 3)
    assert await agenda.take() == "b", "not while somebody else has it"
    agenda.done("a")
    agenda.done("b")
    assert await agenda.take() == "a"
    agenda.done("a")
    agenda.add("c")
    assert await agenda.take() == "c", "once"


async def test_turns_go_by_priority_whoever_gives_up() -> None:
    turn, order = Turn(), []

    async def go(name: str, priority: int) -> None:
        async with turn.of(priority):
            order.append(name)

    async with turn.of(0):
        tasks = {
            name: asyncio.create_task(go(name, p)) for name, p in (("a", 0), ("b", 5), ("c", 7), ("d", 5))
        }
        await asyncio.sleep(0)
        tasks["c"].cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert order == ["b", "d", "a"]
    first = asyncio.create_task(go("first", 1))
    async with turn.of(0):
        await asyncio.sleep(0)
        second = asyncio.create_task(go("second", 0))
        await asyncio.sleep(0)
    first.cancel()  # it was just given the turn, and passes it on
    await asyncio.wait_for(second, 1)
    await asyncio.wait_for(go("third", 0), 1)
