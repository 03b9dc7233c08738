"""Which entry a request falls under."""

import pytest
from mapping_support import ask, facts, grpc, meaning, table

from ext_authz.mappers.routes import RouteMatch
from ext_authz.model import Reason, Refusal, Target

LAKE = """
routes:
  - {name: health, host: lake, methods: [GET], path: /healthz, unsafe_public: true}
  - {name: read, host: lake, methods: [GET], path: "/datasets/{id}/**", resource: {type: dataset, id: "{id}"}, action: read_data}
  - {name: write, host: lake, methods: [PUT, POST], path: "/datasets/{id}/**", resource: {type: dataset, id: "{id}"}, action: write_data}
  - {name: wide, host: "*.lake", path: "/{bucket}/{key**}", resource: {type: object, id: "{bucket}/{key}", version: "1"}, action: use}
"""


@pytest.mark.parametrize(
    ("method", "path", "host", "expected"),
    [
        ("GET", "/healthz", "lake", "public"),
        ("GET", "/healthz?x=1", "lake", "public"),
        ("POST", "/healthz", "lake", "no_route"),
        ("HEAD", "/healthz", "lake", "no_route"),
        ("GET", "/healthz/", "lake", "no_route"),
        ("GET", "/Healthz", "lake", "no_route"),
        ("GET", "/datasets/clicks", "lake", [("dataset", "clicks", "", "read_data")]),
        ("GET", "/datasets/clicks/a/b", "lake", [("dataset", "clicks", "", "read_data")]),
        ("GET", "/datasets/cl%69cks", "lake", [("dataset", "clicks", "", "read_data")]),
        ("PUT", "/datasets/clicks/a", "lake", [("dataset", "clicks", "", "write_data")]),
        ("get", "/datasets/clicks", "lake", "no_route"),
        ("DELETE", "/datasets/clicks", "lake", "no_route"),
        ("GET", "/datasets/clicks/", "lake", "no_route"),
        ("GET", "/datasets", "lake", "no_route"),
        ("GET", "/datasets/clicks", "other", "no_route"),
        ("GET", "/datasets/clicks", "", "no_route"),
        ("GET", "/datasets/../healthz", "lake", "ambiguous_path"),
        ("GET", "//healthz", "lake", "ambiguous_path"),
        ("GET", "/datasets/a%2Fb", "lake", "ambiguous_path"),
        ("GET", "/nowhere%2Fa", "lake", "ambiguous_path"),
        ("GET", "/b/k/l", "x.y.lake", [("object", "b/k/l", "1", "use")]),
        ("CONNECT", "", "lake", "no_route"),
        ("CONNECT", "/healthz", "lake", "no_route"),
        ("OPTIONS", "*", "lake", "no_route"),
        ("GET", "*", "lake", "ambiguous_path"),
        ("GET", "", "lake", "ambiguous_path"),
        ("GET", "http://lake/healthz", "lake", "ambiguous_path"),
    ],
)
def test_the_first_entry_that_matches_speaks(method, path, host, expected):
    assert meaning(table(LAKE), facts(method, path, host)) == expected


def test_entries_are_looked_at_in_order_across_kinds_of_hosts_and_first_segments():
    routes = table("""
routes:
  - {host: "*.a", path: /x, resource: {type: t, id: one}, action: use}
  - {host: b.a, path: /x, resource: {type: t, id: two}, action: use}
  - {host: b.a, path: "/{y}", resource: {type: t, id: three}, action: use}
  - {host: b.a, path: /z, resource: {type: t, id: four}, action: use}
  - {path: "/**", resource: {type: t, id: five}, action: use}
""")
    assert [meaning(routes, facts("GET", path, host))[0][1] for path, host in [
        ("/x", "b.a"), ("/z", "b.a"), ("/q/r", "b.a"), ("/x", "c.a"), ("/z", "c.a"), ("/x", "elsewhere"), ("/", "b.a"),
    ]] == ["one", "three", "five", "one", "five", "five", "five"]  # fmt: skip


def test_a_context_extension_selects_one_entry_and_no_other():
    routes = table("""
routes:
  - {name: a, host: h, path: "/{x}", resource: {type: t, id: a}, action: use}
  - {name: b, host: h, methods: [GET], path: "/{x}", resource: {type: t, id: b}, action: use, by_name: true}
  - {name: c, host: other, path: "/{x}", resource: {type: t, id: c}, action: use}
""")

    def of(name, method="GET", path="/p"):
        return meaning(routes, facts(method, path, extensions={"ext_authz_route": name}))

    assert of("a") == [("t", "a", "", "use")]
    assert of("b") == [("t", "b", "", "use")]
    assert of("b", "POST") == "no_route", "its methods must match too"
    assert of("b", path="/p/q") == "no_route", "its path must match too"
    assert of("c") == "no_route", "its host must match too"
    assert of("nobody") == "no_route"
    assert of("") == "no_route"
    assert of("a", path="//p") == "ambiguous_path"


