"""Who gets a place, in which order, and who is told at once that they cannot be answered in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.api.admission import BATCH_BESIDE, Admission, Turn
from service.errors import OverloadedError

SOON = 0.25
"""How long a request may take, seconds."""


class Desk:
    """An admission by a clock that stands still unless it is moved, and the requests that got a place, in order."""

    def __init__(self, places: int = 2, batch_places: int = 1) -> None:
        self.now = 1_000.0
        self.admission = Admission(lambda: self.now, places, batch_places)
        self.admitted: list[str] = []
        self.shed: list[str] = []

    async def ask(self, name: str, turn: Turn = Turn.DECISION, key: str = "caller", seconds: float = SOON) -> None:
        try:
            await self.admission.enter(turn, key, self.now + seconds)
        except OverloadedError:
            self.shed.append(name)
        else:
            self.admitted.append(name)

    def begin(self, name: str, turn: Turn = Turn.DECISION, key: str = "caller", seconds: float = SOON) -> Asked:
        return asyncio.create_task(self.ask(name, turn, key, seconds))

    async def answer(self, seconds: float = 0.001, turn: Turn = Turn.DECISION) -> None:
        self.now += seconds
        self.admission.leave(turn)
        await rest()

    async def answer_all(self, turns: Callable[[str], Turn] = lambda _: Turn.DECISION) -> None:
        """Answer one after the other whoever is admitted, in that order."""
        done = 0
        while done < len(self.admitted):
            await self.answer(turn=turns(self.admitted[done]))
            done += 1


Asked = asyncio.Task[None]


async def rest() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(case: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(case())  # type: ignore[arg-type]


def test_no_more_are_worked_at_than_there_are_places_and_all_are_in_the_end() -> None:
    async def case() -> None:
        desk = Desk(places=3)
        asked = [desk.begin(str(number)) for number in range(10)]
        await rest()
        assert desk.admitted == ["0", "1", "2"]
        await desk.answer_all()
        assert desk.admitted == [str(number) for number in range(10)]
        await asyncio.gather(*asked)

    run(case)


def test_places_go_to_confirms_then_to_what_is_told_then_to_decisions_then_to_batches() -> None:
    async def case() -> None:
        desk = Desk(places=1)
        order = [Turn.BATCH, Turn.DECISION, Turn.TOLD, Turn.CONFIRM]
        asked = [desk.begin("first"), *[desk.begin(turn.name, turn) for turn in order]]
        await rest()
        await desk.answer_all(lambda name: Turn[name] if name in Turn.__members__ else Turn.DECISION)
        assert desk.admitted == ["first", "CONFIRM", "TOLD", "DECISION", "BATCH"]
        await asyncio.gather(*asked)

    run(case)


def test_a_key_that_sends_little_does_not_wait_behind_one_that_sends_much() -> None:
    async def case() -> None:
        desk = Desk(places=1)
        asked = [desk.begin(f"much{number}", key="much") for number in range(20)]
        asked += [desk.begin(f"little{number}", key="little") for number in range(2)]
        await rest()
        await desk.answer_all()
        assert [desk.admitted.index(f"little{number}") for number in range(2)] == [2, 4]
        await asyncio.gather(*asked)

    run(case)


def test_items_of_batches_leave_places_to_others() -> None:
    async def case() -> None:
        desk = Desk(places=4, batch_places=2)
        asked = [desk.begin(f"item{number}", Turn.BATCH, seconds=30) for number in range(10)]
        await rest()
        assert len(desk.admitted) == 2
        asked += [desk.begin("single")]
        await rest()
        assert "single" in desk.admitted
        await desk.answer_all(lambda name: Turn.BATCH if name.startswith("item") else Turn.DECISION)
        assert len(desk.admitted) == 11
        await asyncio.gather(*asked)

    run(case)


def test_whoever_cannot_be_answered_in_time_is_told_at_once_and_when_to_ask_again() -> None:
    async def case() -> None:
        desk = Desk(places=8)
        for _ in range(200):  # one answer in 30 ms, while others wait
            await slow(desk, 0.03)
        asked = [desk.begin(str(number)) for number in range(40)]
        await rest()
        assert desk.shed
        assert len(desk.admitted) * 0.03 <= SOON
        with pytest.raises(OverloadedError) as told:
            await desk.admission.enter(Turn.DECISION, "caller", desk.now + SOON)
        assert int(told.value.headers()["retry-after"]) >= 1
        await desk.answer_all()
        await asyncio.gather(*asked)

    run(case)


async def slow(desk: Desk, seconds: float) -> None:
    """Eight requests with much time at once, answered one after the other, each so long after the one before."""
    asked = [desk.begin("slow", seconds=1e6) for _ in range(8)]
    await rest()
    for _ in asked:
        await desk.answer(seconds)
    await asyncio.gather(*asked)
    desk.admitted.clear()


def test_what_has_more_time_waits_where_what_has_less_is_shed() -> None:
    async def case() -> None:
        desk = Desk(places=8)
        for _ in range(50):
            await slow(desk, 0.03)
        asked = [desk.begin(f"decision{number}") for number in range(30)]
        asked += [desk.begin(f"confirm{number}", Turn.CONFIRM, seconds=2) for number in range(30)]
        await rest()
        assert not [name for name in desk.shed if name.startswith("confirm")]
        await desk.answer_all(lambda name: Turn.CONFIRM if name.startswith("confirm") else Turn.DECISION)
        assert len([name for name in desk.admitted if name.startswith("confirm")]) == 30
        await asyncio.gather(*asked)

    run(case)


def test_a_process_that_works_at_nothing_takes_on_whatever_comes_however_slow_it_was() -> None:
    async def case() -> None:
        desk = Desk(places=8)
        for _ in range(20):
            await slow(desk, 10.0)
        await desk.ask("first")
        assert desk.admitted == ["first"]
        await desk.answer()
        for _ in range(60):  # and so it learns that it is fast again
            await slow(desk, 0.001)
        asked = [desk.begin(str(number)) for number in range(20)]
        await rest()
        assert not desk.shed
        await desk.answer_all()
        await asyncio.gather(*asked)

    run(case)


def test_one_stall_sheds_nothing() -> None:
    async def case() -> None:
        desk = Desk(places=8)
        for _ in range(20):
            await slow(desk, 0.002)
        await slow(desk, 0.002)
        asked = [desk.begin("stalled", seconds=1e6) for _ in range(8)]
        await rest()
        for number in range(8):
            await desk.answer(5.0 if number == 3 else 0.002)
        await asyncio.gather(*asked)
        desk.admitted.clear()
        asked = [desk.begin(str(number)) for number in range(30)]
        await rest()
        assert not desk.shed
        await desk.answer_all()
        await asyncio.gather(*asked)

    run(case)


def test_whoever_stops_waiting_takes_no_place() -> None:
    async def case() -> None:
        desk = Desk(places=1)
        first, gone, last = (desk.begin(name) for name in ("first", "gone", "last"))
        await rest()
        gone.cancel()
        await rest()
        await desk.answer()
        assert desk.admitted == ["first", "last"]
        await desk.answer()
        await desk.ask("next")
        assert desk.admitted == ["first", "last", "next"]
        await asyncio.gather(first, last)

    run(case)


def test_whoever_is_cancelled_in_the_moment_of_their_turn_gives_the_place_on() -> None:
    async def case() -> None:
        desk = Desk(places=1)
        first, gone, last = (desk.begin(name) for name in ("first", "gone", "last"))
        await rest()
        desk.admission.leave(Turn.DECISION)  # its turn, of which it has not heard yet
        gone.cancel()
        await rest()
        assert desk.admitted == ["first", "last"]
        await asyncio.gather(first, last)

    run(case)


def test_whoever_waited_in_vain_is_told_when_their_turn_comes_and_others_go_on() -> None:
    async def case() -> None:
        desk = Desk(places=1)
        asked = [desk.begin("first"), desk.begin("late"), desk.begin("patient", seconds=10)]
        await rest()
        await desk.answer(seconds=1.0)
        assert (desk.admitted, desk.shed) == (["first", "patient"], ["late"])
        await asyncio.gather(*asked)

    run(case)


def test_more_than_so_many_never_wait() -> None:
    async def case() -> None:
        desk = Desk(places=1)
        asked = [desk.begin(str(number), Turn.BATCH, seconds=1e6) for number in range(2_100)]
        await rest()
        assert len(desk.shed) == 2_100 - 2_000 - 1
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    run(case)


def test_items_of_batches_have_few_places_beside_others_and_more_while_nothing_else_is_at_work() -> None:
    async def case() -> None:
        desk = Desk(places=20, batch_places=12)
        asked = [desk.begin("single")]
        await rest()
        asked += [desk.begin(f"item{number}", Turn.BATCH, seconds=30) for number in range(30)]
        await rest()
        assert len(desk.admitted) == 1 + BATCH_BESIDE
        await desk.answer()  # the single one
        assert len(desk.admitted) == 1 + 12
        desk.admitted.pop(0)
        await desk.answer_all(lambda _: Turn.BATCH)
        await asyncio.gather(*asked)

    run(case)
