"""pydantic's errors to one-line mistakes at their place in the file, in the words of the house.

Law: every error becomes exactly one diagnostic; a value that was put in from
the environment or a file is never repeated, its source text is.
Non-goal: deciding what is wrong (the settings models do).
"""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ext_authz.documents import (
    Diagnostic,
    MappingNode,
    Mark,
    Node,
    Path,
    Scalar,
    Sequence,
    did_you_mean,
    mark_at,
    nearest,
)
from ext_authz.settings import NOT_AVAILABLE, shown

_WANTED: Final = {
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
}
_BOUNDS: Final = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
_SHORT: Final = 40
_QUOTED = re.compile(r"`([a-z0-9_]+(?:: [^`]*)?)`")


def diagnostics(
    error: ValidationError,
    model: type[BaseModel],
    node: Node,
    whole: Node,
    sources: Mapping[Mark, str],
    *,
    follows: bool = False,
) -> list[Diagnostic]:
    """Place each error of validating `node`, which is `whole` less what was wrong before.

    `sources` as in Substitution.places; `follows`: other mistakes were reported before.
    What only follows from another mistake is left out.
    """
    details = error.errors(include_url=False)
    lengths = dict(_lengths(whole))
    meant = {_meant(each, model, error_path(node, each)) for each in details if each["type"] == "extra_forbidden"}
    found: list[Diagnostic] = []
    for each in details:
        path = error_path(node, each)
        mark = mark_at(node, path, key=each["type"] == "extra_forbidden")
        message = _message(each, model, path) + _unit(each, _at(node, path))
        if each["type"] in ("setting", "value_error"):
            mark = _named(_at(node, path), message) or mark
        if each["type"] == "too_short" and mark is not None and lengths.get(mark, 0) >= each["ctx"]["min_length"]:
            continue  # its items are the mistakes
        if each["type"] == "missing" and (path, each["loc"][-1]) in meant:
            continue  # a misspelt key is reported as such
        # A validator of a whole entry may quote any scalar within it.
        for value, source in _substituted(_at(node, path), sources):
            message = _hide(message, value, source)
        found.append(Diagnostic(mark, message))
    # Never silent: where everything seems to follow from something else, and nothing else is wrong, validation's word
    # stands.
    return found or ([] if follows else [Diagnostic(node.mark, _lower(each["msg"])) for each in details])


def _at(node: Node, path: Path) -> Node:
    for step in path:
        child = _child(node, step)
        node = node if child is None else child
    return node


def _named(node: Node, message: str) -> Mark | None:
    """Return where the first key that the message names is written, when a validator of the whole mapping spoke."""
    if isinstance(node, MappingNode):
        for name in _QUOTED.findall(message):
            if node.get(name.partition(":")[0]) is not None:
                return node.key_mark(name.partition(":")[0])
    return None


def _substituted(node: Node, sources: Mapping[Mark, str]) -> Iterator[tuple[str, str]]:
    """Yield (value, source text) of every scalar at or below `node` that a variable was put into."""
    if isinstance(node, Scalar):
        if node.mark in sources:
            yield node.text, sources[node.mark]
        return
    for child in node.items if isinstance(node, Sequence) else (value for _, value in node):
        yield from _substituted(child, sources)


def _lengths(node: Node) -> Iterator[tuple[Mark, int]]:
    if isinstance(node, Sequence):
        yield node.mark, len(node)
        for item in node:
            yield from _lengths(item)
    elif isinstance(node, MappingNode):
        for _, value in node:
            yield from _lengths(value)


def _meant(error: ErrorDetails, model: type[BaseModel], path: Path) -> tuple[Path, str]:
    """Return the container and the key that an unknown key is probably meant to be."""
    return path[:-1], nearest(str(error["loc"][-1]), _known_keys(model, path[:-1])) or ""


def prune(node: Node, paths: Iterable[Path]) -> Node | None:
    """Return the tree without the nodes at `paths`: what is left can be looked at for further mistakes.

    A path that does not exist takes the deepest node that does.
    """
    wanted = {_existing(node, path) for path in paths}
    return _without(node, (), wanted)


def _existing(node: Node, path: Path) -> Path:
    for depth, step in enumerate(path):
        child = _child(node, step)
        if child is None:
            return path[:depth]
        node = child
    return path


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node, MappingNode):
        return node.get(str(step))
    if isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None


