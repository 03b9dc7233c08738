"""Reading Envoy's YAML as Envoy does: both spellings of a key, every spelling of true, wrapped values.

Law: what Envoy would take for set, these functions take for set.
Non-goal: knowing any rule.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from ext_authz.documents import MappingNode, Mark, Node, Scalar, Sequence

_TRUE: Final = frozenset({"true", "yes", "on", "y"})
_FALSE: Final = frozenset({"false", "no", "off", "n"})
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s\Z")
_STRUCTS: Final = ("udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct")


def camel(name: str) -> str:
    """Return the other spelling that protobuf's JSON mapping takes for a field."""
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def get(node: Node | None, *path: str) -> Node | None:
    """Return the node at `path` of field names, in either spelling; None where a step is missing or null."""
    for name in path:
        if not isinstance(node, MappingNode):
            return None
        found = node.get(name)
        node = node.get(camel(name)) if found is None else found
    return None if isinstance(node, Scalar) and node.is_null else node


def first(*nodes: Node | None) -> Node | None:
    """Return the first node that is there (an empty mapping is there, though it is false)."""
    return next((node for node in nodes if node is not None), None)


def items(node: Node | None) -> tuple[Node, ...]:
    """Return the items of a list; nothing for anything else."""
    return node.items if isinstance(node, Sequence) else ()


def text(node: Node | None) -> str:
    """Return a scalar's text; "" for anything else."""
    node = _unwrapped(node)
    return node.text if isinstance(node, Scalar) else ""


def truth(node: Node | None) -> bool | None:
    """Return a flag as Envoy's YAML reader sees it; None when it is unset or no flag."""
    word = text(node).lower()
    return True if word in _TRUE else False if word in _FALSE else None


def number(node: Node | None) -> int | None:
    """Return a whole number, or None."""
    word = text(node)
    try:
        return int(word, 0)
    except ValueError:
        return None


def seconds(node: Node | None) -> float | None:
    """Return a duration in seconds, or None."""
    found = _DURATION.match(text(node))
    return float(found[1]) if found else None


def _unwrapped(node: Node | None) -> Node | None:
    """Read `{value: true}` as `true` (protobuf's wrapper messages)."""
    if isinstance(node, MappingNode) and len(node) == 1:
        inner = node.get("value")
        return inner if isinstance(inner, Scalar) else node
    return node


def mark(node: Node | None, *path: str) -> Mark:
    """Return where the last existing field of `path` is written, its key where it has one."""
    found = node.mark if node is not None else Mark("", 1, 1)
    for name in path:
        if not isinstance(node, MappingNode):
            break
        key = name if node.get(name) is not None else camel(name)
        following = node.get(key)
        if following is None:
            break
        found, node = node.key_mark(key), following
    return found


def kind(node: Node | None) -> str:
    """Return the message name of a typed_config (`….v3.ExtAuthz`), looking into a TypedStruct."""
    url = text(get(node, "@type"))
    if url.endswith(_STRUCTS):
        url = text(get(node, "type_url"))
    return url.rpartition("/")[2]


def config(node: Node | None) -> Node | None:
    """Return the `typed_config` of an extension, looking into a TypedStruct."""
    made = get(node, "typed_config")
    return get(made, "value") if text(get(made, "@type")).endswith(_STRUCTS) else made


def extension(node: Node | None) -> str:
    """Return the message name of an extension's `typed_config`."""
    return kind(get(node, "typed_config"))


def walk(node: Node | None) -> Iterator[MappingNode]:
    """Yield every mapping beneath `node`, itself included."""
    if isinstance(node, MappingNode):
        yield node
        for _, value in node:
            yield from walk(value)
    for item in items(node):
        yield from walk(item)


def loopback(host: str) -> bool:
    """Whether only this machine answers at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
