"""What is known of each resource."""

from mapping_support import table

from ext_authz.mappers.catalog import MAX_BELOW

CATALOG = """
catalog:
  - {type: model, id: "*", owner: ml, stage: dev}
  - {type: model, id: "fraud-*", stage: staging, tier: b}
  - {type: model, id: "fraud-card-*", tier: a}
  - {type: model, id: fraud-card-1, stage: production}
  - {type: dataset, id: pii, sensitivity: high}
  - {type: region, id: "*", place: eu}
"""


def known(kind, name, route=None):
    return dict(table(CATALOG).catalog.attributes(kind, name, route or {}))


def test_for_each_attribute_the_most_specific_entry_that_gives_it_speaks():
    assert known("model", "fraud-card-1") == {"owner": "ml", "stage": "production", "tier": "a"}
    assert known("model", "fraud-card-2") == {"owner": "ml", "stage": "staging", "tier": "a"}
    assert known("model", "fraud-x") == {"owner": "ml", "stage": "staging", "tier": "b"}
    assert known("model", "fraud-") == {"owner": "ml", "stage": "staging", "tier": "b"}
    assert known("model", "fraud") == {"owner": "ml", "stage": "dev"}


def test_the_catalog_beats_the_route_and_keeps_what_only_the_route_gives():
    assert known("model", "x", {"stage": "prod", "zone": "z"}) == {"owner": "ml", "stage": "dev", "zone": "z"}


def test_an_unknown_type_or_id_has_what_the_route_gives():
    assert known("server", "x", {"stage": "prod"}) == {"stage": "prod"}
    assert known("dataset", "other", {"stage": "prod"}) == {"stage": "prod"}
    assert known("dataset", "PII") == {}


def test_of_any_resource_only_what_is_true_of_every_one_is_known():
    assert known("model", "*", {"stage": "dev", "zone": "z", "tier": "b"}) == {"owner": "ml", "zone": "z"}
    assert known("dataset", "*", {"sensitivity": "low"}) == {}
    assert known("dataset", "*", {"sensitivity": "high"}) == {"sensitivity": "high"}
    assert known("region", "*", {"place": "us"}) == {"place": "eu"}, "the catalog's own `*` is of every one"


def test_of_any_resource_below_a_name_only_what_is_true_of_each_of_them_is_known():
    assert known("model", "fraud-card-*", {"zone": "z"}) == {"owner": "ml", "tier": "a", "zone": "z"}
    assert known("model", "fraud-x*") == {"owner": "ml", "stage": "staging", "tier": "b"}
    assert known("model", "other*", {"stage": "prod"}) == {"owner": "ml", "stage": "dev"}


def test_below_a_name_with_more_entries_than_a_check_has_time_for_any_entry_of_the_type_counts():
    lines = "".join(f"  - {{type: t, id: 'a/{number}', level: low}}\n" for number in range(MAX_BELOW + 1))
    many = table(f"catalog:\n  - {{type: t, id: 'b/x', level: high}}\n{lines}").catalog
    assert many.attributes("t", "a/*", {"level": "low"}) == {}
    assert many.attributes("t", "a/1*", {"level": "low"}) == {"level": "low"}
    assert many.attributes("t", "b/*", {"level": "high"}) == {"level": "high"}
