"""Fields of a catalogue that its hash covers, as `features.forms` writes them."""

from __future__ import annotations

from typing import Final

from features.forms import Form

_GROUP: Final = "channel offer category purpose"
_TERMS: Final = """
    wagering wagering_base validity_days deposit_share prior_bet full_weight spin_stake_minor spin_stake_local
    qualifying_products reward_products free_choice
"""
_OFFER: Final = """
    id name template parameters value_minor cost_minor purpose product jurisdictions stages priority lever category kind
    mechanics terms local audience tags approved_on approval
"""
CATALOGUE: Final = Form(
    "version currency channels offers caps gaps pauses budgets experiment exploration_floor",
    channels=Form("cost_minor"),
    offers=Form(_OFFER, terms=Form(_TERMS)),
    caps=Form(f"{_GROUP} id scope contacts hours calendar lifetime keep keep_for"),
    gaps=Form("id scope hours of after", of=Form(_GROUP), after=Form(_GROUP)),
    pauses=Form("id scope type responses days pause_days of", of=Form(_GROUP)),
    budgets=Form("id cost_minor offer category purpose time_zone"),
    experiment=Form("key variants"),
)
