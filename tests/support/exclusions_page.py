"""docs/exclusions.md from the reasons that an answer can give, with what is to be told or done about each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from support.settings_page import table

from service.decisions.reasons import _LIMITS, OWN, TROUBLES
from service.rules.inputs import INPUTS
from service.rules.rule import RuleBase
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path

PAGE = Path(__file__).parents[2] / "docs" / "exclusions.md"
OWN_REMEDIES: Final = {
    "unknown_player": "[Tell who the player is](integrate.md#who-the-player-is): `registered`, `kyc_verified`, consent",
    "rulebook_unreadable": "An operator's: `croupier doctor`, then `croupier rollback rules`",
    "offer_elsewhere": "Nothing for this player; `jurisdictions` of the offer in the catalogue say where it is for",
    "time_zone": "`registered` with `time_zone`",
    "lifecycle_stage": "Nothing; `stages` of the offer in the catalogue say for whom it is",
    "features_unavailable": "An operator's: the worker or a node is away; `croupier doctor`",
    "features_stale": "An operator's: the worker lags; `croupier doctor`",
    "holdout": "Nothing: the yardstick of the experiment",
    "global_holdout": "Nothing: the yardstick of everything",
    "left_out": "Nothing: the experiment's wish",
    "not_requested": "Nothing: the request's own `purpose`, `channels`, `offers` or `activate`",
    "shared_address": "Nothing, or an `address_changed` of the player's own: it is told at the confirm",
    "offer_gone": "Nothing: it is told at the confirm of an offer that was taken out meanwhile",
}
"""By what the code calls its own reasons."""
TOLD_BY: Final = {
    "residence": "`registered` with `jurisdiction` (and `licence`), `login` with `location`",
    "time_zone": "`registered` with `time_zone`",
    "account": "`registered`; with `reopened` after a closure",
    "kyc": "`kyc_verified`",
    "opened": "`registered`",
    "reopened": "`registered` with `reopened`",
    "age": "`registered` or `kyc_verified` with `birth_date`, and `kyc_verified`",
    "own": "`registered`; after `self_excluded` only `exclusion_ended`",
    "returned": "`exclusion_ended`",
    "time_out": "`registered`; after `time_out` its end",
    "consent": "`consent_changed` for the channel",
    "objection": "`registered`; after an objection `objection_changed`",
    "harm": "nothing: behaviour, `support_contact`, `harm_scored`; a person's `harm_reviewed`",
    "net_loss_week": "`bet` and `win`",
    "net_deposit_month": "`deposit` and `withdrawal_paid`",
    "last_login": "`login`",
    "last_deposit": "`deposit`",
    "bonuses": "`bonus_granted`",
    "support_contact": "`support_contact`",
    "complaint": "`support_contact` with the tag `complaint`",
    "big_loss": "`bet` and `win`",
    "complaint_open": "`support_contact` with the tag `resolved`",
    "withdrawal_pending": "`withdrawal_paid` or `withdrawal_cancelled`",
    "in_session": "`session_ended`",
    "has_played": "`bet` (once played, always played)",
    "limit_raised": "`limit_set` (it ends by itself)",
    "vip": "`vip_changed`",
    "vip_checked": "`vip_changed` with `checked`",
}
"""By input of rules: the events from which it is known."""
REGISTER: Final = "`register_checked` with `register_name: {name}`"
BY_TYPE: Final = {
    "jurisdiction_scope": "Nothing: the house has no licence there. `packs/house.yaml` lists those it has",
    "account_state": "Wait, or tell what the account is: {told}",
    "exclusion_register": "Leave alone; a newer answer of the register mends an old one: {told}",
    "register_freshness": "Ask the register again: {told}",
    "timeout_active": "Wait for the end of the break",
    "post_exclusion_lock": "Wait, and ask for consent anew: {told}",
    "age_band": "{told}",
    "harm_gate": "Leave alone; a person may review: `harm_reviewed`",
    "loss_or_deposit_threshold": "Wait for the next week or month",
    "consent_required": "{told}, with what the reason asks for",
    "suppression": "Leave alone, until the player says otherwise: {told}",
    "consent_lapse": "Ask for consent anew: {told}",
    "channel_ban": "Nothing: this channel is forbidden there",
    "bonus_ban": "Nothing: such bonuses are forbidden there",
    "mechanic_ban": "Nothing: such bonuses are forbidden there",
    "single_product": "The offer's products, in the catalogue",
    "term_limit": "The offer's `terms`, in the catalogue",
    "value_cap": "The offer's value, in the catalogue; or wait for room",
    "count_cap": "Wait for room",
    "min_gap_after": "Wait",
    "state_block": "Wait; its end is told by {told}",
    "time_window": "Wait for the hour; where it is unknown: {told}",
    "selection_basis": "The offer's `audience`, in the catalogue",
    "content_required": "What the template must show: `tags` of the offer, in the catalogue",
    "approval_required": "An approval: `approved_on` of the offer, or {told}",
}
"""By type of rule: what is to be done where it denies."""
PREFIXES: Final = {
    "cap": "Wait; contacts that were cancelled or failed give room back ([outcomes](decide.md#outcomes))",
    "gap": "Wait",
    "pause": "Wait; the catalogue says after which answers contacts rest",
    "budget": "Wait for the next day; `budgets` of the catalogue say how much it may be",
    "stop": "An operator's: [`croupier stop list`](stops.md)",
    "no_rules": "A lawyer's: the place is licensed, and the rulebook has no rules for it",
}
"""By what the id begins with, before a colon."""
TEXT = """\
# Exclusions

