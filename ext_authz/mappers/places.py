"""Where protocols put the model: in the path, in a JSON key, in a message field, nowhere, everywhere.

Law: a reader returns the one model the server will act on, or a refusal.
Non-goal: what is particular to one protocol.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ext_authz.mappers.adapter import EVERY, Call, Meaning, Named, Place, Reads
from ext_authz.mappers.body import FRAME_HEADER, case_variant, grpc_message, json_body, refuse
from ext_authz.mappers.wire import BYTES, MAX_NAME_BYTES, WireError, scan, text
from ext_authz.model import AttributeValue, Reason, Refusal, RequestFacts

Attributes = Mapping[str, AttributeValue]

MAX_PARSED: Final = 64 * 1024
"""Bodies that only limits are read from are not parsed beyond this."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Triton reads "01" and "+1" as 1: a number has one spelling here.
_NUMBER = re.compile(r"[\s+-]*[0-9]+\s*\Z")
_CANONICAL_NUMBER = re.compile(r"(?:0|[1-9][0-9]*)\Z")


def server_meaning(call: Call) -> Meaning:
    """Return the row's action on the server; its id is the route's name."""
    return Meaning((Named("server", call.route, "", call.row.action),))


def every_meaning(call: Call) -> Meaning:
    """Return the row's actions on any resource of its type."""
    return Meaning(tuple([Named(call.row.type, EVERY, "", action) for action in actions_of(call)]))


def path_meaning(call: Call) -> Meaning:
    """Return the row's action on the resource that `{model}` or else the first slot names, in version `{version}`."""
    captured = call.captured
    name = captured.get("model") or next(iter(captured.values()))
    return Meaning((Named(call.row.type, name, captured.get("version", ""), call.row.action),))


def route_meaning(call: Call) -> Meaning:
    """Return the row's actions on the resource that has the route's name."""
    return Meaning(tuple(Named(call.row.type, call.route, "", action) for action in actions_of(call)))


def actions_of(call: Call) -> tuple[str, ...]:
    """Return the row's action and the further ones on the same type."""
    row = call.row
    return (row.action, *(action for kind, action in row.also if kind == row.type))


def told_meaning(call: Call, name: str, version: str) -> Meaning | Refusal:
    """Return the row's actions on the one model that Envoy tells in the body's stead."""
    problem = name_problem(name) or version_problem(version)
    if problem:
        return Refusal(Reason.AMBIGUOUS_BODY, f"Envoy's metadata {problem}")
    return Meaning(tuple([Named(call.row.type, name, version, action) for action in actions_of(call)]))


def path_of(template: str) -> Place:
    """Return the place "path", its name made of several slots with a `/` between them, as `{x}/{y}`."""

    def read(call: Call) -> Meaning:
        return Meaning((Named(call.row.type, template.format_map(call.captured), "", call.row.action),))

    return Place(f"path, `{template}`", read)


ROUTE = Place("the route's name", route_meaning)
SERVER = Place("the server", server_meaning)
PATH = Place("path", path_meaning)
EVERYTHING = Place("any (`*`)", every_meaning)


def name_problem(name: str) -> str | None:
    """Say why `name` cannot be a resource's name, or None."""
    if not name:
        return "names no resource"
    if len(name.encode()) > MAX_NAME_BYTES:
        return "names a resource at undue length"
    if _CONTROL.search(name) or name != name.strip():
        return "names a resource with control characters or outer spaces"
    return None


def version_problem(version: str) -> str | None:
    """Say why `version` has several readings, or None."""
    if "/" in version or _CONTROL.search(version):
        return "the version is not a name"
    if _NUMBER.match(version) and not _CANONICAL_NUMBER.match(version):
        return "the version is a number in an unusual spelling"
    return None


def visible_json(call: Call, max_parsed: int = MAX_PARSED) -> dict[str, Any] | None:
    """Return the JSON body where we were shown it whole, strict and small; None otherwise, which refuses nothing."""
    if not 0 < len(call.facts.body.data) <= max_parsed:
        return None
    content = json_body(call.facts, call.max_request_bytes, typed=False)
    return None if isinstance(content, Refusal) else content


def message_fields(call: Call, name: int, version: int | None = None) -> tuple[str, str] | Refusal:
    """Return (name, version) read from fields of the call's message ("" where absent)."""
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    wanted = {name: BYTES} if version is None else {name: BYTES, version: BYTES}
    try:
        fields = scan(data, FRAME_HEADER, len(data), wanted)
        found = text(data, fields, name), "" if version is None else text(data, fields, version)
    except WireError as error:
        return refuse(f"holds {error}")
    problem = (name_problem(found[0]) if found[0] else None) or version_problem(found[1])
    return refuse(problem) if problem else found


def message(name: int, version: int | None = None, *, empty: str | None = None) -> Place:
    """Return the place "field `name` of the message" (and `version`).

    `empty` is the action on the server when the name is absent; without it
    such a call is refused.
    """

    def read(call: Call) -> Meaning | Refusal:
        found = message_fields(call, name, version)
        if isinstance(found, Refusal):
            return found
        if found[0]:
            return Meaning((Named(call.row.type, found[0], found[1], call.row.action),))
        if empty is None or found[1]:
            return refuse("names no resource")
        return Meaning((Named("server", call.route, "", empty),))

    where = f"message field {name}" + (f" (empty: the server, `{empty}`)" if empty else "")
    return Place(where, read, Reads.MEANING, told_meaning)


def body_with(call: Call, wanted: frozenset[str], *, typed: bool = True) -> dict[str, Any] | Refusal:
    """Return the JSON body; refuse one with a key that reads as one of `wanted` (lower case) in other letters.

    `typed` False is for servers that read JSON whatever the content type says.
    """
    content = json_body(call.facts, call.max_request_bytes, typed=typed)
    if isinstance(content, Refusal):
        return content
    variant = case_variant(content, wanted)
    return refuse(f"names `{variant[:64]}` in other letters") if variant else content


def json_key(
    key: str = "model",
    *,
    limits: Callable[[Mapping[str, Any]], Attributes] | None = None,
    wanted: frozenset[str] = frozenset(),
) -> Place:
    """Return the place "`key` of the JSON body"; `limits` finds attributes in the same body, in the keys `wanted`."""
    keys = wanted | {key}

    def read(call: Call) -> Meaning | Refusal:
        content = body_with(call, keys)
        if isinstance(content, Refusal):
            return content
        name = name_in(content, key)
        if isinstance(name, Refusal):
            return name
        named = tuple([Named(call.row.type, name, "", action) for action in actions_of(call)])
        return Meaning(named, limits(content) if limits else {})

    return Place(f"body `{key}`", read, Reads.MEANING, told_meaning)


def header_name(facts: RequestFacts, header: str) -> str | Refusal:
    """Return the name in a header, "" where it is absent; refuse one that came twice or is no name."""
    values = facts.headers.get(header)
    if values is None:
        return ""
    if len(values) != 1 or name_problem(values[0]) or not values[0].isascii():
        return Refusal(Reason.AMBIGUOUS_BODY, f"the header {header} names nothing, or two")
    return values[0]


def name_in(content: Mapping[str, Any], key: str) -> str | Refusal:
    """Return the name under `key` of a JSON object; refuse a missing, empty or odd one."""
    name = content.get(key)
    if not isinstance(name, str):
        return refuse(f"has no text `{key}`")
    problem = name_problem(name)
    return refuse(problem) if problem else name


def whole_number(value: object) -> int | None:
    """Return a limit that every parser reads alike: a positive JSON integer. Strings, floats, 0 and -1 are unknown."""
    return value if type(value) is int and value > 0 else None
