"""Fields of a rulebook that its hash covers, as `features.forms` writes them."""

from __future__ import annotations

from typing import Final

from features.forms import Form

_EVERY: Final = """
    id reason purposes channels products kinds jurisdictions valid_from valid_to source checked_on confidence state note
    type
"""
_OWN: Final = {
    "jurisdiction_scope": "licensed",
    "account_state": "verified least_days least_days_reopened",
    "exclusion_register": "registers",
    "register_freshness": "register_name hours at",
    "timeout_active": "",
    "post_exclusion_lock": "days new_consent",
    "age_band": "under",
    "harm_gate": "at_least",
    "loss_or_deposit_threshold": "metric weeks amounts currency",
    "consent_required": "per_product bases origins since",
    "suppression": "by",
    "consent_lapse": "since months bases",
    "channel_ban": "",
    "bonus_ban": "unless_prior_bet",
    "mechanic_ban": "mechanics",
    "single_product": "",
    "term_limit": "most_wagering wagering_bases least_validity_days deposit_shares full_weight",
    "value_cap": "measure amount_minor currency from_age under hours",
    "count_cap": "most hours",
    "min_gap_after": "event hours",
    "state_block": "states days",
    "time_window": "allow holidays",
    "selection_basis": "forbidden shared_only no_inactivity",
    "content_required": "must must_not approved",
    "approval_required": "vip_only checks_days",
}
_PARTS: Final = {
    "loss_or_deposit_threshold": {"amounts": Form("under amount_minor")},
    "time_window": {"allow": Form("days from to")},
}
PACK: Final = Form(
    "pack title version checked_on jurisdictions time_zone registers rules",
    registers=Form("title max_age_hours source"),
    rules={name: Form(f"{_EVERY} {own}", **_PARTS.get(name, {})) for name, own in _OWN.items()},
)
RULEBOOK: Final = Form(
    "settings harm packs",
    settings=Form("version valid_from exchange scores stages", stages=Form("new_days lapsing_days lapsed_days")),
    harm=Form(
        "markers not_computed levels quiet_days big_loss_minor",
        markers=Form("id definition threshold points level places evidence"),
    ),
    packs=PACK,
)
