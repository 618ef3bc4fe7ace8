"""A campaign: one decision for each of many players, through the batch route of a running house.

    players without an answer --batches--> POST /v1/decisions/batch --final--> the file of answers, on disk
                                  ^------ 429, 503, no answer: wait as the house says, then ask the same again

Each request bears an id made of campaign and player: a batch that is asked again, after a kill or a time-out, gets
the decisions that were made, so nobody is decided twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from features.errors import CroupierError
from pipelines.campaigns.answers import Answer, AnswerFile

PATIENCE_SECONDS: Final = 600.0
"""How long nothing may be answered before a campaign ends with players left."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_SECONDS: Final = 35.0
"""How long a batch is waited for, for which the house has half a minute."""
_LATER: Final = frozenset({429, 503})
"""Statuses of what may be asked again."""
_FAULT: Final = 500
"""Status of a fault of the house: it is neither final nor asked again at once."""


class CampaignRefused(CroupierError):
    """The house takes no batch of the campaign, whoever is in it."""

    code = "campaign_refused"
    exit_code = 2


class Campaign(NamedTuple):
    """A campaign and how it is asked.

    Attributes:
        name: Its name, of which the ids of requests are made.
        asked: Fields of every request, as `POST /v1/decisions` takes them.
        address: The house.
        key: One of its API keys.
        at_once: Batches under way.
        batch: Players of a batch.
        patience: Seconds without any answer after which it ends.
    """

    name: str
    asked: Mapping[str, Any]
    address: str
    key: str
    at_once: int = 2
    batch: int = 200
    patience: float = PATIENCE_SECONDS

    def __repr__(self) -> str:
        return f"Campaign({self.name}, {self.address})"

    def request_id(self, player: str) -> str:
        """Id of the request about a player."""
        return hashlib.blake2b(f"{self.name}\n{player}".encode(), digest_size=20, person=b"campaign").hexdigest()


class CampaignResult(msgspec.Struct):
    """What became of a campaign: players = answered_before + decided + refused + left.

    Attributes:
        players: Players of the file.
        repeated: Times that an id stood there again.
        answered_before: Those who had an answer when it began.
        decided: Those who got a decision now, of which `contacts` are for a contact.
        refused: Those whom the house refused, by code in `problems`; asked again they would be refused again.
        left: Those without an answer, of a fault of the house too; run it again to go on.
        again: Requests that were asked again, by why.
    """

    campaign: str
    players: int
    repeated: int
    answered_before: int
    decided: int = 0
    contacts: int = 0
    refused: int = 0
    left: int = 0
    problems: dict[str, int] = msgspec.field(default_factory=dict)
    again: dict[str, int] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    per_second: float = 0.0


class _Batch(msgspec.Struct):
    answers: list[msgspec.Raw]


class _Later(NamedTuple):
    """Why the house could not do a batch now, and how many seconds it asks to wait."""

    why: str
    seconds: float = 0.0


_BATCH: Final = msgspec.json.Decoder(_Batch)
_ANSWER: Final = msgspec.json.Decoder(Answer)


def run(
    campaign: Campaign, players: Sequence[str], repeated: int, answers: AnswerFile, console: Console
) -> CampaignResult:
    """Decide for all players who have no answer yet; shows progress.

    Raises:
        CampaignRefused: The house does not know the key, or takes no batch.
    """
    waiting = [player for player in players if player not in answers.players]
    result = CampaignResult(campaign.name, len(players), repeated, len(players) - len(waiting))
    begun = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("players", total=len(players), completed=result.answered_before)
        course = _Course(campaign, answers, result, lambda done: progress.advance(task, done))
        asyncio.run(course.run(waiting))
    result.left = len(waiting) - result.decided - result.refused
    result.seconds = round(time.monotonic() - begun, 1)
    result.per_second = round((result.decided + result.refused) / max(result.seconds, 0.1), 1)
    return result


