"""A first contact over HTTP: tell who a player is, ask, show what was decided, tell what became of it.

    python notebooks/integrator.py --address http://127.0.0.1:8000

It sends the development key of the house in CROUPIER_HOME (`var/` by default), and nothing but plain requests.
"""

import argparse
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

player = f"new-{secrets.token_hex(4)}"
"""Somebody of whom nothing is known yet."""


def known(client: httpx.Client, **event: object) -> None:
    """Tell an event of the player; the same again under its `event_id` counts once."""
    told = {"player_id": player, "event_id": f"{player}-{event['type']}", "occurred_at": now(), **event}
    client.post("/v1/events", json=told).raise_for_status()


def now() -> str:
    """This moment, with its zone."""
    return datetime.now(UTC).isoformat()


def first_contact(client: httpx.Client) -> dict[str, Any]:
    """Tell what a player in Malta must be known for, and ask what to show them now."""
    known(client, type="registered", jurisdiction="MT", time_zone="Europe/Malta", birth_date="1990-05-17")
    known(client, type="kyc_verified")
    known(client, type="consent_changed", channel="in_app", granted=True)
    asked = {"player_id": player, "request_id": "visit-1", "channels": ["in_app"], "activate": True}
    answer = client.post("/v1/decisions", json=asked).raise_for_status()
    decision: dict[str, Any] = answer.json()
    return decision


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--address", default="http://127.0.0.1:8000")
    key = (Path(os.environ.get("CROUPIER_HOME", "var")) / "development.key").read_text().strip()
    with httpx.Client(base_url=words.parse_args().address, headers={"authorization": f"Bearer {key}"}) as house:
        decision = first_contact(house)
        if decision["action"] == "NO_CONTACT":  # by chance: a control group, or what the policy drew
            print(f"{player} is left alone; exclusions: {[one['rule'] for one in decision.get('exclusions', [])]}")
        else:
            print(f"{player} is shown: {decision['action']['offer']['name']}")
            clicked = {"outcome_id": f"{player}-1", "decision_id": decision["decision_id"], "type": "clicked"}
            house.post("/v1/outcomes", json=clicked | {"occurred_at": now()}).raise_for_status()
        record = house.get(f"/v1/decisions/{decision['decision_id']}").raise_for_status().json()
        print(f"drawn with probability {record['propensity']:.3f} by {record['policy_version']}")
