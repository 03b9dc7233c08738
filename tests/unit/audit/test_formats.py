"""Every event in every format: one line, valid for its readers, and no text of a caller becomes a field of ours."""

import os
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from audit_events import EVENTS, HOSTILE, LOG, TIME, item, poisoned
from hypothesis import given
from hypothesis import strategies as st
from ocsf_rules import Schema, missing

from ext_authz.audit.formats import ENCODERS, TEXT, opa
from ext_authz.audit.sinks import Item

ALL = {**ENCODERS, "opa": opa.encode}
JSON = sorted(ALL.keys() - TEXT)
LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\n]")


def written(format_: str, event: Any) -> Any:
    return orjson.loads(ALL[format_](item(event)))


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """An independent reader: seven header fields split at bare pipes, then keys before bare equals signs."""
    header: list[str] = []
    rest = line
    for _ in range(7):
        found = re.match(r"((?:[^|\\]|\\.)*)\|", rest, re.DOTALL)
        assert found, rest
        header.append(re.sub(r"\\(.)", r"\1", found[1]))
        rest = rest[found.end() :]
    keys = list(re.finditer(r"(?:^| )([A-Za-z0-9_]+)=", rest))
    bare = [each for each in keys if (len(rest[: each.end() - 1]) - len(rest[: each.end() - 1].rstrip("\\"))) % 2 == 0]
    values = {}
    for each, following in zip(bare, [*bare[1:], None], strict=True):
        value = rest[each.end() : following.start() if following else len(rest)]
        values[each[1]] = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), value)
    return header, values


def read_leef(line: str) -> tuple[list[str], dict[str, str]]:
    *header, attributes = line.split("|", 6)
    return header, dict(each.split("=", 1) for each in attributes.split("\t"))


@pytest.mark.parametrize("format_", sorted(ALL))
@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_one_line(format_: str, name: str) -> None:
    for event in (EVENTS[name], poisoned(EVENTS[name])):
        line = ALL[format_](item(event))
        assert b"\n" not in line
        assert b"\r" not in line
        assert LOG.encode() in line
        if format_ in TEXT:
            assert not LINES.search(line.decode())
        else:
            assert isinstance(orjson.loads(line), dict)


@pytest.mark.parametrize("name", EVENTS)
def test_no_text_makes_or_changes_a_field_of_cef_or_leef(name: str) -> None:
    for format_, read in (("cef", read_cef), ("leef", read_leef)):
        header, values = read(ALL[format_](item(EVENTS[name])).decode())
        bad_header, bad = read(ALL[format_](item(poisoned(EVENTS[name]))).decode())
        assert bad.keys() == values.keys()
        assert len(header) == len(bad_header) == (7 if format_ == "cef" else 6)
        assert bad_header[:4] == header[:4]
        for key in {"externalId", "eventUid", "rt", "cat", "devTime"} & values.keys():
            assert bad[key] == values[key]
        if "decision" in EVENTS[name]:
            key = "act" if format_ == "cef" else "decision"
            assert bad[key] == values[key] == EVENTS[name]["decision"]


def test_cef_keeps_what_it_escapes() -> None:
    event = EVENTS["allow"] | {"policy_id": "a|b=c\\d\ne"}
    _, values = read_cef(ENCODERS["cef"](item(event)).decode())
    assert values["cs1"] == "a|b=c\\d\ne"
    assert (values["act"], values["suid"], values["src"], values["rt"]) == (
        "allow",
        "sub:alice",
        "10.1.2.3",
        "1795428000123",
    )


def test_an_event_that_stands_for_many_says_how_many() -> None:
    for name, many in (("many", 40), ("gap", 12), ("deny", None)):
        found = (
            written("ocsf", EVENTS[name]).get("count"),
            written("ecs", EVENTS[name])["ext_authz"].get("count"),
            read_cef(ENCODERS["cef"](item(EVENTS[name])).decode())[1].get("cnt"),
            read_leef(ENCODERS["leef"](item(EVENTS[name])).decode())[1].get("count"),
        )
        assert found == (many, many, many and str(many), many and str(many))


def test_leef_separates_by_tabs_and_names_the_event_by_its_reason() -> None:
    header, values = read_leef(ENCODERS["leef"](item(EVENTS["unauthenticated"])).decode())
    assert header == ["LEEF:2.0", "ext-authz", "ext-authz", header[3], "invalid_token", "x09"]
    assert (values["decision"], values["sev"], values["devTime"]) == ("deny", "4", "2026-11-23T10:00:00.123")
    assert "usrName" not in values


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12) | st.sampled_from([HOSTILE, TIME]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({name for event in EVENTS.values() for name in event})


@given(
    st.sampled_from(sorted(ALL)),
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=8),
    st.sampled_from([*(event["schema"] for event in EVENTS.values()), "", "x", "ext_authz.new/2"]),
)
def test_any_object_gives_one_line_in_any_format(format_: str, fields: dict[str, Any], schema: str) -> None:
    line = ALL[format_](item({**fields, "schema": schema}))
    assert not re.search(rb"[\r\n]", line)
    if format_ in TEXT:
        assert not LINES.search(line.decode())
    else:
        orjson.loads(line)


def test_a_line_that_is_no_event_is_sent_as_what_it_is() -> None:
    for line in (b"{not json}", b"[1]", b"\xff{", b"{}"):
        for format_ in (*JSON, *TEXT):
            if format_ != "native":
                made = ALL[format_](Item(line))
                assert b"\n" not in made
                if format_ in JSON:
                    orjson.loads(made)


