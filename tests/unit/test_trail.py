"""Ids of a request: the caller's where they are plain and whole, ours otherwise"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.contextvars import bind_contextvars, get_contextvars

from service.api.trail import HEADER, Parent, follow, read_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WHOLE = f"00-{TRACE}-{SPAN}-01".encode()


@pytest.mark.parametrize("word", [b"a", b"order-4711", b"6F9619FF-8B86-D011-B42D-00CF4FC964FF", b"a" * 64])
def test_a_plain_word_of_the_caller_is_kept(word: bytes) -> None:
    assert follow([(HEADER, word)]).request_id == word
    assert get_contextvars() == {"request_id": word.decode()}


@pytest.mark.parametrize(
    "word", [b"", b"a" * 65, b"a b", b"-a", b"a\r\nb", "é".encode(), b'a"', b"{p017}", b"a\x1b[31m", b"<script>"]
)
def test_anything_else_is_replaced_by_a_word_of_ours(word: bytes) -> None:
    ours = follow([(HEADER, word)]).request_id
    assert ours != word
    assert follow([(HEADER, ours)]).request_id == ours


@given(st.lists(st.tuples(st.sampled_from([HEADER, b"traceparent", b"accept"]), st.binary(max_size=80)), max_size=6))
def test_whatever_is_sent_ids_are_plain_and_logged(headers: list[tuple[bytes, bytes]]) -> None:
    trail = follow(headers)
    assert trail.request_id.decode().isascii()
    assert 0 < len(trail.request_id) <= 64
    assert get_contextvars()["request_id"] == trail.request_id.decode()


def test_requests_have_words_of_their_own() -> None:
    assert len({follow([]).request_id for _ in range(1_000)}) == 1_000


def test_nothing_of_the_request_before_stays_bound() -> None:
    bind_contextvars(decision_id="x", trace_id="y")
    follow([])
    assert get_contextvars().keys() == {"request_id"}


def test_a_whole_traceparent_is_read() -> None:
    assert read_parent(WHOLE) == Parent(TRACE, SPAN, sampled=True)
    assert read_parent(WHOLE[:-1] + b"0") == Parent(TRACE, SPAN, sampled=False)
    assert read_parent(b"cc" + WHOLE[2:] + b"-more") == Parent(TRACE, SPAN, sampled=True)
    follow([(b"traceparent", WHOLE)])
    assert get_contextvars()["trace_id"] == TRACE


@pytest.mark.parametrize(
    "text",
    [
        b"",
        WHOLE + b"-more",
        WHOLE + b" ",
        b" " + WHOLE,
        WHOLE + b"\n",
        WHOLE.upper(),
        b"ff" + WHOLE[2:],
        WHOLE[:-1],
        WHOLE.replace(b"-", b"_"),
        WHOLE.replace(TRACE.encode(), b"0" * 32),
        WHOLE.replace(SPAN.encode(), b"0" * 16),
        b"cc" + WHOLE[2:] + b"more",
    ],
)
def test_a_traceparent_that_is_not_whole_is_ignored(text: bytes) -> None:
    assert read_parent(text) is None
    assert follow([(b"traceparent", text)]).parent is None


def test_two_traceparents_are_none() -> None:
    assert follow([(b"traceparent", WHOLE), (b"traceparent", WHOLE)]).parent is None
