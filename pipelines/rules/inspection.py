"""Lint a rulebook, and list its rules.

lint      a rulebook --> what is doubtful in it
listed    a place and a day --> the rules in force there
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from features import places
from features.errors import CroupierError
from features.schema import CHANNELS
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue, load_catalogue
from service.rules import rulebook
from service.rules.compiler import CompiledRulebook
from service.rules.rule import RuleBase
from service.rules.rulebook import Pack, RuleBinding, Rulebook, load_rulebook, rulebook_path
from service.rules.types import TimeWindow
from service.settings import catalogue_path

_STALE_DAYS: Final = 180
_SOON: Final = timedelta(days=60)
_SAID: Final = frozenset(RuleBase.model_fields) | {"type"}
_STATES: Final = {"on": "on", "off": "off: not applied", "strict": "on, in the strictest reading"}


class RulesRefused(CroupierError):
    """A question about the rules cannot be answered."""

    code = "rules_refused"
    exit_code = 2


# --- Lint


def lint_files(folder: Path | None, today: date) -> dict[str, Any]:
    """Lint a rulebook's files: hash, number of rules, findings; raises CatalogueError if they are not valid."""
    return linted(load_rulebook(folder or rulebook_path()), load_catalogue(catalogue_path()), today)


def linted(book: Rulebook, catalogue: Catalogue, today: date) -> dict[str, Any]:
    """Lint a rulebook with a catalogue: hashes, number of rules, findings."""
    CompiledRulebook(book, CandidateSpace(catalogue))
    states = Counter(rule.state for pack in book.packs for rule in pack.rules)
    found = lint(book, catalogue, today)
    counts = {"packs": len(book.packs), "rules": sum(states.values()), **{str(state): n for state, n in states.items()}}
    return {"rulebook": book.hash, "catalogue": catalogue.hash, **counts, "findings": found}


def lint(book: Rulebook, catalogue: Catalogue, today: date) -> list[dict[str, str]]:
    """Findings on a valid rulebook: rule or pack, severity, text.

    `error` forbids that it serves, `warning` wants a person to act, `note` to know.
    """
    strange = (_finding("error", offer, what) for offer, what in book.unknown_tags(catalogue))
    return [
        *_packs_checked(book, today),
        *_rules_alive(book, catalogue, today),
        *_places_covered(book, today),
        *strange,
    ]


def warnings_of(book: Rulebook, catalogue: Catalogue, today: date) -> list[str]:
    """Findings of `lint` on which nothing is promoted, one sentence each."""
    found = (one for one in lint(book, catalogue, today) if one["grade"] != "note")
    return [f"{one['where']}: {one['what']}" for one in found]


def _finding(grade: str, where: str, what: str) -> dict[str, str]:
    return {"grade": grade, "where": where, "what": what}


def _packs_checked(book: Rulebook, today: date) -> Iterator[dict[str, str]]:
    for pack in book.packs:
        days = (today - pack.checked_on).days
        if days > _STALE_DAYS:
            yield _finding("warning", pack.pack, f"was last compared with its sources {days} days ago")
        for rule in pack.rules:
            if rule.state != "on":
                yield _finding("note", rule.id, f"{_STATES[rule.state]} ({rule.confidence}): {rule.note.strip()}")


def _rules_alive(book: Rulebook, catalogue: Catalogue, today: date) -> Iterator[dict[str, str]]:
    for pack in book.packs:
        for rule in pack.rules:
            if rule.valid_to is not None and rule.valid_to <= today:
                yield _finding("note", rule.id, f"ended on {rule.valid_to}")
            elif rule.valid_from > today:
                yield _finding("note", rule.id, f"begins on {rule.valid_from}")
            covered = [one for one in catalogue.offers if any(rule.covers(one, channel) for channel in CHANNELS)]
            if not covered:
                yield _finding("note", rule.id, "covers no offer of the catalogue")
            if isinstance(rule, TimeWindow) and (ends := _holidays_end(rule, today + _SOON)):
                yield _finding("warning", rule.id, f"its holidays end in {ends}; it denies from then on")


def _holidays_end(rule: TimeWindow, soon: date) -> int | None:
    """The last year of a rule's holidays, if it ends soon and before the rule does."""
    if not rule.holidays or (rule.valid_to is not None and rule.valid_to <= soon):
        return None
    last = max(rule.holidays).year
    return last if soon.year > last else None


