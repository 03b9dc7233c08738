"""The model as Envoy itself names it: filter metadata, route metadata or context extensions, instead of the body.

Law: where path or body show a model too they must name the same one; what a filter tells replaces a body only where
the body names exactly one model, and never the `*` of a stream. Non-goal: how the filter found it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ext_authz.documents import Diagnostic, MappingNode, Node, Scalar
from ext_authz.mappers.adapter import EVERY, Call, Meaning, Reads
from ext_authz.mappers.body import certainly_empty
from ext_authz.mappers.catalog import ATTRIBUTE
from ext_authz.model import AttributeValue, Reason, Refusal, RequestFacts, Source, SourceKind

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,256}\Z")
_WHOLE = re.compile(r"(?:0|[1-9][0-9]{0,15})\Z")
_HINT: Final = "`metadata:NAMESPACE/KEY`, `route_metadata:NAMESPACE/KEY` or `extension:KEY`"
_KINDS: Final = frozenset(kind.value for kind in SourceKind)
# An entry's own selection is no model.
_RESERVED: Final = "ext_authz_route"


@dataclass(frozen=True, slots=True)
class NamedBy:
    """Where Envoy tells the model's id and version, and attributes."""

    id: Source
    version: Source | None
    attributes: Mapping[str, Source]

    @property
    def sources(self) -> frozenset[Source]:
        """All that is read of a request's metadata and extensions."""
        return frozenset((self.id, *self.attributes.values())) | ({self.version} if self.version else set())

    def meaning(self, call: Call) -> Meaning | Refusal:
        """Return what a call means: told where its body was not shown, agreeing where it was."""
        name = _text(call.facts, self.id)
        version = "" if self.version is None else _text(call.facts, self.version)
        if name is None or version is None:
            return _refuse("tells an id or a version that is no text")
        place = call.row.place
        if name and place.told is not None and _hidden(call):
            meaning = place.told(call, name, version)
        else:
            meaning = place.read(call)
            if not isinstance(meaning, Refusal) and name:
                meaning = _agreed(call, meaning, name, version)
        return meaning if isinstance(meaning, Refusal) else self._with_attributes(call.facts, meaning)

    def _with_attributes(self, facts: RequestFacts, meaning: Meaning) -> Meaning | Refusal:
        told: dict[str, AttributeValue] = {}
        for attribute, source in self.attributes.items():
            value = _value(facts, source)
            if value is None:
                return _refuse(f"tells `{attribute}` as no text, number or boolean")
            if value == "":
                continue
            if meaning.attributes.get(attribute, value) != value:
                return _refuse(f"tells another `{attribute}` than the body")
            told[attribute] = value
        return meaning._replace(attributes={**meaning.attributes, **told}) if told else meaning


def _hidden(call: Call) -> bool:
    """Whether the answer needs a body that there may be and that we were not shown any of."""
    body = call.facts.body
    shown = body.data or body.size > 0 or body.partial not in ("", "false")
    return call.row.place.reads is Reads.MEANING and not shown and not certainly_empty(call.facts)


def _agreed(call: Call, meaning: Meaning, name: str, version: str) -> Meaning | Refusal:
    """Refuse a call that shows another model than Envoy tells; one that may name any keeps needing all."""
    told = call.row.place.told
    spelled = None if told is None else told(call, name, version)
    if isinstance(spelled, Refusal):
        return spelled
    wanted = name if spelled is None else spelled.named[0].id
    for named in meaning.named:
        if named.type == call.row.type and named.type != "server" and named.id not in (wanted, EVERY):
            return _refuse("tells another model than the call")
        if version and named.type == call.row.type and named.version not in ("", version):
            return _refuse("tells another version than the call")
    return meaning


def _refuse(why: str) -> Refusal:
    return Refusal(Reason.AMBIGUOUS_BODY, f"Envoy's metadata {why}")


def _value(facts: RequestFacts, source: Source) -> AttributeValue | None:
    """Return what a source holds ("" where it is absent), whole numbers as such; None where it cannot be used."""
    if source.kind is SourceKind.EXTENSION:
        value: AttributeValue | None = facts.context_extensions.get(source.key, "")
    else:
        value = facts.told.get(source, "")
    return int(value) if isinstance(value, str) and _WHOLE.match(value) else value


def _text(facts: RequestFacts, source: Source) -> str | None:
    if source.kind is SourceKind.EXTENSION:
        return facts.context_extensions.get(source.key, "")
    value = facts.told.get(source, "")
    return value if isinstance(value, str) else None


def read_named_by(node: Node, mistakes: list[Diagnostic]) -> NamedBy | None:
    """Read the mapping under `named_by:`; every mistake is appended to `mistakes`."""
    if not isinstance(node, MappingNode):
        mistakes.append(Diagnostic(node.mark, f"`named_by` is a mapping: `{{id: SOURCE}}`, a source being {_HINT}"))
        return None
    found: dict[str, Source] = {}
    for key, value in node:
        if key.text not in ("id", "version") and not ATTRIBUTE.match(key.text):
            mistakes.append(Diagnostic(key.mark, f"`{key.text}` is not an attribute name (letters, digits, `_`, `-`)"))
            continue
        source = _source(value.text) if isinstance(value, Scalar) else None
        if source is None:
            mistakes.append(Diagnostic(value.mark, f"`{key.text}` needs a source: {_HINT}"))
        else:
            found[key.text] = source
    if "id" not in found:
        if node.get("id") is None:
            mistakes.append(Diagnostic(node.mark, "`id` is missing: where Envoy tells the model"))
        return None
    rest = {key: source for key, source in found.items() if key not in ("id", "version")}
    return NamedBy(found["id"], found.get("version"), rest)


def _source(text: str) -> Source | None:
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _KINDS:
        return None
    if kind == SourceKind.EXTENSION:
        return Source(SourceKind.EXTENSION, "", rest) if _KEY.match(rest) and rest != _RESERVED else None
    namespace, slash, key = rest.rpartition("/")
    if not slash or not _NAMESPACE.match(namespace) or not _KEY.match(key):
        return None
    return Source(SourceKind(kind), namespace, key)
