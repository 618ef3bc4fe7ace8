"""A compliance officer's first review: what binds where, what is doubtful, what was sent, and whether the log is whole.

CROUPIER_HOME=var python notebooks/compliance_officer.py --jurisdiction MT
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from typing import Any

from features.settings.environment import environment
from pipelines.experiments.exposures import opened


def croupier(*words: str) -> Any:  # noqa: ANN401 - whatever the command prints as JSON
    """What a command of Croupier prints as JSON."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "pipelines", *words, "--json"], check=False, capture_output=True, text=True
    )
    if done.returncode > 1:  # 1 tells of a fault that is in the answer
        sys.exit(done.stderr)
    return json.loads(done.stdout)


AFTER_EXCLUSION = """
    SELECT count(*) FROM outcomes JOIN decisions USING (player, decision_id) JOIN events USING (player)
    WHERE outcomes.type = 'confirmed' AND decisions.purpose IN ('marketing', 'bonus')
        AND events.type = 'self_excluded' AND outcomes.occurred_at > events.known_at
        AND NOT EXISTS (FROM events AS back WHERE back.player = outcomes.player AND back.type = 'exclusion_ended'
            AND back.occurred_at BETWEEN events.occurred_at AND outcomes.occurred_at)
"""
"""Contacts that were confirmed after the player's exclusion was known: asked of the lake, not of what decided."""

if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--jurisdiction", default="MT")
    place = words.parse_args().jurisdiction

    rules = croupier("rules", "list", "--jurisdiction", place)["rules"]
    doubtful = [rule["rule"] for rule in rules if rule["state"] != "on" or rule["confidence"] in {"M", "weak"}]
    print(f"{place}: {len(rules)} rules bind, by type {dict(Counter(rule['type'] for rule in rules))}")
    print(f"to be read by a lawyer first: {', '.join(doubtful) or 'none'}")

    with opened(environment().home / "lake") as lake:
        print(lake.sql("SELECT role, purpose, count(*) AS decisions FROM decisions GROUP BY ALL ORDER BY 3 DESC"))
        (sent,) = lake.execute(AFTER_EXCLUSION).fetchone() or (None,)
        print(f"contacts confirmed after the player's exclusion was known: {sent}")

    log = croupier("verify", "--since", "7d")
    print(f"{log['checked']} decisions of seven days, {log['reproduced']} reproduced, {log['differing']} differ")
    print(f"not recomputable, by reason: {log['not_recomputable']}; chain whole: {log['chain_ok']}")
