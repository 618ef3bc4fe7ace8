"""In worlds whose truth is known reports err as rarely as they say; `make uplift` does it by the thousand."""

import pytest
from support.uplift_worlds import Claim, claims


@pytest.fixture(scope="module")
def found() -> list[Claim]:
    return list(claims(scale=0.05))


def test_reports_err_as_rarely_as_they_say(found: list[Claim]) -> None:
    assert len(found) > 10
    assert [str(claim) for claim in found if not claim.holds] == []


def test_a_share_outside_its_bounds_is_said_to_fail() -> None:
    assert str(Claim("x", 0.5, 10, 0.9, 1.0)) == "FAILS  x: 0.5000 of 10 runs (0.900 to 1.000)"
    assert str(Claim("x", 0.01, 10, 0, 0.05)).startswith("holds")
