"""Every case of docs/cookbook-istio.md through a real Envoy, twice: by istiod's RBAC filter, and by this sidecar."""

import json
from collections.abc import Iterator

import pytest
import yaml
from cookbooks import recipes
from istio_peer import RECORDED, Peers, asked, running

COOKBOOK = recipes("cookbook-istio.md")
FILTERS = json.loads(RECORDED.read_text())["filters"]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with running(tmp_path_factory.mktemp("istio"), COOKBOOK) as found:
        yield found


@pytest.mark.parametrize("recipe", COOKBOOK, ids=lambda each: each.title)
def test_the_recorded_filters_were_made_of_the_policies_on_the_page(recipe):
    # After a change of the page: python tests/support/istio_recording.py DIRECTORY
    assert FILTERS[recipe.title]["policy"] == yaml.safe_load(recipe.yaml("apiVersion"))


def test_nothing_is_recorded_that_no_recipe_has():
    assert list(FILTERS) == [recipe.title for recipe in COOKBOOK]


@pytest.mark.parametrize("number", range(len(COOKBOOK)), ids=[recipe.title for recipe in COOKBOOK])
def test_istio_and_the_sidecar_answer_every_case_as_the_page_says(peers, number):
    recipe = COOKBOOK[number]
    answers = {}
    expected = {}
    for case in recipe.cases():
        one = asked(case)
        if one is None:
            continue
        name, allowed = case["name"], case["expect"]["decision"] == "allow"
        theirs, ours = peers.answers(number, one)
        assert theirs in (200, 403), name
        assert ours in (200, 400, 401, 403), name
        answers[name] = {"Istio": theirs == 200, "here": ours == 200}
        expected[name] = {"Istio": allowed is not (name in recipe.differs), "here": allowed}
    assert answers == expected
    assert {True, False} <= {each["here"] for each in answers.values()} or recipe.title.startswith("9.")
    assert recipe.differs <= set(answers)


def test_only_an_address_that_nobody_knows_cannot_be_sent():
    left = [case["name"] for recipe in COOKBOOK for case in recipe.cases() if asked(case) is None]
    assert left == ["a call: from nobody knows where"]


def test_what_istio_would_have_denied_it_counts_and_we_record(peers):
    (number,) = (number for number, recipe in enumerate(COOKBOOK) if recipe.title.startswith("9."))
    (case,) = COOKBOOK[number].cases()
    before = sum(peers.envoy.stats(f"http.theirs-{number}.rbac.*shadow_denied").values())
    assert peers.answers(number, asked(case)) == (200, 200)
    assert sum(peers.envoy.stats(f"http.theirs-{number}.rbac.*shadow_denied").values()) == before + 1
