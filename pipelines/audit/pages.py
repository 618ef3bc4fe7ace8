"""Decisions in words, for whoever must answer for them: tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from features.moments import when
from pipelines.audit.tables import extent, inputs, stops, table_of
from service.decisions.differences import REASONS

_LISTED: Final = 15
ROLES: Final[Mapping[str, str]] = {
    "drawn": "drawn at random, with the probabilities of the policy",
    "lost": "drawn, and then not sent: a budget over all players could not bear it",
    "holdout": "the player belongs to a group that gets no marketing",
    "objected": "the player objects to profiling, so that priorities decided",
    "priority": "a message asked for by its purpose: the highest priority decided",
    "fallback": "the policy could not choose, so that another did",
}
"""How an action came about, in words."""


def decision(found: Mapping[str, Any]) -> Group:
    """A whole record in words."""
    parts: list[RenderableType] = [Text("\n".join(_head(found)))]
    if found.get("exclusions"):
        parts.append(_exclusions("What was denied, by whom", found["exclusions"]))
    if found.get("stops"):
        parts.append(stops(found["stops"]))
    if found.get("deferrals"):
        parts.append(_put_off(found["deferrals"]))
    parts.append(_eligible(found["eligible"], found["draw"]["place"]))
    if found["personal"] and found["personal"].get("inputs"):
        parts.append(inputs(found["personal"]["inputs"]))
    parts.append(Text("\n".join(_versions(found))))
    return Group(*parts)


def _head(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"Decision {found['decision_id']}, made at {found['at']} (house time); found in the {found['found']}."
    yield f"Answer: {_answer(found)}"
    personal = found["personal"]
    who = f"your id {personal['player_id']}" if personal else _gone(found)
    yield f"Player: {found['player']}, brand {found['brand']}; {who}."
    yield f"Asked for: {_asked(found)}."
    yield f"Experiment: {_experiment(found)}."
    yield f"How it came about: {ROLES.get(found['role'], found['role'])} ({found['role']})."
    eligible = len(found["eligible"])
    of = f" of {found['candidates']['all']}" if "candidates" in found else ""
    yield (
        f"Policy {found['policy_version']}: probability {found['propensity']:.6g} of this answer among {eligible}{of} "
        f"actions; drawn by u = {found['draw']['u']!r}, attempt {found['attempt']}."
    )
    yield from _player(found)


def _gone(found: Mapping[str, Any]) -> str:
    return "the player was erased: what was personal is gone" if found["erased"] else "what was personal cannot be read"


def _answer(found: Mapping[str, Any]) -> str:
    action = found["action"]
    if action == "NO_CONTACT":
        return f"no contact{'; ' + found['lost'] if 'lost' in found else ''}."
    offer = action["offer"]
    return (
        f"{offer['name']} ({offer['id']}, {action['purpose']}) by {action['channel']} in the slot "
        f"{action['timing_slot']}, not before {action['send_at']} and by {found['lease']['valid_until']}."
    )


def _asked(found: Mapping[str, Any]) -> str:
    parts = [" and ".join(found["purposes"])]
    if found["decision_point"]:
        parts.append(f"at {found['decision_point']}")
    if personal := found["personal"]:
        asked = personal.get("asked") or {}
        parts += [f"{name} {', '.join(asked[name])}" for name in ("channels", "offers") if asked.get(name)]
        parts += ["to be shown at once"] if asked.get("activate") else []
        parts += [f"request {personal['request_id']}"] if personal["request_id"] else []
        parts += [f"{name} {value}" for name, value in personal["context"].items()]
    return "; ".join(parts)


def _experiment(found: Mapping[str, Any]) -> str:
    places = found.get("experiments") or ([found["experiment"]] if found["experiment"] else [])
    told = [f"{one['key']}, variant {one['variant']}" for one in places]
    return "; ".join(told) or "none"


def _player(found: Mapping[str, Any]) -> Iterator[str]:
    churn = found["churn"]
    score = "none" if churn is None else f"{churn['score']:.6g} by {churn['model_version'] or 'no model'}"
    sources = ", ".join(f"{name} {level}" for name, level in found.get("harm_sources", {}).items())
    yield f"Known of the player: stage {found.get('stage')}, churn score {score}, harm level {found['harm_level']}" + (
        f" ({sources})." if sources else "."
    )
    features = found.get("features")
    if features:
        age = "unknown" if features["age_seconds"] is None else f"{features['age_seconds']:.1f} s"
        yield f"Behaviour: {age} behind the player's events, true as of {features['as_of'] or 'no event'}."
    if found["degraded"]:
        yield f"Done without: {', '.join(found['degraded'])}."
    if found.get("assumed"):
        yield f"Assumed by a sandbox: {', '.join(found['assumed'])}."


def _versions(found: Mapping[str, Any]) -> Iterator[str]:
    versions = found["versions"]
    yield f"Made with catalogue {versions['catalogue']}, rulebook {versions['rules']}, features {versions['schema']},"
    yield (
        f"churn model {versions['churn'] or 'none'}, time zones {versions['time_zones']}, build {versions['build']}; "
        f"packs of rules: {', '.join(versions['packs']) or 'none'}."
    )


def _exclusions(title: str, found: Sequence[Mapping[str, Any]]) -> Table:
    table = table_of(title, "rule", "because", "actions", "offers", "channels", "slots", "source")
    for one in found:
        table.add_row(one["rule"], one["reason"], *extent(one), one.get("source", ""))
    return table


def _put_off(found: Sequence[Mapping[str, Any]]) -> Table:
    table = table_of("What was put off", "rule", "to", "actions", "offers", "channels", "slots")
    for one in found:
        table.add_row(one["rule"], one["allowed_from"], *extent(one))
    return table


def _eligible(found: Sequence[Mapping[str, Any]], place: int) -> Table:
    ranked = sorted(found, key=lambda one: (one["place"] != place, -one["probability"]))
    more = f", the {_LISTED} likeliest" if len(found) > _LISTED else ""
    table = table_of(f"What was left to choose from{more}", "action", "probability", "score", "")
    for one in ranked[:_LISTED]:
        told = "the draw fell on it" if one["place"] == place else ""
        table.add_row(_named(one), f"{one['probability']:.6g}", f"{one['score']:.6g}", told)
    return table


def _named(one: Mapping[str, Any]) -> str:
    if "offer" in one:
        return f"{one['offer']}/{one['channel']}/{one['timing_slot']}"
    return str(one.get("action", f"place {one['place']}"))


# --- Replay


VERDICTS: Final[Mapping[str, str]] = {
    "reproduced": "everything that can be recomputed came out exactly as it was logged",
    "differs": "something came out otherwise than it was logged",
    "erased": "the player was erased; all that is not personal came out as it was logged",
}


def replay(found: Mapping[str, Any]) -> Group:
    """What a replay gave, in words."""
    told = VERDICTS.get(found["verdict"], "not everything can be recomputed; what can came out as it was logged")
    parts: list[RenderableType] = [
        Text(f"Decision {found['decision_id']}, found in the {found['found']}: {found['verdict']}, {told}.")
    ]
    if found["differences"]:
        table = table_of("What differs", "field", "as it was logged", "as it comes out")
        for one in found["differences"]:
            table.add_row(one["field"], one["recorded"], one["recomputed"])
        parts.append(table)
    parts += [Text(f"Not recomputed, {one['why']}: {', '.join(one['fields'])}.") for one in found["not_recomputed"]]
    reasons: dict[str, list[str]] = {}
    for name, because in found["taken"].items():
        reasons.setdefault(because, []).append(name)
    lines = [f"  {', '.join(names)}: {because}" for because, names in reasons.items()]
    return Group(*parts, Text("\n".join(["Taken from the record as it stands:", *lines])))


# --- Why not


_STANDINGS: Final[Mapping[str, str]] = {
    "chosen": "It was chosen.",
    "lost": "It was drawn, and not sent: a budget over all players could not bear it.",
    "eligible": "Nothing stood against it; the draw fell on another one.",
    "excluded": "It was denied before anything was drawn.",
}


def why_not(found: Mapping[str, Any]) -> Group:
    """Why an action was not the one."""
    head = f"{found['action']} in decision {found['decision_id']}: {_STANDINGS[found['standing']]}"
    if found["against"]:
        return Group(Text(head), _against(found["against"]))
    lines = [head]
    if this := found["this"]:
        lines.append(f"Its probability was {this['probability']:.6g}, its score {this['score']:.6g}.")
    if (drawn := found["drawn"]) and found["standing"] == "eligible":
        lines.append(
            f"The draw, u = {found['u']!r}, fell on {drawn['action']}: probability {drawn['probability']:.6g}, "
            f"score {drawn['score']:.6g}."
        )
    lines.append(f"The policy was {found['policy']}; {ROLES.get(found['role'], found['role'])}.")
    lines += [f"{one['rule']} would have put it off to {when(one['allowed_from_us'])}." for one in found["put_off"]]
    return Group(Text("\n".join(lines)))


def why_not_others(found: Mapping[str, Any]) -> Group:
    """Why each other action was not the one, grouped."""
    drawn = found["drawn"]
    chosen = "" if drawn is None else f": the draw fell on {drawn['action']}, probability {drawn['probability']:.6g}"
    head = f"Decision {found['decision_id']}, policy {found['policy']}{chosen}."
    parts: list[RenderableType] = [Text(head)]
    if found["against"]:
        parts.append(_exclusions("Denied before anything was drawn", found["against"]))
    more = f", the {_LISTED} likeliest of {len(found['eligible'])}" if len(found["eligible"]) > _LISTED else ""
    table = table_of(f"Nothing stood against them; the draw fell on another{more}", "action", "probability", "score")
    for one in found["eligible"][:_LISTED]:
        table.add_row(one["action"], f"{one['probability']:.6g}", f"{one['score']:.6g}")
    return Group(*parts, table)


def _against(found: Sequence[Mapping[str, Any]]) -> Table:
    table = table_of("What stood against it", "what", "id", "because", "source")
    for one in found:
        table.add_row(one["kind"], one["rule"], one["reason"], one["source"])
    return table


# --- Verify


def verified(found: Mapping[str, Any]) -> Group:
    """What a verification found, in words."""
    pace = f"{found['seconds']:,.1f} s, {found['decisions_per_second']:,.0f} a second"
    lines = [
        f"{found['checked']:,} decisions from {found['since']} to {found['until']} checked in {pace}.",
        f"{found['reproduced']:,} came out exactly as they were logged, {found['differing']:,} otherwise.",
        f"{found['erased']:,} are of erased players; what is not personal came out as it was logged.",
    ]
    lines += [f"{n:,} not wholly recomputable: {REASONS[name]}." for name, n in found["not_recomputable"].items()]
    lines.append(f"The chain of the log {'holds' if found['chain_ok'] else 'does not hold'}.")
    lines += [f"{name} came out otherwise {n:,} times." for name, n in found["differences"].items()]
    if (first := found["first_fault"]) is not None:
        partition = "unknown" if first["partition"] is None else f"p{first['partition']:03d}"
        where = f"partition {partition}, stream id {first['stream_id'] or 'unknown'}"
        decision_id = f", decision {first['decision_id']}" if first["decision_id"] else ""
        lines.append(f"The first of {found['faults']:,} faults: {where}{decision_id}: {first['what']}.")
    return Group(Text("\n".join(lines)))
