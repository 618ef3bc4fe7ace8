"""Why a request is refused: a class for each code of the API, with its status and its sentence."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Final

from features.errors import CroupierError

REALM: Final = "croupier"
"""What keys are for, in challenges."""


class RequestRefused(CroupierError):
    """A request that cannot be taken.

    Attributes:
        pointer: The place in the body that is at fault, as a JSON pointer; None if it is no single one.
    """

    status = 422
    pointer: str | None = None

    def __init__(self, sentence: str = "", pointer: str | None = None) -> None:
        super().__init__(sentence)
        if pointer is not None:
            self.pointer = pointer

    def members(self) -> dict[str, Any]:
        """With the place."""
        return super().members() | ({} if self.pointer is None else {"pointer": self.pointer})


class UnauthorisedError(RequestRefused):
    """A caller without a key of the house.

    Attributes:
        sent: Whether a key was sent that is none, or none any more.
    """

    code = "unauthorised"
    status = 401
    sentence = "send one of the house's keys as `Authorization: Bearer KEY`"

    def __init__(self, sentence: str = "", *, sent: bool = False) -> None:
        super().__init__(sentence or ("this key is none of the house, or none any more" if sent else ""))
        self.sent = sent

    def headers(self) -> dict[str, str]:
        """The challenge of RFC 6750, section 3: with an error only where a key was sent."""
        return {"www-authenticate": f'Bearer realm="{REALM}"' + (', error="invalid_token"' if self.sent else "")}


class InsufficientScopeError(RequestRefused):
    """A key that does not allow what was asked.

    Attributes:
        scopes: What it lacks.
    """

    code = "insufficient_scope"
    status = 403

    def __init__(self, sentence: str, scopes: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.scopes = scopes

    def headers(self) -> dict[str, str]:
        """The challenge of RFC 6750, section 3.1."""
        lacked = f', scope="{" ".join(self.scopes)}"' if self.scopes else ""
        return {"www-authenticate": f'Bearer realm="{REALM}", error="insufficient_scope"{lacked}'}


class RateLimitedError(RequestRefused):
    """More requests than a key may send, or wrong keys than an address may try.

    Attributes:
        seconds: When to ask again.
    """

    code = "rate_limited"
    status = 429

    def __init__(self, sentence: str, seconds: float = 1) -> None:
        super().__init__(sentence)
        self.seconds = seconds

    def headers(self) -> dict[str, str]:
        """Whole seconds to wait."""
        return {"retry-after": str(max(1, ceil(self.seconds)))}


class OverloadedError(RateLimitedError):
    """More requests than this process can answer in time: this one was shed before anything was done for it."""

    code = "overloaded"
    status = 503

    def __init__(self, seconds: float) -> None:
        super().__init__("more is asked than can be answered in time; nothing was done, ask again", seconds)


class StoreFullError(RateLimitedError):
    """The store's memory is nearly used up: what is left is for what restricts contact."""

    code = "store_full"
    status = 503

    def __init__(self, seconds: float = 30) -> None:
        super().__init__("the store is nearly full and takes only what restricts contact; nothing was done", seconds)


class UnknownKeyError(RequestRefused):
    """A key that there is not."""

    code = "unknown_key"
    status = 404
    sentence = "there is no key of this id"


class KeyIdReused(RequestRefused):
    """A new key under the id of another."""

    code = "key_id_reused"
    status = 409
    sentence = "there is a key of this id already; if its secret was lost on the way, rotate it"
    pointer = "/id"


class KeyRevoked(RequestRefused):
    """A key that was revoked, to be rotated."""

    code = "key_revoked"
    status = 409
    sentence = "the key was revoked, and stays so: create another one"


class RotationUnfinishedError(RequestRefused):
    """A key with two live secrets, to be given a third."""

    code = "rotation_unfinished"
    status = 409
    sentence = "two secrets of the key are live: wait for the end of the earlier one, or keep none of them"


class CallbackRefusedError(RequestRefused):
    """A callback that no provider of the house signed, or not lately."""

    code = "callback_refused"
    status = 403
    sentence = "no connector of this house is called back like this: its signature is missing, wrong or old"


class NoSuchRouteError(RequestRefused):
    """A path that is no route."""

    code = "no_such_route"
    status = 404


