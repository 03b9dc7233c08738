"""Mistakes in routes and catalogs: each one clear, all at once, where they stand."""

import pytest
from mapping_support import table

from ext_authz.documents import DocumentError, load
from ext_authz.mappers.routes import load_resources


def mistakes(text):
    with pytest.raises(DocumentError) as caught:
        table(text)
    return [(d.mark.line, d.mark.column, d.message) for d in caught.value.diagnostics]


def route(text):
    return [message for _, _, message in mistakes(f"routes: [{{{text}}}]")]


GOOD = 'host: h, path: "/{id}", resource: {type: t, id: "{id}"}, action: use'


def test_every_mistake_is_reported_at_once_with_its_place():
    found = mistakes("""\
routes:
  - {host: h, protcol: open-inference, path: "/a/**/b", resource: {type: t, id: x}, action: use}
  - {host: "h:80", protocol: opn-inference}
  - {methods: [get], path: /p, unsafe_public: yes}
  - 17
catalog:
  - {type: model, stage: production}
  - {type: model, id: "a*b"}
routs: []
""")
    assert found == [
        (2, 15, "unknown key `protcol`, did you mean `protocol`?"),
        (2, 46, "`**` stands last or not at all"),
        (3, 12, "`h:80` is not a host: names without port, `*` for whole labels"),
        (3, 30, found[3][2]),
        (4, 16, "`get` is not a method, did you mean `GET`?"),
        (4, 47, "`unsafe_public` is `true` or `false`"),
        (5, 5, "a route is a mapping: `{host: …, path: …, resource: …, action: …}`"),
        (7, 5, "`id` is missing"),
        (8, 19, found[8][2]),
        (9, 1, "unknown key `routs`, did you mean `routes`?"),
    ]
    assert found[3][2] == "unknown protocol `opn-inference`, did you mean `open-inference`?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('host: h, path: "/{id}", resource: {type: t, id: "{x}"}, action: use', "`{x}` is not in the path"),
        ('host: h, path: "/{id}", resource: {type: t}, action: use', "`id` is missing"),
        ('host: h, path: "/{id}", resource: {id: "{id}"}, action: use', "`type` is missing"),
        ('host: h, path: "/{id}", resource: t, action: use', "`resource` is a mapping: `{type: …, id: …}`"),
        ('host: h, path: "/{id}", resource: {type: "*", id: a}, action: use', "`*` is not a resource type"),
        ('host: h, path: "/{id}", resource: {type: t, id: a}, action: "*"', "`*` is not an action (letters, digits, `_`, `.`, `:`, `-`)"),
        ('host: h, path: "/{id}", resource: {type: t, id: a}', "`action` is missing"),
        ("host: h, resource: {type: t, id: a}, action: use", '`path` is missing: write `path: "/**"` for any path'),
        ('host: h, path: "/{id}", resource: {type: t, id: a, tenant: "{id}"}, action: use', "`{x}` from the path may stand in `id` and `version` only"),
        (f"{GOOD}, attributes: {{id: x}}", "`id` comes from the request, not from here"),
        (f"{GOOD}, attributes: {{stage: [a, b]}}", "`stage` needs one value, a non-empty text"),
        (f"{GOOD}, attributes: {{stage: }}", "`stage` needs one value, a non-empty text"),
        (f"{GOOD}, attributes: [a]", "`attributes` is a mapping"),
        (f"{GOOD}, attributes: {{a b: x}}", "`a b` is not an attribute name (letters, digits, `_`, `-`)"),
        ("host: h, path: /p, resource: {type: t, id: a, s: x}, attributes: {s: y}, action: use", "`s` stands under `attributes` too"),
        (f"{GOOD}, methods: []", "`methods` is a list of at least one text"),
        (f"{GOOD}, methods: GET", "`methods` is a list of at least one text"),
        (f"{GOOD}, methods: [[GET]]", "`methods` is a list of texts"),
        (f"{GOOD}, methods: [CONNECT]", "CONNECT is never routed"),
        (f'{GOOD}, methods: ["*"]', "`*` is not a method"),
        (f"{GOOD}, upgrade: [h2c]", "`h2c`: the only upgrade is `websocket`"),
        (f"{GOOD}, upgrade: websocket", "`upgrade` is a list of at least one text"),
        (f"{GOOD}, name: a b", "`a b` is not a name (letters, digits, `.`, `_`, `-`)"),
        (f"{GOOD}, by_name: true", "an entry reached by name only needs a `name`"),
        (f'{GOOD}, encoded_slash: "true"', "`encoded_slash` is `true` or `false`"),
        (f"{GOOD}, unsafe_public: false, protocol: open-inference, name: x", "`resource` has no meaning beside `protocol`"),
        ('host: h, path: "/*", resource: {type: t, id: a}, action: use, encoded_slash: true', "there is no `{x}` in the path that an encoded slash could stand in"),
        ('host: h, path: "/{a}/{b}", resource: {type: t, id: "{a}-{b}"}, action: use', "`{a}-{b}` gives two resources one name: put a `/` between the references (without `encoded_slash`)"),
        ("host: h, path: /p, unsafe_public: true", "`methods` is missing: a public entry names them"),
        ("host: h, methods: [GET], unsafe_public: true", "`path` is missing: a public entry names one exact path"),
        ('host: h, methods: [GET], path: "/{x}", unsafe_public: true', "a public entry names one exact path, without `{x}`, `*` or `**`"),
        ('host: h, methods: [GET], path: "/x/**", unsafe_public: true', "a public entry names one exact path, without `{x}`, `*` or `**`"),
        ("host: h, methods: [GET], path: /x, unsafe_public: true, action: use", "`action` has no meaning beside `unsafe_public`"),
        ("host: h, methods: [GET], path: /x, unsafe_public: true, upgrade: [websocket]", "`upgrade` has no meaning beside `unsafe_public`"),
        ("host: h, methods: [GET], path: /x, unsafe_public: true, protocol: open-inference", "`protocol` has no meaning beside `unsafe_public`"),
        ('host: h, path: "/ml/{x}/**", protocol: open-inference', "beside `protocol` a path is where the protocol is mounted: `/plain/text/**`"),
        ('host: h, path: "/**", protocol: open-inference', "beside `protocol` a path is where the protocol is mounted: `/plain/text/**`"),
        ('host: h, path: "/ml", protocol: open-inference', "beside `protocol` a path is where the protocol is mounted: `/plain/text/**`"),
        ('host: h, path: "/v2/**", protocol: open-inference', "this mounts `open-inference` below `/v2`, whose own paths begin with `/v2`: leave `path` out"),
        ("host: h, protocol: [open-inference]", "`protocol` is a non-empty text"),
        ('host: "*.*", protocol: open-inference', "`*.*` holds more than one `*`"),
        ("host: [h], protocol: open-inference", "`host` is a text"),
    ],
)  # fmt: skip
def test_a_route_that_cannot_be_meant_is_refused(text, message):
    assert message in route(text)


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    assert route("host: h, protocol: kubernets") == ["unknown protocol `kubernets`, did you mean `kubernetes`?"]
    [message] = route("host: h, protocol: xyz")
    assert message.startswith("unknown protocol `xyz` (known: anthropic, bedrock, ")
    assert "open-inference, " in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("protocol: s3", "needs one exact `host`"),
        ('host: "*.s3.internal", protocol: s3', "needs one exact `host`"),
        ("protocol: s3-virtual-host", "reads the bucket from the host"),
        ("host: s3.internal, protocol: s3-virtual-host", "reads the bucket from the host"),
        ('host: "s3.*", protocol: s3-virtual-host', "reads the bucket from the host"),
        ('host: "x.*.internal", protocol: s3-virtual-host', "reads the bucket from the host"),
    ],
)
def test_a_protocol_that_reads_the_host_says_which_host_it_needs(text, message):
    [found] = route(text)
    assert message in found


