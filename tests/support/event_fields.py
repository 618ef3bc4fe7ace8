"""Fields of events of every type: those that it must have, and those that it may have."""

from typing import Any, Final

MONEY: Final[dict[str, Any]] = {"amount_minor": 500}
MINIMAL: Final[dict[str, dict[str, Any]]] = {
    "registered": {},
    "kyc_verified": {},
    "login": {},
    "session_started": {},
    "session_ended": {},
    "deposit": {"status": "approved", "method": "card", **MONEY},
    "bet": {"product": "casino", **MONEY},
    "win": {"product": "poker", **MONEY},
    "withdrawal_requested": MONEY,
    "withdrawal_paid": MONEY,
    "withdrawal_cancelled": MONEY,
    "support_contact": {},
    "consent_changed": {"channel": "sms", "granted": True},
    "limit_set": {"limit": "deposit", "change": "raised"},
    "time_out": {"until": "2026-12-01T00:00:00+01:00"},
    "self_excluded": {},
    "exclusion_ended": {},
    "closure_requested": {},
    "account_closed": {},
    "register_checked": {"register_name": "gamstop", "listed": False},
    "objection_changed": {"objects": True},
    "harm_scored": {"source": "mindway", "level": "low"},
    "harm_reviewed": {"level": "none"},
    "vip_changed": {"vip": True},
    "bonus_granted": MONEY,
    "identify": {"anonymous_id": "cookie-1"},
    "alias": {"previous_id": "old-1"},
    "household_changed": {"household_id": "home-1"},
}
"""Fields that each type of event must have."""
OPTIONAL: Final[dict[str, dict[str, Any]]] = {
    "registered": {
        "jurisdiction": "CA-ON",
        "licence": "MT",
        "time_zone": "America/Toronto",
        "birth_date": "1981-07-13",
        "reopened": True,
    },
    "kyc_verified": {"birth_date": "1981-07-13"},
    "login": {"location": "US-NJ"},
    "session_started": {"location": "IE"},
    "deposit": {"target": "wallet"},
    "withdrawal_requested": {"method": "bank transfer"},
    "withdrawal_paid": {"method": "bank transfer"},
    "withdrawal_cancelled": {"method": "bank transfer"},
    "support_contact": {"tags": ["harm", "payment"]},
    "consent_changed": {"product": "sports", "basis": "soft_opt_in", "origin": "shop.form-2_b"},
    "limit_set": {"amount_minor": 10_000},
    "self_excluded": {"scope": "brand"},
    "exclusion_ended": {"scope": "brand"},
    "vip_changed": {"checked": True},
    "bonus_granted": {"product": "casino"},
}
"""Fields that it may have."""