def test_a_denial_is_a_success_in_ecs_and_a_failure_in_ocsf() -> None:
    ecs, ocsf = written("ecs", EVENTS["deny"]), written("ocsf", EVENTS["deny"])
    assert (ecs["event"]["outcome"], ecs["event"]["type"]) == ("success", ["access", "denied"])
    assert (ocsf["status_id"], ocsf["action_id"], ocsf["disposition_id"]) == (2, 2, 2)
    assert written("ecs", EVENTS["error"])["event"]["outcome"] == "failure"


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("allow", (6003, 2, 1, 1, 1)),
        ("deny", (6003, 2, 2, 2, 2)),
        ("unauthenticated", (6003, 0, 2, 26, 2)),
        ("shadow", (6003, 2, 3, 17, 1)),
        ("error", (6003, 2, 2, 27, 3)),
        ("start", (6002, 3, None, None, 1)),
        ("reload", (6002, 8, None, None, 3)),
        ("state", (3004, 1, None, None, 1)),
        ("checkpoint", (0, 99, None, None, 1)),
        ("gap", (0, 99, None, None, 4)),
        ("alert", (2004, 1, 3, 19, 4)),
    ],
)
def test_ocsf_says_what_happened(name: str, ids: tuple[int | None, ...]) -> None:
    """`ids`: class, activity, action, disposition, severity."""
    event = written("ocsf", EVENTS[name])
    keys = ("class_uid", "activity_id", "action_id", "disposition_id", "severity_id")
    assert tuple(event.get(key) for key in keys) == ids
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["time"] == 1795428000123
    assert event["metadata"]["uid"] == EVENTS[name]["event_id"]
    assert event["raw_data"].encode() == item(EVENTS[name]).line


@pytest.mark.parametrize("name", EVENTS)
def test_ocsf_has_what_its_classes_require(name: str) -> None:
    assert missing(written("ocsf", EVENTS[name])) == []
    assert missing(written("ocsf", poisoned(EVENTS[name]))) == []


def test_what_is_required_is_looked_for() -> None:
    event = written("ocsf", EVENTS["allow"])
    del event["api"]["operation"]
    event["src_endpoint"] = {"port": 1}
    event["severity_id"] = "1"
    assert missing(event) == ["severity_id", "api.operation", "src_endpoint"]


@pytest.mark.skipif(
    "EXT_AUTHZ_OCSF_SCHEMA" not in os.environ, reason="EXT_AUTHZ_OCSF_SCHEMA names no checkout of ocsf-schema"
)
@pytest.mark.parametrize("name", EVENTS)
def test_ocsf_holds_against_the_schema_itself(name: str) -> None:
    schema = Schema(Path(os.environ["EXT_AUTHZ_OCSF_SCHEMA"]))
    assert schema.mistakes(written("ocsf", EVENTS[name])) == []
    assert schema.mistakes(written("ocsf", {"schema": EVENTS[name]["schema"], "event_id": "x:1"})) == []


# ECS 8.17, "ECS Categorization Fields": what event.kind and event.type may be, and the types expected of a category.
ECS_TYPES = {
    "api": {"access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"},
    "process": {"access", "change", "end", "info", "start"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
    "iam": {"admin", "change", "creation", "deletion", "group", "info", "user"},
    "intrusion_detection": {"allowed", "denied", "info"},
}


@pytest.mark.parametrize("name", EVENTS)
def test_ecs_uses_only_values_that_ecs_allows(name: str) -> None:
    event = written("ecs", EVENTS[name])["event"]
    assert event["kind"] == ("alert" if name == "alert" else "event")
    assert event.get("outcome") in (None, "success", "failure")
    for category in event.get("category", []):
        assert set(event["type"]) <= ECS_TYPES[category]
    assert event["original"].encode() == item(EVENTS[name]).line


def test_ecs_makes_no_field_of_a_name_that_a_caller_chose() -> None:
    event = EVENTS["allow"] | {"context": {**EVENTS["allow"]["context"], "attributes": {"chosen": 1}}}
    event["subject"] = {**event["subject"], "claims": {"chosen": {"deep": 1}}}

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(names, value.values()))
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    assert "chosen" not in names(written("ecs", event))
    assert "chosen" not in names(written("ocsf", event))


@pytest.mark.parametrize("name", EVENTS)
def test_a_cloudevent_holds_the_native_event_byte_for_byte(name: str) -> None:
    line = ENCODERS["cloudevents"](item(EVENTS[name]))
    assert line.endswith(b',"data":' + item(EVENTS[name]).line + b"}")
    event = orjson.loads(line)
    assert event["specversion"] == "1.0"
    assert (event["id"], event["source"]) == (EVENTS[name]["event_id"], f"urn:ext-authz:log:{LOG}")
    assert all(re.fullmatch("[a-z0-9]+", key) for key in event)
    assert event["type"] == f"ext_authz.{EVENTS[name]['schema'].split('.')[1][:-2]}.v1"


def test_opa_collectors_get_decisions_as_opa_writes_them() -> None:
    event = written("opa", EVENTS["deny"])
    assert (event["decision_id"], event["path"], event["timestamp"]) == ("61dcd5ac", "envoy/authz/allow", TIME)
    assert event["result"]["allowed"] is False
    assert event["bundles"] == {"policies": {"revision": "r1"}}
    assert event["input"]["attributes"]["request"]["http"]["path"] == "/v2/models/fraud/infer"
    assert written("opa", EVENTS["gap"])["result"]["count"] == 12
