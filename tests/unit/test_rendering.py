"""Templates and their rendering: strict, escaped, whole in every locale; what the lint finds."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from features.files import CatalogueError
from models.catalogue.offers import load_catalogue
from service.delivery.links import NO_LINKS
from service.delivery.rendering import RenderingError, render, rendered
from service.delivery.template_lint import demanded, linted, occasion_of
from service.delivery.templates import Templates, load_templates, templates_path
from service.rules.rulebook import load_rulebook, rulebook_path
from service.settings import catalogue_path

SHIPPED = load_templates(templates_path())
CATALOGUE = load_catalogue(catalogue_path())
BOOK = load_rulebook(rulebook_path())


def changed(path: tuple[str, ...], value: Any) -> Templates:
    """The templates that come with the house, with one place changed."""
    told = SHIPPED.model_dump(mode="json")
    at = told
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return Templates.model_validate(told)


def sentences(templates: Templates) -> list[str]:
    return [one.sentence for one in linted(templates, CATALOGUE, BOOK)]


def test_the_templates_that_come_with_the_house_have_no_finding_and_cover_every_offer() -> None:
    assert sentences(SHIPPED) == []
    assert {offer.template for offer in CATALOGUE.offers} <= SHIPPED.templates.keys()


def test_a_mail_has_the_parts_of_its_place_both_as_html_and_as_text() -> None:
    occasion = occasion_of(
        "free_spins_v1", {"spins": 20, "spin_stake_minor": 10}, "en", "email", "main", jurisdiction="GB"
    )
    mail = rendered(SHIPPED, occasion)
    for whole in (mail.html, mail.text):
        assert "0808 8020 133" in whole
        assert "Valletta" in whole
        assert "https://crm.example/unsubscribe/TOKEN" in whole
        assert "https://crm.example/c/" in whole
    assert mail.subject == "20 free spins for you"
    assert "€0.10" in mail.text
    assert 'lang="en"' in mail.html
    assert "prefers-color-scheme: dark" in mail.html


def test_a_link_leads_through_the_house_and_holds_where_it_goes() -> None:
    occasion = occasion_of("new_game_v1", {}, "en", "push", "main")
    token = rendered(SHIPPED, occasion).url.removeprefix("https://crm.example/c/")
    told = NO_LINKS.click(token)
    assert told is not None
    assert (told.url, told.decision_id) == ("https://casino.example/casino/new", "000-" + "a" * 24)


def test_the_nearest_locale_is_taken() -> None:
    for asked, got in (("de-AT", "de"), ("de", "de"), ("fr", "en"), ("", "en")):
        assert rendered(SHIPPED, occasion_of("new_game_v1", {}, asked, "email", "main")).locale == got


def test_what_a_player_is_called_cannot_become_markup() -> None:
    occasion = occasion_of("new_game_v1", {}, "en", "email", "main", player='<img src=x onerror="x()">')
    mail = rendered(SHIPPED, occasion)
    assert "<img src=x" not in mail.html
    assert "&lt;img src=x" in mail.html
    assert '<img src=x onerror="x()">' in mail.text  # the text is no markup


def test_what_is_called_as_a_template_is_not_run() -> None:
    occasion = occasion_of("new_game_v1", {}, "en", "email", "main", player="{{ unsubscribe_url }}{% raw %}")
    assert "{{ unsubscribe_url }}" in rendered(SHIPPED, occasion).text


@pytest.mark.parametrize(
    "text",
    [
        "{{ nothing }}",
        "{{ player.phone }}",
        "{{ brand.name | nofilter }}",
        "{% for i in (1..2000) %}x{% endfor %}",
        "{% if %}",
        "{% include 'other' %}",
        "{{ 'javascript:alert(1)' | link }}",
    ],
)
def test_a_text_that_is_not_whole_refuses_to_be_sent(text: str) -> None:
    templates = changed(("templates", "new_game_v1", "locales", "en", "sms"), text)
    with pytest.raises(RenderingError):
        rendered(templates, occasion_of("new_game_v1", {}, "en", "sms", "main"))
    assert sentences(templates)


def test_a_parameter_that_the_offer_has_lost_refuses_to_be_sent() -> None:
    with pytest.raises(RenderingError, match="spins"):
        rendered(SHIPPED, occasion_of("free_spins_v1", {"spin_stake_minor": 10}, "en", "email", "main"))


def test_an_undeclared_parameter_is_not_there() -> None:
    templates = changed(("templates", "free_spins_v1", "variables"), {"spins": "whole"})
    with pytest.raises(RenderingError, match="spin_stake_minor"):
        rendered(templates, occasion_of("free_spins_v1", {"spins": 1, "spin_stake_minor": 1}, "en", "email", "main"))


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        (("templates", "free_bet_v1", "contains"), ["age_notice"], "tagged helpline"),
        (("templates", "new_game_v1", "locales", "de", "push"), None, "other locales do"),
        (("parts", "postal_address"), {}, "part postal_address has no text"),
        (("parts", "helpline"), {"GB": {"en": {"long": "x", "short": "x"}}}, "part helpline has no text for MT"),
        (("layout",), "<mjml><mj-body>{{ content }}</mj-body>", "no MJML"),
        (("templates", "new_game_v1", "locales", "en", "sms"), "x" * 1_601, "longer than the 1,600"),
        (("templates", "new_game_v1", "variables"), {"colour": "text"}, "uses colour, which the offer new_game"),
    ],
)
def test_the_lint_names_what_is_wrong(path: tuple[str, ...], value: Any, finding: str) -> None:
    assert any(finding in one for one in sentences(changed(path, value)))


def test_an_edge_value_that_breaks_a_template_is_found() -> None:
    text = "{% if spins > 100 %}{{ wagering }}{% endif %}{{ spins }} free spins"
    assert any(
        "wagering" in one for one in sentences(changed(("templates", "free_spins_v1", "locales", "en", "sms"), text))
    )


def test_every_tag_that_a_rule_demands_has_a_part() -> None:
    assert demanded(BOOK) <= SHIPPED.parts.keys()


def test_a_mail_needs_subject_mail_and_text() -> None:
    with pytest.raises(ValueError, match="all three"):
        changed(("templates", "new_game_v1", "locales", "en", "text"), "")


def test_right_to_left_is_said_in_the_mail() -> None:
    texts = SHIPPED.templates["new_game_v1"].locales["en"].model_dump(mode="json")
    templates = changed(("templates", "new_game_v1", "locales", "ar"), texts)
    mail = rendered(templates, occasion_of("new_game_v1", {}, "ar", "email", "main", player="محمد"))
    assert 'dir="rtl"' in mail.html
    assert "محمد" in mail.html


def test_a_folder_names_the_file_and_the_field_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"layout\.mjml"):
        load_templates(tmp_path)
    (tmp_path / "layout.mjml").write_text("x")
    (tmp_path / "parts.yaml").write_text("parts: {}")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"version": 1, "brands": {}}))
    with pytest.raises(CatalogueError, match="brands"):
        load_templates(tmp_path)


def test_the_hash_is_that_of_the_content() -> None:
    assert load_templates(templates_path()).hash == SHIPPED.hash
    assert changed(("layout",), SHIPPED.layout + " ").hash != SHIPPED.hash


def test_plain_texts_are_not_escaped() -> None:
    assert render("{{ a }}", {"a": "Tom & Ann"}) == "Tom & Ann"
    assert render("{{ a }}", {"a": "Tom & Ann"}, escaped=True) == "Tom &amp; Ann"
