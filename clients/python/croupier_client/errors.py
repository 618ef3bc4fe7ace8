"""Errors of the client: one tree, by the code of the house's problem, and by its status where the code is unknown.

CroupierError
 |- NoAnswer              no connection, or no answer in time
 |- UnreadableAnswer      an answer of something that is no house
 `- Refused               the house says no: status, code, detail, pointer
     |- NotValid          4xx: the request is to be mended
     |- NotAllowed        401, 403, 421: the key, or what it allows
     |- NotFound          404, 405
     |- Conflict          409
     |   |- NotSent       a contact that must not be sent, with its rules
     |   `- IdReused      the id was used before for something else
     |- Fault             500: a mistake of the house
     `- Unavailable       503, and gateways: try later, under the same id
         |- RateLimited   429
         `- StopIncomplete
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from croupier_client.answers import BodyFault, Problem


class CroupierError(Exception):
    """What a call may end with.

    Attributes:
        id: The `request_id`, `event_id`, `outcome_id` or key's id of the request; None for what has none.
        occurred_at: The moment that an event or outcome was told of, ISO 8601. Sent again under both, it is the same.
    """

    id: str | None = None
    occurred_at: str | None = None


class NoAnswer(CroupierError):
    """The house did not answer in time, or could not be reached.

    Attributes:
        arrived: Whether the request may have arrived, and what it asked for may be done.
    """

    def __init__(self, sentence: str, arrived: bool) -> None:  # noqa: FBT001 - positional, so that it can be pickled
        super().__init__(sentence, arrived)
        self.arrived = arrived

    def __str__(self) -> str:
        return str(self.args[0])


class UnreadableAnswer(CroupierError):
    """What answered is no house, or its answer was cut off: the request may have been done."""


class Refused(CroupierError):
    """The house refused a request.

    Attributes:
        problem: All that it said.
        retry_after: Seconds that it asks to wait; None where it does not.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(problem, retry_after)
        self.problem = problem
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str:
        """A word for machines, which keeps its meaning."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """A sentence for people."""
        return self.problem.detail or self.problem.title

    @property
    def pointer(self) -> str | None:
        """The place in the body that is at fault, as a JSON pointer."""
        return self.problem.pointer


class NotValid(Refused):
    """A request that is to be mended: sent again as it is, it is refused again."""

    @property
    def errors(self) -> list[BodyFault]:
        """Every place of the body that is not valid, where the house tells them."""
        return self.problem.errors


class NotAllowed(Refused):
    """No key of the house, one that does not allow this, or a house that is not called so."""


class NotFound(Refused):
    """What is asked about is not there."""


class Conflict(Refused):
    """What is asked for does not go together with what is."""


class NotSent(Conflict):
    """A contact that must not be sent."""

    @property
    def rules(self) -> list[str]:
        """The rules that forbid it."""
        return self.problem.rules


class IdReused(Conflict):
    """The id was used before for something else."""


class Fault(Refused):
    """A mistake of the house, which it logged."""


class Unavailable(Refused):
    """The house, or what stands before it, cannot answer now; the request may have been done."""


class RateLimited(Unavailable):
    """More requests than the key may send."""


class StopIncomplete(Unavailable):
    """A stop, or a lift, that holds but in some partitions; the house goes on with these."""

    @property
    def stop(self) -> str | None:
        """Id of the stop."""
        return self.problem.stop

    @property
    def unreached(self) -> list[str]:
        """Partitions that did not acknowledge it."""
        return self.problem.unreached


_IDS: Final = ("request_id", "event_id", "outcome_id", "id")
BY_CODE: Final[Mapping[str, type[Refused]]] = {
    **dict.fromkeys(("revoked", "expired", "released", "too_early", "sending"), NotSent),
    **dict.fromkeys(("event_id_reused", "outcome_id_reused", "request_id_reused", "key_id_reused"), IdReused),
    "stop_incomplete": StopIncomplete,
}
BY_STATUS: Final[Mapping[int, type[Refused]]] = {
    **dict.fromkeys((401, 403, 421), NotAllowed),
    **dict.fromkeys((404, 405), NotFound),
    **dict.fromkeys((502, 503, 504), Unavailable),
    409: Conflict,
    429: RateLimited,
}


def refusal(problem: Problem, retry_after: float | None = None) -> Refused:
    """The error of a problem."""
    kind = BY_CODE.get(problem.code) or BY_STATUS.get(problem.status)
    if kind is None:
        kind = Fault if problem.status >= 500 else NotValid
    return kind(problem, retry_after)


@contextmanager
def sent_under(body: Mapping[str, Any]) -> Generator[None]:
    """Put on what a request ends with under which id it was sent, and of which moment."""
    try:
        yield
    except CroupierError as error:
        mark(error, body)
        raise


def mark(error: CroupierError, body: Mapping[str, Any]) -> None:
    """Put on an error under which id something was sent, and of which moment."""
    error.id = next((body[name] for name in _IDS if name in body), None)
    error.occurred_at = body.get("occurred_at")