def _places_covered(book: Rulebook, today: date) -> Iterator[dict[str, str]]:
    ruled, licensed = book.ruled(), book.licensed()
    if not licensed:
        yield _finding("error", "rulebook", "no rule says where the house is licensed")
    for place in sorted(licensed):
        own = [one.rule for one in ruled.get(place, ()) if _in_force(one.rule, today)]
        if not own:
            yield _finding("error", place, f"{place} is licensed, and {_lacks(place, ruled)}")
        elif silent := [channel for channel in CHANNELS if not any(_on_bonuses(rule, channel) for rule in own)]:
            yield _finding("warning", place, f"no rule of its own speaks of bonuses by {', '.join(silent)}")
        if parts := sorted(part for part in ruled if _country(part) == place != part):
            named = f"{', '.join(parts)} have rules of their own, which miss players of whom only {place} is told"
            yield _finding("warning", place, named)


def _in_force(rule: RuleBase, on: date) -> bool:
    return rule.valid_from <= on and (rule.valid_to is None or on < rule.valid_to)


def _on_bonuses(rule: RuleBase, channel: str) -> bool:
    return "bonus" in rule.purposes and (rule.channels is None or channel in rule.channels)


def _lacks(place: str, ruled: Mapping[str, Sequence[RuleBinding]]) -> str:
    if place in ruled:
        return "none of its own rules is in force today"
    binding = f" beside that of {_country(place)}" if _country(place) in ruled else ""
    return f"no pack holds its law{binding}: marketing and bonuses are denied there"


def _country(place: str) -> str:
    return place.partition("-")[0]


# --- List


def rules_of_place(folder: Path | None, place: str, on: date) -> dict[str, Any]:
    """Rules of a place on a day, with the rulebook's hash; raises RulesRefused for a place without a pack."""
    book = load_rulebook(folder or rulebook_path())
    known = {one for pack in book.packs for one in (*pack.jurisdictions, *_parts(pack))}
    if not places.known(place):
        raise RulesRefused(places.unknown(place, place.upper()))
    if place not in known and _country(place) not in known:
        raise RulesRefused(
            f"no pack holds the law of {place}: one of {', '.join(sorted(known - {rulebook.EVERYWHERE}))}"
        )
    own = place in book.ruled()
    return {
        "rulebook": book.hash,
        "jurisdiction": place,
        "on": on.isoformat(),
        "rules": rules_on(book, place, on),
        "note": ""
        if own
        else f"{place} has no rules of its own: a house licensed there sends no marketing and no bonus",
    }


def _parts(pack: Pack) -> set[str]:
    return {place for rule in pack.rules for place in rule.jurisdictions or ()}


def rules_on(book: Rulebook, place: str, on: date) -> list[dict[str, Any]]:
    """Rules that bind a player of a place on a day, in order; rules that are off too."""
    where = rulebook.places([place])
    return [
        _described(pack, rule)
        for pack in book.packs
        for rule in pack.rules
        if not where.isdisjoint(rule.jurisdictions or pack.jurisdictions)
        if _in_force(rule, on)
    ]


def _described(pack: Pack, rule: Any) -> dict[str, Any]:  # noqa: ANN401 - one of many types
    return {
        "rule": rule.id,
        "type": rule.type,
        "where": list(rule.jurisdictions or pack.jurisdictions),
        "reason": rule.reason,
        "terms": terms(rule),
        "valid_from": rule.valid_from.isoformat(),
        "valid_to": None if rule.valid_to is None else rule.valid_to.isoformat(),
        "source": rule.source,
        "confidence": rule.confidence,
        "state": rule.state,
        "note": rule.note.strip(),
        "checked_on": str(rule.checked_on or pack.checked_on),
    }


def terms(rule: RuleBase) -> str:
    """What a rule covers and its parameters, as text; omitted parameters only if they have an effect."""
    stated = rule.model_dump(by_alias=True, exclude_defaults=True)
    whole = {name: getattr(rule, name) for name in type(rule).model_fields if name not in _SAID}
    covered = {name: getattr(rule, name) for name in ("channels", "products", "kinds")}
    told = {name: stated.get(name, value) for name, value in {**covered, **whole}.items()}
    parts = [f"{name}: {_plain(value)}" for name, value in told.items() if name in stated or _counts(value)]
    return "; ".join([f"silences {' and '.join(rule.purposes)}", *parts])


def _counts(value: object) -> bool:
    """Whether an omitted parameter has an effect: it is neither empty nor 0."""
    return bool(value)


def _plain(value: Any) -> str:  # noqa: ANN401 - parameters are of many types
    if isinstance(value, dict):
        return " ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "yes" if value is True else str(value)