def _without(node: Node, path: Path, gone: set[Path]) -> Node | None:
    if path in gone:
        return None
    if isinstance(node, MappingNode):
        kept = ((key, _without(value, (*path, key.text), gone)) for key, value in node.entries)
        return MappingNode(tuple((key, value) for key, value in kept if value is not None), node.mark)
    if isinstance(node, Sequence):
        items = (_without(item, (*path, index), gone) for index, item in enumerate(node.items))
        return Sequence(tuple(item for item in items if item is not None), node.mark)
    return node


def error_path(node: Node, error: ErrorDetails) -> Path:
    """Return the part of the error's location that exists in the file (union tags and the like left out)."""
    path: list[str | int] = []
    for step in error["loc"]:
        child = _child(node, step)
        if child is None:
            continue
        path.append(step)
        node = child
    return tuple(path)


def _message(error: ErrorDetails, model: type[BaseModel], path: Path) -> str:
    kind, value = error["type"], error["input"]
    name = next((step for step in reversed(error["loc"]) if isinstance(step, str)), "")
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key `{name}`{did_you_mean(name, _known_keys(model, path[:-1]))}"
    if kind == "missing":
        return f"`{name}` is required"
    if kind == "setting":
        text = str(context["message"])
        return _unavailable(name, value) if text == NOT_AVAILABLE else _about(name, text)
    if kind == "value_error":
        return _about(name, str(context["error"]))
    if kind in ("literal_error", "enum"):
        choices = str(context["expected"]).replace("'", "`")
        return f"{shown(value)} is not one of {choices}"
    if kind in _WANTED:
        return _wrong_shape(value, _WANTED[kind])
    if kind == "too_short":
        return f"`{name}` is an empty list" if not value else f"at least {context['min_length']} are wanted"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"`{name}` is {words} {_plain(context[bound])}"
    if kind == "too_long":
        return f"at most {context['max_length']} are allowed"
    return _lower(error["msg"])


def _unit(error: ErrorDetails, node: Node) -> str:
    """Return the unit of a bound on what is written as a duration."""
    return "s" if error["type"] in _BOUNDS and isinstance(node, Scalar) and node.text[-1:].isalpha() else ""


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _about(name: str, message: str) -> str:
    """Say what the message is about where it does not itself."""
    return f"`{name}` {message}" if name and message.startswith(("is ", "holds ", "has ")) else message


def _unavailable(name: str, value: object) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        name, value = "type", value["type"]
    what = f"{name}: {value}" if isinstance(value, str) and len(value) <= _SHORT else name
    return f"`{what}` is {NOT_AVAILABLE}"


def _wrong_shape(value: object, wanted: str) -> str:
    if value is None:
        return f"has no value; {wanted} is wanted"
    if isinstance(value, str):
        return f"{shown(value)} is text; {wanted} is wanted"
    return f"a {'list' if isinstance(value, list) else 'mapping'} stands where {wanted} is wanted"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _hide(message: str, value: str, source: str) -> str:
    if not value:
        return message
    quoted = shown(value)
    if message.endswith(NOT_AVAILABLE):
        return message.replace(value, source)
    if quoted in message:
        return message.replace(quoted, f"`{source}`")
    return message if value not in message else f"the value of `{source}` is not what this place wants"


def _known_keys(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    found: object = model
    for step in location:
        found = _step(found, step)
        if found is None:
            return []
    return [key for each in _models(found) for key in _keys(each)]


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if hasattr(annotation, "__metadata__") or get_origin(annotation) in (Union, types.UnionType):
        arguments = get_args(annotation)
        return [model for each in arguments for model in _models(each)]
    return []


def _step(annotation: object, step: str | int) -> object:
    """Return the annotation of `step` beneath `annotation`, or None."""
    for model in _models(annotation):
        for name, field in model.model_fields.items():
            if step in (name, field.alias):
                return field.annotation
    if hasattr(annotation, "__metadata__"):
        return _step(get_args(annotation)[0], step)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return next((found for each in get_args(annotation) if (found := _step(each, step)) is not None), None)
    if origin in (list, tuple, set, frozenset, dict):
        return get_args(annotation)[-1 if origin is dict else 0]
    return None