Why was nobody contacted, and what is to be told or done? `exclusions` of a decision name each reason by an id. This
page has every id that an answer can give with the shipped rulebook and catalogue. It is made from the code by `make
map`; a test holds the two together.

Begin at the top of this list:

1. `unknown_...`: something is not known, and unknown denies. Tell it.
2. `stale_...`, `future_...`: it is known, but too old, or told for a moment that lies ahead. Tell it again.
3. `features_...`, `rulebook_unreadable`, `stop:...`: the house's own state. An operator must look.
4. A rule, a cap, an experiment: it is meant so. Wait, or leave alone.

An exclusion takes away some actions, not all: `quiet_sms` says that no text may be sent at night, while an e-mail
may. Ask with `explain`, and each says how many `actions` and which `offers`, `channels` and `timing_slots` it denied.
One `NO_CONTACT` without any exclusion that denies all is a draw of the policy. For a player as they stand now:

```sh
croupier rules explain player-1
```

Service, safer-gambling and regulatory messages (`purpose`) pass everything here but `not_requested`.

## Of the house

{own}
## Limits, stops and places without rules

The id goes on with the name that the catalogue, the journal of stops or the rulebook gives it: `cap:player_day`,
`stop:3f9a2c1b`, `no_rules:AU-VIC`.

{prefixes}
## Inputs

Rules look at inputs. One that cannot be relied on denies, whatever the rule, under `unknown_`, `stale_` or `future_`
and its name.

| begins with | why |
| --- | --- |
{troubles}

{inputs}
## Rules

[rules.md](rules.md) has their terms, sources and doubts, and the places of each pack.

{rules}"""


def of_house() -> Iterator[list[str]]:
    for name, one in OWN.items():
        yield [f"`{name}`", one.reason, OWN_REMEDIES[name]]


def of_prefixes() -> Iterator[list[str]]:
    known = _LIMITS | {"stop": "marketing was stopped", "no_rules": "no rules are known of a licensed place"}
    for name, reason in known.items():
        yield [f"`{name}:`", reason, PREFIXES[name]]


def of_inputs(book: Rulebook) -> Iterator[list[str]]:
    for name, one in INPUTS.items():
        yield [f"`{name}`", one.title, TOLD_BY[name]]
    for name, register in book.registers.items():
        holds = f"{register.title}; an answer holds {register.max_age_hours:g} hours"
        yield [f"`{name}`", holds, REGISTER.format(name=name)]


def of_rules(book: Rulebook) -> Iterator[list[str]]:
    for pack in book.packs:
        for rule in pack.rules:
            where = ", ".join(rule.jurisdictions or pack.jurisdictions).replace("*", "everywhere")
            off = " *(off)*" if rule.state == "off" else ""
            asks = f" ({rule.asks})" if rule.asks else ""
            yield [f"`{rule.id}`{off}", where, (rule.reason + asks).replace("|", "\\|"), remedy(rule)]


def remedy(rule: RuleBase) -> str:
    """What to do where a rule denies."""
    told = [TOLD_BY.get(name) or REGISTER.format(name=name) for name in rule.needs]
    said = BY_TYPE[rule.type].format(told="; ".join(told) or "the catalogue")  # type: ignore[attr-defined]
    return said[:1].upper() + said[1:]


def page() -> str:
    """The page as the code has it."""
    book = load_rulebook(rulebook_path())
    return TEXT.format(
        own=table("id|why|what to tell or do", of_house()),
        prefixes=table("begins with|why|what to do", of_prefixes()),
        troubles="\n".join(f"| `{name}_` | {why} |" for name, why in TROUBLES.items()),
        inputs=table("input|what it is|told by", of_inputs(book)),
        rules=table("id|where|denies because|what to tell or do", of_rules(book)),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