def test_an_entry_by_name_is_reached_only_so():
    routes = table('routes: [{name: b, host: h, path: "/{x}", resource: {type: t, id: b}, action: use, by_name: true}]')
    assert meaning(routes, facts("GET", "/p")) == "no_route"


@pytest.mark.parametrize(
    ("upgrade", "allowed"),
    [
        ("websocket", True),
        ("WebSocket", True),
        ("h2c", False),
        ("websocket, h2c", False),
        (("websocket", "h2c"), False),
        ("", False),
    ],
)
def test_an_upgrade_needs_an_entry_that_says_so(upgrade, allowed):
    plain = "routes: [{host: h, path: /ws, resource: {type: t, id: ws}, action: use%s}]"
    request = facts("GET", "/ws", headers={"upgrade": upgrade})
    assert meaning(table(plain % ""), request) == "no_route"
    expected = [("t", "ws", "", "use")] if allowed else "no_route"
    assert meaning(table(plain % ", upgrade: [websocket]"), request) == expected
    assert meaning(table(plain % ", upgrade: [websocket]"), facts("GET", "/ws")) == [("t", "ws", "", "use")]


def test_an_upgrade_on_a_public_path_is_no_route():
    routes = table("routes: [{host: h, path: /p, methods: [GET], unsafe_public: true}]")
    assert meaning(routes, facts("GET", "/p", headers={"upgrade": "websocket"})) == "no_route"


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_a_header_that_names_another_method_is_refused_even_on_a_public_path(name):
    routes = table("routes: [{host: h, path: /p, methods: [GET], unsafe_public: true}]")
    assert name in routes.header_names
    assert meaning(routes, facts("GET", "/p", headers={name: "DELETE"})) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/p", headers={name: ("GET", "DELETE")})) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/p", headers={name: "GET"})) == "public"


@pytest.mark.parametrize("name", ["x-original-url", "x-rewrite-url"])
def test_a_header_that_names_another_path_is_refused(name):
    routes = table("routes: [{host: h, path: /p, methods: [GET], unsafe_public: true}]")
    assert name in routes.header_names
    assert meaning(routes, facts("GET", "/p", headers={name: "/admin"})) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/p", headers={name: "/p"})) == "public"


def test_an_encoded_slash_passes_only_inside_a_named_segment_of_an_entry_that_allows_it():
    routes = table("""
routes:
  - {host: h, path: "/m/{id}/*", resource: {type: model, id: "{id}"}, action: use, encoded_slash: true}
  - {host: h, path: "/f/{id}/{rest**}", resource: {type: model, id: "{id}"}, action: use, encoded_slash: true}
""")
    assert meaning(routes, facts("GET", "/m/org%2Fname/x")) == [("model", "org/name", "", "use")]
    assert meaning(routes, facts("GET", "/m/org%2fname/x")) == [("model", "org/name", "", "use")]
    assert meaning(routes, facts("GET", "/m/name/x%2Fy")) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/m%2Fname/x")) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/f/org%2Fname/x")) == [("model", "org/name", "", "use")]
    assert meaning(routes, facts("GET", "/f/name/x%2Fy")) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/m/a%5Cb/x")) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/m/..%2Fb/x")) == "ambiguous_path"


def test_the_audited_path_keeps_an_encoded_slash_apart():
    routes = table(
        'routes: [{host: h, path: "/{id}", resource: {type: t, id: "{id}"}, action: use, encoded_slash: true}]'
    )
    match = routes.match(facts("GET", "/a%2fb?q=1"))
    assert isinstance(match, RouteMatch)
    assert match.path.text == "/a%2Fb"


PROTOCOL = """
routes:
  - {name: first, host: h, path: /healthz, methods: [GET], unsafe_public: true}
  - {name: models, host: h, protocol: open-inference, attributes: {stage: dev}}
  - {name: behind, host: h, path: "/**", resource: {type: app, id: h}, action: use}
"""


def test_behind_a_protocol_no_other_entry_catches_what_its_table_does_not_know():
    routes = table(PROTOCOL)
    assert meaning(routes, facts("GET", "/healthz")) == "public"
    assert meaning(routes, facts("POST", "/v2/models/m/infer")) == [("model", "m", "", "infer")]
    assert meaning(routes, facts("POST", "/v2/models/m/infer/")) == "no_route"
    assert meaning(routes, facts("DELETE", "/v2/models/m/infer")) == "no_route"
    assert meaning(routes, facts("GET", "/elsewhere")) == "no_route"


