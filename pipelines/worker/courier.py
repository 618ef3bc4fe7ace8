"""One message that is due, as far as it goes now: rendered, confirmed and attempted in one call, sent, settled.

Whoever dies before the attempt leaves the message due; whoever dies after it may have sent it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import structlog

from features.moments import moment
from features.steps import Step
from features.store.connection import deadline
from features.store.deployment import House
from features.store.errors import StoreError
from features.store.keys import PlayerKeys, send_key, sends_key
from models.catalogue.offers import Catalogue
from pipelines.worker.consumer import OwnedPartition
from pipelines.worker.due import DueMessage
from pipelines.worker.lanes import HouseTime, Lane, Rendering
from service.contacts.ledger import Claim, RedisLedger
from service.decisions.confirm import Confirmed, attempt
from service.decisions.kept import KeptDecision, load_stored
from service.decisions.outcomes import Contact, Outcome, entry
from service.decisions.serving import Serving
from service.delivery.message import Later, Message, Refused, SendResult, Unknown
from service.delivery.sends import (
    MOST_TRIES,
    NEVER_PROVED,
    SECOND_US,
    SETTLE_SECONDS,
    Attempt,
    Next,
    Send,
    after,
    may_repeat,
)
from service.errors import Contended, RequestRefused, Revoked, TooEarlyError

CALL_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
"""Beyond a connector's own time, until an attempt counts as one without an answer."""
PAUSE_SECONDS: Final = 60.0
"""The longest pause of a connector that one answer makes."""
_OPEN: Final = frozenset({"due", "attempted", "unknown"})
_AGAIN_SECONDS: Final = 0.5
_LOG: Final = structlog.get_logger()


class Turn(NamedTuple):
    """What a message needs besides itself: the lease of its partition, and what serves."""

    lease: OwnedPartition
    serving: Serving


class InHand(NamedTuple):
    """A message in hand: when it was due, its decision, and what is known of sending it."""

    due: DueMessage
    kept: KeptDecision
    send: Send