class _Course:
    """A campaign under way."""

    def __init__(
        self, campaign: Campaign, answers: AnswerFile, result: CampaignResult, tell: Callable[[int], None]
    ) -> None:
        self._campaign, self._answers, self._result, self._tell = campaign, answers, result, tell
        self._again, self._problems = Counter[str](), Counter[str]()
        self._answered = time.monotonic()
        self._pause = 0.0
        self._open_at = 0.0

    async def run(self, players: Sequence[str]) -> None:
        """Ask for all, some batches at once."""
        size = self._campaign.batch
        batches = deque(players[at : at + size] for at in range(0, len(players), size))
        headers = {"authorization": f"Bearer {self._campaign.key}"}
        limit = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=limit) as session,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(self._campaign.at_once):
                    group.create_task(self._lane(session, batches))
        except* CampaignRefused as refused:
            raise refused.exceptions[0] from None
        finally:
            self._result.again, self._result.problems = dict(self._again), dict(self._problems)

    async def _lane(self, session: aiohttp.ClientSession, batches: deque[Sequence[str]]) -> None:
        while batches and not self._is_over():
            left = await self._turn(session, batches.popleft())
            if left:
                batches.appendleft(left)

    def _is_over(self) -> bool:
        return time.monotonic() - self._answered > self._campaign.patience

    async def _turn(self, session: aiohttp.ClientSession, players: Sequence[str]) -> Sequence[str]:
        """Ask for a batch, once nobody was asked to wait; returns the players who must be asked again."""
        await asyncio.sleep(self._open_at - time.monotonic())
        found = await self._asked(session, players)
        if isinstance(found, _Later):
            self._again[found.why] += len(players)
            self._hold(found.seconds)
            return players
        left = [(player, answer) for player, _, answer in found if answer.status in _LATER]
        self._problems.update(str(answer.code) for _, _, answer in found if answer.status == _FAULT)
        self._note([one for one in found if one[2].status not in {*_LATER, _FAULT}])
        if left:
            self._again.update(str(answer.code) for _, answer in left)
            self._hold(0.0)
        return [player for player, _ in left]

    def _note(self, final: Sequence[tuple[str, msgspec.Raw, Answer]]) -> None:
        if not final:
            return
        self._answers.add(final)
        self._answered, self._pause = time.monotonic(), 0.0
        problems = [answer.code for _, _, answer in final if answer.code is not None]
        self._problems.update(problems)
        self._result.refused += len(problems)
        self._result.decided += len(final) - len(problems)
        self._result.contacts += sum(answer.contact for _, _, answer in final)
        self._tell(len(final))

    def _hold(self, seconds: float) -> None:
        """Let nobody ask for as long as the house says, and longer each time that it goes on."""
        self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
        self._open_at = max(self._open_at, time.monotonic() + max(seconds, self._pause))

    async def _asked(
        self, session: aiohttp.ClientSession, players: Sequence[str]
    ) -> list[tuple[str, msgspec.Raw, Answer]] | _Later:
        """Answers of a batch, or why it must be asked again; raises CampaignRefused."""
        campaign = self._campaign
        requests = [
            {**campaign.asked, "player_id": player, "request_id": campaign.request_id(player)} for player in players
        ]
        try:
            async with session.post(f"{campaign.address}/v1/decisions/batch", json={"requests": requests}) as answered:
                body = await answered.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return _Later("no_answer")
        if answered.status in _LATER or answered.status >= 500:
            return _Later(_code(body, answered.status), _seconds(answered.headers.get("retry-after", "")))
        if answered.status != 200:
            raise CampaignRefused(f"{campaign.address} answers {answered.status}: {_detail(body)}")
        found = _BATCH.decode(body).answers
        return [(player, raw, _ANSWER.decode(raw)) for player, raw in zip(players, found, strict=True)]


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""
    title: str = ""


def _problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        return _Problem()


def _code(body: bytes, status: int) -> str:
    return _problem(body).code or f"status_{status}"


def _detail(body: bytes) -> str:
    told = _problem(body)
    return told.detail or told.title or "no problem that is known here; is it a house?"


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0