def test_an_unknown_call_of_a_protocol_keeps_its_error_shape():
    match = table(PROTOCOL).match(facts("GET", "/elsewhere"))
    assert isinstance(match, RouteMatch)
    assert (match.name, match.protocol, match.error_shape, match.public) == (
        "models",
        "open-inference",
        "open-inference",
        False,
    )


def test_a_protocol_may_be_mounted_below_a_plain_path():
    routes = table('routes: [{name: m, host: h, path: "/ml/prod/**", protocol: open-inference}]')
    assert meaning(routes, facts("POST", "/ml/prod/v2/models/m/infer")) == [("model", "m", "", "infer")]
    assert meaning(routes, facts("GET", "/ml/prod/v2")) == [("server", "m", "", "read_metadata")]
    for path in ("/v2/models/m/infer", "/ml/v2/models/m/infer", "/ml/prod", "/ml/prod/", "/ml/prodv2"):
        assert meaning(routes, facts("POST", path)) == "no_route"


def test_route_attributes_and_catalog_reach_the_resource_and_the_catalog_wins():
    routes = table("""
routes:
  - {host: h, protocol: open-inference, attributes: {stage: dev, region: eu}}
catalog:
  - {type: model, id: fraud, stage: production}
""")
    target = ask(routes, facts("POST", "/v2/models/fraud/infer"))
    assert isinstance(target, Target)
    assert dict(target.accesses[0].resource.attributes) == {"stage": "production", "region": "eu"}
    target = ask(routes, facts("POST", "/v2/models/other/infer"))
    assert isinstance(target, Target)
    assert dict(target.accesses[0].resource.attributes) == {"stage": "dev", "region": "eu"}


def test_a_path_that_says_star_is_no_more_than_any_resource():
    routes = table("""
routes:
  - {host: h, path: "/{id}", resource: {type: dataset, id: "{id}", tier: a}, action: use}
catalog:
  - {type: dataset, id: pii, tier: b}
""")
    target = ask(routes, facts("GET", "/*"))
    assert isinstance(target, Target)
    assert target.accesses[0].resource.id == "*"
    assert dict(target.accesses[0].resource.attributes) == {}, "not every dataset is of tier a"


def test_a_version_in_an_unusual_spelling_is_an_ambiguous_path():
    routes = table("routes: [{host: h, protocol: open-inference}]")
    assert meaning(routes, facts("GET", "/v2/models/m/versions/1")) == [("model", "m", "1", "read_metadata")]
    assert meaning(routes, facts("GET", "/v2/models/m/versions/v01")) == [("model", "m", "v01", "read_metadata")]
    for version in ("01", "+1", "-1", "%201", "00"):
        match = routes.match(facts("GET", f"/v2/models/m/versions/{version}"))
        assert isinstance(match, Refusal)
        assert match.reason is Reason.AMBIGUOUS_PATH


def test_an_empty_table_routes_nothing():
    routes = table("{}")
    assert meaning(routes, facts("GET", "/")) == "no_route"
    assert meaning(routes, grpc("/inference.GRPCInferenceService/ModelInfer", b"")) == "no_route"
    assert routes.lint() == ()


def lints(text):
    return [(warning.code, warning.message) for warning in table(text).lint()]


def test_a_shadowed_route_is_a_warning():
    [(code, message)] = lints("""
routes:
  - {name: a, host: "*.h", path: "/x/**", resource: {type: t, id: a}, action: use}
  - {name: b, host: c.h, methods: [GET], path: "/x/{y}", resource: {type: t, id: b}, action: use}
  - {name: c, host: c.h, path: "/x/{y}/", resource: {type: t, id: c}, action: use}
  - {name: d, path: "/x/{y}", resource: {type: t, id: d}, action: use}
""")
    assert code == "shadowed_route"
    assert message == "route `b` is never reached: `a` at routes.yaml:3:5 matches first"


def test_what_stands_behind_a_protocol_on_its_host_is_shadowed():
    found = lints(PROTOCOL)
    assert [code for code, _ in found] == ["shadowed_route"]
    assert "route `behind`" in found[0][1]


def test_a_host_that_anybody_can_own_is_a_warning():
    assert [code for code, _ in lints('routes: [{name: a, host: "models.*", protocol: open-inference}]')] == [
        "host_anybody_can_own"
    ]


def test_what_the_routes_yield_is_known_to_the_policy_lint():
    yields = table(PROTOCOL).yields()
    assert ("app", "use") in yields.accesses
    assert {"model", "server", "app"} == yields.types
    assert {"infer", "deploy_model", "register_model", "health", "use"} <= yields.actions
    assert yields.attributes == {"stage"}