class NoSuchMethodError(RequestRefused):
    """A method that a route does not have."""

    code = "no_such_method"
    status = 405

    def __init__(self, sentence: str = "", allowed: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        """With the methods that the route has (RFC 9110, section 15.5.6)."""
        return super().headers() | {"allow": ", ".join(self.allowed)}


class TooLargeError(RequestRefused):
    """A body with more bytes than are read."""

    code = "too_large"
    status = 413


class MalformedRequestError(RequestRefused):
    """A request that is no HTTP/1.1, or that two readers could read in two ways."""

    code = "malformed_request"
    status = 400
    sentence = "this is no HTTP/1.1 that can be read in one way only"


class TargetTooLongError(RequestRefused):
    """A path and query with more bytes than are read."""

    code = "target_too_long"
    status = 414
    sentence = "the path and query of a request have at most 8192 bytes"


class HeadersTooLargeError(RequestRefused):
    """Header fields with more bytes than are read, or more of them."""

    code = "headers_too_large"
    status = 431
    sentence = "a request has at most 100 header fields, of 32768 bytes together"


class TooSlowError(RequestRefused):
    """A request that was not complete in time."""

    code = "too_slow"
    status = 408
    sentence = "header fields must be complete within 10 s, and a body within 20 s after them"


class TooManyConnectionsError(RequestRefused):
    """A connection beside as many as a process keeps open."""

    code = "too_many_connections"
    status = 503
    sentence = "this process keeps no more connections open; try again"


class MisdirectedError(RequestRefused):
    """A request for a host that this house is not."""

    code = "misdirected"
    status = 421
    sentence = "this house is not called by that Host; names that it answers to stand in CROUPIER_HOSTS"


class CrossSiteError(RequestRefused):
    """A write that a browser sends from a page of another site."""

    code = "cross_site"
    status = 403
    sentence = "a browser may not write here from another site's page"


class UnsupportedMediaTypeError(RequestRefused):
    """A body that is not sent as JSON, plain or gzipped."""

    code = "unsupported_media_type"
    status = 415
    sentence = "send the body as `Content-Type: application/json`, plain or with `Content-Encoding: gzip`"

    def headers(self) -> dict[str, str]:
        """With what is taken (RFC 9110, sections 12.5.1, 12.5.3 and 15.5.16)."""
        taken = {"accept": "application/json", "accept-post": "application/json", "accept-encoding": "gzip, identity"}
        return super().headers() | taken


class InvalidJsonError(RequestRefused):
    """A body that is no JSON."""

    code = "invalid_json"
    status = 400


class InvalidGzipError(RequestRefused):
    """A body that says it is gzipped, and is not, or not to its end."""

    code = "invalid_gzip"
    status = 400
    sentence = "the body is no gzip, or was cut: gzip it whole, or leave `Content-Encoding` out"


class InvalidBodyError(RequestRefused):
    """A body with a field that is not valid.

    Attributes:
        errors: Every such place.
    """

    code = "invalid_body"

    def __init__(self, sentence: str = "", pointer: str | None = None, errors: Sequence[Any] = ()) -> None:
        super().__init__(sentence, pointer)
        self.errors = errors

    def members(self) -> dict[str, Any]:
        """With every place."""
        return super().members() | ({"errors": list(self.errors)} if self.errors else {})


class UnknownTypeError(InvalidBodyError):
    """An event of a type that there is not."""

    code = "unknown_type"


class InvalidIdError(RequestRefused):
    """An id in a path that cannot be one."""

    code = "invalid_id"
    sentence = "ids are 1 to 64 printable ASCII characters without blanks and braces, such as player-123"


class UnknownBrandError(RequestRefused):
    """A brand that the house does not have."""

    code = "unknown_brand"


class ForeignPositionError(RequestRefused):
    """A position in the log to wait for, of another partition than the player's."""

    code = "foreign_position"
    sentence = "this position is not of the player's partition"
    pointer = "/after"


class UnknownPlayerError(RequestRefused):
    """A player who has neither facts nor features nor decisions."""

    code = "unknown_player"
    status = 404
    sentence = "nothing is known of this player"


class UnknownReportError(RequestRefused):
    """A report that was not published."""

    code = "unknown_report"
    status = 404
    sentence = "no report of this name was published; see /reports"


class UnknownDecisionError(RequestRefused):
    """A decision that was never made, or is no longer kept."""

    code = "unknown_decision"
    status = 404
    sentence = "no decision of this id is kept"


class ArchivedError(RequestRefused):
    """A decision whose record is kept in a lake that this host does not have."""

    code = "archived"
    status = 404
    sentence = "the record lies in the lake"


class LakeUnreadableError(RequestRefused):
    """A record of the lake that cannot be read now."""

    code = "lake_unreadable"
    status = 503
    sentence = "the lake of this host cannot be read now; the log of the process says why"


class UnknownTaskError(RequestRefused):
    """A task that was never opened, or is no longer kept."""

    code = "unknown_task"
    status = 404
    sentence = "no task of this id is kept"


class SendingError(RequestRefused):
    """A contact to be confirmed by its caller that the house sends, and began to."""

    code = "sending"
    status = 409
    sentence = "the house sends this contact itself, and has begun to: do not send it"


class NoContactError(RequestRefused):
    """A decision without a contact, asked about as if it had one."""

    code = "no_contact"
    status = 409
    sentence = "the decision was to leave the player alone"


class EventInFutureError(RequestRefused):
    """An event later than the house's clock."""

    code = "event_in_future"
    sentence = "occurred_at lies in the future of the house's clock: look at your clock, and at the moment's time zone"
    pointer = "/occurred_at"


class EventTooOldError(RequestRefused):
    """An event so old that its id would not be recognised."""

    code = "event_too_old"
    sentence = (
        "occurred_at is more than 35 days ago: send it with a key that allows `history` beside `events`, and the "
        "import takes it in, or use `croupier import events`"
    )
    pointer = "/occurred_at"


class HistoryFullError(RequestRefused):
    """An event for the import, of which more wait already than are kept."""

    code = "history_full"
    status = 503
    sentence = "too much history waits for the import: try again in some seconds, or use `croupier import events`"


class BeforeTradingError(RequestRefused, ValueError):
    """Money or play of a day before the house began to trade."""

    code = "before_trading"
    pointer = "/occurred_at"


class ImplausibleError(RequestRefused):
    """An outcome of a contact that cannot have happened as it is told."""

    code = "implausible_outcome"


class OutcomeInFutureError(RequestRefused):
    """An outcome later than the house's clock."""

    code = "outcome_in_future"
    sentence = "occurred_at lies in the future of the house's clock"
    pointer = "/occurred_at"


class OutcomeTooOldError(RequestRefused):
    """An outcome so old that its id would not be recognised."""

    code = "outcome_too_old"
    sentence = "occurred_at is more than 35 days ago"
    pointer = "/occurred_at"


class EventIdReused(RequestRefused):
    """An event under the id of another, or of a bet or deposit that was settled, cancelled or charged back before."""

    code = "event_id_reused"
    status = 409
    sentence = (
        "this event id was used before for another event; or, of a bet_cancelled, bet_settled or chargeback, another "
        "event told it of this bet or deposit before"
    )
    pointer = "/event_id"


class OutcomeIdReused(RequestRefused):
    """An outcome under the id of another outcome."""

    code = "outcome_id_reused"
    status = 409
    sentence = "this outcome id was used before for another outcome"
    pointer = "/outcome_id"


class RequestIdReused(RequestRefused):
    """A decision request under the id of another request."""

    code = "request_id_reused"
    status = 409
    sentence = "this request_id was used before with another body"
    pointer = "/request_id"


class AlreadyLinkedError(RequestRefused):
    """An id to link that is linked to another player."""

    code = "already_linked"
    status = 409
    sentence = "this id was linked to another player before, and a link is for good"


class Contended(RequestRefused):
    """A player whom others changed at every attempt; nothing was recorded."""

    code = "contended"
    status = 503
    sentence = "the player changed at every attempt; try again"


class Revoked(RequestRefused):
    """A contact that must not be sent.

    Attributes:
        rules: The rules that forbid it.
    """

    code = "revoked"
    status = 409
    sentence = "what became known of the player since took the lease back"

    def __init__(self, sentence: str = "", rules: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.rules = rules

    def members(self) -> dict[str, Any]:
        """With the rules."""
        return super().members() | {"rules": list(self.rules)}


class Expired(Revoked):
    """A contact whose lease has run out."""

    code = "expired"
    sentence = "the lease has run out"


class Released(Revoked):
    """A contact that did not happen, as its outcome says."""

    code = "released"
    sentence = "the contact was reported as failed or cancelled"


class TooEarlyError(Revoked):
    """A contact that may be sent, but not yet."""

    code = "too_early"


class StopRefused(RequestRefused):
    """A stop, or a lift, that cannot be: an unknown word, two of them, or no reason."""

    code = "stop_refused"
    exit_code = 2


class UnknownStopError(RequestRefused):
    """A stop that there never was."""

    code = "unknown_stop"
    status = 404
    exit_code = 2


class StopIncompleteError(RequestRefused):
    """A stop, or a lift, that some partitions did not acknowledge.

    Attributes:
        stop: Id of the stop.
        unreached: Names of these partitions.
    """

    code = "stop_incomplete"
    status = 503

    def __init__(self, sentence: str = "", stop: str = "", unreached: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.stop, self.unreached = stop, tuple(unreached)

    def members(self) -> dict[str, Any]:
        """With the stop and the partitions."""
        return super().members() | {"stop": self.stop, "unreached": list(self.unreached)}


class ReasonNamesPlayerError(RequestRefused):
    """A reason that names the player whom it is about: it is kept, and the name must not be."""

    code = "reason_names_player"
    pointer = "/reason"
    sentence = "the reason names the player, and is kept: say why in words that name nobody"


class UnknownExportError(RequestRefused):
    """An export that nobody asked for, or that is gone: after an hour, or because the player was erased."""

    code = "unknown_export"
    status = 404
    sentence = "no export of this id is kept: it is for an hour, and only while the player is not erased"


class ExportFailed(RequestRefused):
    """An export that could not be made; asked for again it is tried again."""

    code = "export_failed"
    status = 409


class NoDefinitionsError(RequestRefused):
    """A process without a read plan."""

    code = "no_definitions"
    status = 503
    sentence = "feature definitions were not applied yet"


class NotReadyError(RequestRefused):
    """A process that has not been seen to serve in time."""

    code = "not_ready"
    status = 503


class FaultError(CroupierError):
    """A mistake of ours: what a caller is told of any other error."""

    code = "fault"
    sentence = "this is our mistake, and it was logged"