def test_two_routes_of_one_name_are_refused_also_across_files():
    def node(file):
        return load(f"routes: [{{name: a, {GOOD}}}]", file)

    with pytest.raises(DocumentError) as caught:
        load_resources([(node("one.yaml"), "one.yaml"), (node("two.yaml"), "two.yaml")])
    assert str(caught.value) == "two.yaml:1:10: a route named `a` stands at one.yaml:1:10 already"


def test_a_resource_that_is_twice_in_the_catalog_is_refused():
    assert mistakes("catalog:\n  - {type: model, id: a, x: y}\n  - {type: model, id: a}\n") == [
        (3, 5, "`model/a` is in the catalog already, at routes.yaml:2:5")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{id: a}", "`type` is missing"),
        ("{type: '', id: a}", "`type` is a non-empty text"),
        ("{type: 'm*', id: a}", "a catalog entry is of one type: `type` holds no `*`"),
        ("{type: m, id: a, version: 3}", "`version` comes from the request, not from here"),
        ("{type: m, id: a, tags: {b: c}}", "`tags` needs one value, a non-empty text"),
        ("a", "a catalog entry is a mapping: `{type: …, id: …, ATTRIBUTE: VALUE}`"),
    ],
)
def test_a_catalog_entry_that_cannot_be_meant_is_refused(text, message):
    assert [found for _, _, found in mistakes(f"catalog: [{text}]")] == [message]


def test_inline_resources_come_first_and_may_name_files():
    inline = load(
        '{files: ["x"], routes: [{name: a, host: h, path: /p, methods: [GET], unsafe_public: true}]}', "c.yaml"
    )
    other = load("routes: [{name: b, host: h, protocol: open-inference}]", "r.yaml")
    routes = load_resources([(other, "r.yaml")], inline=inline)
    assert [entry.name for entry in routes.entries] == ["a", "b"]


def test_files_belongs_to_the_configuration_only_and_an_empty_file_is_a_mistake():
    with pytest.raises(DocumentError, match="unknown key `files`"):
        load_resources([(load("files: []", "r.yaml"), "r.yaml")])
    with pytest.raises(DocumentError, match=r"r\.yaml:1:1: the file is empty"):
        load_resources([(None, "r.yaml")])
    with pytest.raises(DocumentError, match="resources are a mapping"):
        load_resources([(load("[]", "r.yaml"), "r.yaml")])
    with pytest.raises(DocumentError, match="`routes` is a list"):
        load_resources([(load("routes: {a: b}", "r.yaml"), "r.yaml")])


def test_values_are_the_text_as_written():
    routes = table("routes: [{host: h, protocol: open-inference, attributes: {a: no, b: 0123, c: 17:00, d: true}}]")
    assert routes.entries[0].attributes == {"a": "no", "b": "0123", "c": "17:00", "d": "true"}


def test_an_entry_without_a_name_is_called_by_its_host_and_path():
    routes = table(f'routes: [{{{GOOD}}}, {{protocol: open-inference, path: "/ml/**"}}]')
    assert [entry.name for entry in routes.entries] == ["h/{id}", "*/ml"]
