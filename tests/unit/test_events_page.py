"""docs/events.md says of each type of event what the code does with it."""

from support.events_page import HARM, MONEY, PAGE, page

from features.files import load_yaml
from pipelines.imports.columns import MODELS
from service.players.harm import HarmSettings
from service.rules.rulebook import rulebook_path


def test_the_page_is_what_the_code_does() -> None:
    now = PAGE.read_text("utf8")
    assert now == page(now), "the page is of another code: make map"


def test_what_people_wrote_of_money_and_harm_is_of_types_and_markers_that_there_are() -> None:
    assert HARM.keys() | MONEY.keys() <= MODELS.keys()
    known = {one.id for one in load_yaml(rulebook_path() / "harm.yaml", HarmSettings).markers.values()}
    named = {word.strip(",;:") for text in HARM.values() for word in text.split() if word[1:2].isdigit()}
    assert named <= known | {"M12"}
    assert known <= named | {f"M{number}" for number in (8, 9, 10, 11)}