class Courier:
    """Takes messages of a house to their connectors.

    Args:
        house: The house.
        ledger: Its ledger.
        lanes: The connectors by name.
        rendering: What makes messages.
        clock: House time.
        step: Called before every step with its name.
        stopping: Whether the process ends.

    Attributes:
        lanes: See above.
        counted: Messages by `state/connector` that they came into, and `unproved`.
    """

    def __init__(
        self,
        house: House,
        ledger: RedisLedger,
        lanes: dict[str, Lane],
        rendering: Rendering,
        clock: HouseTime,
        step: Step,
        stopping: Callable[[], bool],
    ) -> None:
        self._house, self._whole, self.lanes, self._rendering = house, ledger, lanes, rendering
        self._clock, self._step, self._stopping = clock, step, stopping
        self.counted: Counter[str] = Counter()

    @property
    def _ledger(self) -> RedisLedger:
        return self._whole.by(deadline(CALL_SECONDS))

    async def handle(self, due: DueMessage, turn: Turn) -> int | Lane | None:
        """Send a message, or settle it.

        When to look at it again by house time; the lane at whose turn; None where the store says when, if ever.
        """
        ledger = self._ledger
        send = Send.loads(await ledger.store.hash(send_key(due.decision_id)))
        held = await ledger.decision(due.decision_id)
        if send is None or held is None or send.state not in _OPEN:
            await ledger.store.command("ZREM", sends_key(due.partition), due.decision_id)
            return None
        one = InHand(due, load_stored(held).kept, send)
        if send.state != "due" and not self._repeats(one):
            await self._settle(one, turn)
            return None
        rendered = await self._rendered(one.kept, ledger)
        if isinstance(rendered, Refused):
            await self._record(one, Next("failed", why=rendered.reason), turn, send.tries)
            return None
        return await self._in_turn(one, rendered, self.lanes[rendered.connector], turn)

    def _repeats(self, one: InHand) -> bool:
        """Whether an attempt without an answer is made again: the provider honours our key, or it must arrive."""
        lane, sent = self.lanes.get(one.send.connector), one.kept.action
        if lane is None or sent is None or one.send.tries >= MOST_TRIES or self._clock.now_us() > sent.valid_until_us:
            return False
        return may_repeat(sent.purpose, honours_key=lane.sender.honours_key)

    async def _rendered(self, kept: KeptDecision, ledger: RedisLedger) -> Message | Refused:
        self._step("render")
        keys = PlayerKeys(kept.player)
        return self._rendering.message(kept, await ledger.store.hash(keys.facts), await ledger.seal_of(keys))

    async def _in_turn(self, one: InHand, message: Message, lane: Lane, turn: Turn) -> int | Lane | None:
        """Send a message, unless its connector has others in hand, pauses, or gave out all that it takes now."""
        if (pause := lane.paused_until - time.monotonic()) > 0:
            return self._clock.after(pause)
        if lane.is_full:
            return lane
        lane.busy += 1
        try:
            if (wait := await lane.rate.wait_seconds(self._ledger.store, self._clock.real_us())) > 0:
                return self._clock.after(wait)
            return await self._send(one, message, lane, turn)
        finally:
            lane.busy -= 1

    async def _send(self, one: InHand, message: Message, lane: Lane, turn: Turn) -> int | None:
        """Confirm a message and note the attempt, then send it and record what came of it."""
        self._step("attempt")
        until_us = self._clock.after(lane.timeout_seconds + ANSWER_SECONDS)
        claim = Claim(turn.lease.epoch, one.send.tries, lane.name, until_us, one.send.state != "due")
        try:
            leave = await attempt(one.kept, turn.serving, self._ledger, claim)
        except TooEarlyError:
            return self._clock.after(1.0)
        except Contended:
            raise
        except RequestRefused as refusal:
            await self._withdrawn(one, refusal, turn)
            return None
        if leave is None:  # another was first
            return None
        made = self._made(one, message, lane, leave)
        self._step("send")
        result = await self._answer(replace(message, valid_until_us=made.last_us), lane, made)
        self._step("record")
        await self._record(one, after(result, made, self._clock.now_us()), turn, made.tries, lane.name)
        return None

    def _made(self, one: InHand, message: Message, lane: Lane, leave: Confirmed) -> Attempt:
        until_us = message.valid_until_us
        tries, rate = one.send.tries + 1, self._house.rate
        return Attempt(message.purpose, lane.sender.honours_key, tries, leave.send_by_us, until_us, rate)

    async def _answer(self, message: Message, lane: Lane, made: Attempt) -> SendResult:
        """A connector's answer; where it raises, or is silent, nobody knows."""
        if self._clock.now_us() > made.last_us:
            late = "its leave to be sent ended before its turn"
            return Refused(late, permanent=True) if made.tries == 1 else Unknown(late)
        try:
            result = await asyncio.wait_for(lane.sender.send(message), lane.timeout_seconds + ANSWER_SECONDS / 2)
        except TimeoutError:
            return Unknown("no answer in time")
        except Exception as error:  # noqa: BLE001 - of a vendor's library: its text may hold an address
            return Unknown(type(error).__name__)
        if isinstance(result, Later):
            lane.paused_until = max(lane.paused_until, time.monotonic() + min(result.seconds, PAUSE_SECONDS))
        return result

    async def _withdrawn(self, one: InHand, refusal: RequestRefused, turn: Turn) -> None:
        """What may not be sent is taken out, and gives its room back; what may have been sent waits for a receipt."""
        if one.send.state != "due":
            await self._settle(one, turn)
        else:
            found = Next("withdrawn", why=refusal.code)
            await self._record(one, found, turn, one.send.tries, cancels=isinstance(refusal, Revoked))

    async def _settle(self, one: InHand, turn: Turn) -> None:
        """An attempt of which nobody knows waits a day for a receipt, and then counts as sent."""
        now_us, settle_us = self._clock.now_us(), one.send.at_us + SETTLE_SECONDS * SECOND_US
        if one.send.state == "attempted":
            wait_us = now_us + SETTLE_SECONDS * SECOND_US
            await self._record(one, Next("unknown", wait_us, "no answer"), turn, one.send.tries)
        elif now_us >= settle_us:
            await self._record(one, Next("sent", why=NEVER_PROVED), turn, one.send.tries)
        else:
            key = sends_key(one.due.partition)
            await self._ledger.store.command("ZADD", key, settle_us, one.due.decision_id)

    async def _record(
        self, one: InHand, found: Next, turn: Turn, tries: int, connector: str = "", *, cancels: bool = False
    ) -> None:
        """Bring a message into its next state, and tell the outcome; tried until the store takes it."""
        outcome = "cancelled" if cancels else found.state if found.state in {"sent", "failed"} else ""
        tell, again = partial(self._tell, one.kept, outcome, turn.serving.layout.catalogue), False
        settles = outcome == "failed" and tries > one.send.tries
        while True:
            try:
                if settles:
                    await tell()  # which settles the attempt, and gives its room back, in one call
                moved = await self._go_on(one, found, tries)
                if outcome and not settles and (moved or again):
                    await tell()
            except StoreError:
                if self._stopping():
                    raise
                again = True
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                if found.state in {"failed", "unknown"}:
                    _LOG.warning("send", state=found.state, decision=one.due.decision_id, why=found.why)
                self.counted[f"{found.state}/{connector or one.send.connector}"] += 1
                self.counted["unproved"] += found.why == NEVER_PROVED
                return

    async def _go_on(self, one: InHand, found: Next, tries: int) -> bool:
        """Whether a message came into its next state: from where it is in hand, or from where others put it since."""
        # An answer that comes late is true; what follows from the lack of one is not, once somebody else tried.
        late = found.state in {"sent", "failed"} and tries > one.send.tries
        state = (
            f"attempted unknown {found.state}" if late else "attempted" if tries > one.send.tries else one.send.state
        )
        fields = ["state", found.state, "at", self._clock.now_us(), "why", found.why]
        fields += ["id", found.provider_id] if found.provider_id else []
        names = [send_key(one.due.decision_id), sends_key(one.due.partition)]
        look = "" if found.look_us is None else found.look_us
        arguments = [one.due.decision_id, f" {state} ", "" if late else tries, look, *fields]
        return bool(await self._ledger.store.call("croupier_go_on", names, arguments))

    async def _tell(self, kept: KeptDecision, type_: str, catalogue: Catalogue) -> None:
        ledger = self._ledger
        named = {"outcome_id": f"house-{type_}-{kept.decision_id}", "decision_id": kept.decision_id, "type": type_}
        outcome = Outcome.model_validate({**named, "occurred_at": moment(self._clock.now_us())})

        async def told(player: str) -> None:
            made = entry(outcome, Contact.of(kept), player, catalogue)
            await ledger.append(PlayerKeys(player), made if player == kept.player else made.under(kept.player))

        await ledger.identities.with_owner(kept.player, told)
