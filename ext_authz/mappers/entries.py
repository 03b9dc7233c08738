"""Route entries: from YAML nodes to compiled values, every mistake at once.

Law: a key is read or refused; an entry whose parts contradict each other is
never loaded. Non-goal: matching.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ext_authz.documents import Diagnostic, MappingNode, Mark, Node, Scalar, Sequence, did_you_mean
from ext_authz.mappers.adapter import EVERY, Adapter, HostStyle
from ext_authz.mappers.catalog import read_attributes, text_of
from ext_authz.mappers.named_by import NamedBy, read_named_by
from ext_authz.mappers.protocols import PROTOCOLS
from ext_authz.mappers.templates import (
    REST,
    HostPattern,
    NameTemplate,
    PathTemplate,
    PatternError,
    host_pattern,
    name_template,
    path_template,
)
from ext_authz.model import AttributeValue

KEYS: Final = (
    "name",
    "host",
    "protocol",
    "methods",
    "path",
    "resource",
    "action",
    "attributes",
    "unsafe_public",
    "upgrade",
    "encoded_slash",
    "by_name",
    "named_by",
)
UPGRADES: Final = frozenset({"websocket"})

_METHOD = re.compile(r"[A-Z]+(?:-[A-Z]+)*\Z")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*\Z")
# Beside `protocol` or `unsafe_public` these would be accepted and ignored.
_NOT_WITH_PROTOCOL: Final = ("resource", "action")
_NOT_WITH_PUBLIC: Final = ("protocol", "resource", "action", "attributes", "upgrade", "encoded_slash", "named_by")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResourceTemplate:
    """What an entry without protocol speaks of."""

    type: str
    id: NameTemplate
    version: NameTemplate
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Entry:
    """One compiled route entry. None stands for any host or method.

    With an adapter, `path` is None and `mount` the literal segments before the
    protocol's own paths; without one, `path` is always given.
    """

    name: str
    named: bool
    mark: Mark
    host: HostPattern | None = None
    methods: frozenset[str] | None = None
    path: PathTemplate | None = None
    mount: tuple[str, ...] = ()
    adapter: Adapter | None = None
    resource: ResourceTemplate | None = None
    action: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    public: bool = False
    upgrade: frozenset[str] = frozenset()
    encoded_slash: bool = False
    by_name: bool = False
    named_by: NamedBy | None = None


def read_routes(node: Node, mistakes: list[Diagnostic]) -> list[Entry]:
    """Read the list under `routes:`; every mistake is appended to `mistakes`."""
    if not isinstance(node, Sequence):
        if not (isinstance(node, Scalar) and node.is_null):
            mistakes.append(Diagnostic(node.mark, "`routes` is a list of entries"))
        return []
    entries: list[Entry] = []
    for item in node:
        if not isinstance(item, MappingNode):
            mistakes.append(Diagnostic(item.mark, "a route is a mapping: `{host: …, path: …, resource: …, action: …}`"))
            continue
        entry = _Reader(item, mistakes).entry()
        if entry is not None:
            entries.append(entry)
    return entries


def duplicate_names(entries: Iterable[Entry]) -> list[Diagnostic]:
    """Return a mistake for each name that stands twice."""
    seen: dict[str, Mark] = {}
    found: list[Diagnostic] = []
    for entry in entries:
        if not entry.named:
            continue
        if entry.name in seen:
            found.append(Diagnostic(entry.mark, f"a route named `{entry.name}` stands at {seen[entry.name]} already"))
        seen.setdefault(entry.name, entry.mark)
    return found


class _Reader:
    """Reads one entry; a value that is wrong is reported and left out."""

    def __init__(self, node: MappingNode, mistakes: list[Diagnostic]) -> None:
        self.node = node
        self.mistakes = mistakes

    def entry(self) -> Entry | None:
        before = len(self.mistakes)
        self._unknown_keys()
        # A flag that cannot be read was meant as one: its consequences need no reports of their own.
        flagged = len(self.mistakes)
        public = self._flag("unsafe_public") or len(self.mistakes) > flagged
        adapter = self._adapter()
        methods = self._methods()
        host = self._compiled("host", host_pattern)
        path = self._compiled("path", path_template)
        slash = self._flag("encoded_slash")
        by_name = self._flag("by_name")
        name = self._name()
        upgrade = self._upgrade()
        attributes = self._attributes()
        named = self.node.get("named_by")
        named_by = None if named is None else read_named_by(named, self.mistakes)
        resource: ResourceTemplate | None = None
        action = ""
        mount: tuple[str, ...] = ()
        if public:
            self._refuse_beside("unsafe_public", _NOT_WITH_PUBLIC)
            self._exact(path, methods)
        elif "protocol" in self._keys():
            self._refuse_beside("protocol", _NOT_WITH_PROTOCOL)
            mount = self._mount(path, adapter)
            self._host_style(host, adapter)
            path = None
        else:
            self._need("path", 'write `path: "/**"` for any path')
            if self.node.get("named_by") is not None:
                self._mistake("named_by", "`named_by` goes with `protocol`: here `resource` says what is named")
            resource = self._resource(path, attributes, encoded_slash=slash)
            action = self._action()
            if slash and path is not None and not path.slots:
                self._mistake("encoded_slash", "there is no `{x}` in the path that an encoded slash could stand in")
        if by_name and not name:
            self._mistake("by_name", "an entry reached by name only needs a `name`")
        if len(self.mistakes) > before:
            return None
        shown = f"{host.text if host else EVERY}{path.text if path else ''.join('/' + part for part in mount)}"
        return Entry(
            name=name or shown,
            named=bool(name),
            mark=self.node.mark,
            host=host,
            methods=methods,
            path=path,
            mount=mount,
            adapter=adapter,
            resource=resource,
            action=action,
            attributes=attributes,
            public=public,
            upgrade=upgrade,
            encoded_slash=slash,
            by_name=by_name,
            named_by=named_by,
        )

    def _keys(self) -> list[str]:
        return [key.text for key, _ in self.node]

    def _mistake(self, key: str, message: str) -> None:
        self.mistakes.append(Diagnostic(self.node.key_mark(key), message))

    def _unknown_keys(self) -> None:
        for key, _ in self.node:
            if key.text not in KEYS:
                self.mistakes.append(Diagnostic(key.mark, f"unknown key `{key.text}`{did_you_mean(key.text, KEYS)}"))

    def _refuse_beside(self, key: str, others: tuple[str, ...]) -> None:
        for other in others:
            if self.node.get(other) is not None:
                self._mistake(other, f"`{other}` has no meaning beside `{key}`")

    def _need(self, key: str, hint: str) -> None:
        if self.node.get(key) is None:
            self.mistakes.append(Diagnostic(self.node.mark, f"`{key}` is missing: {hint}"))

    def _flag(self, key: str) -> bool:
        value = self.node.get(key)
        if value is None:
            return False
        if isinstance(value, Scalar) and value.plain and value.text in ("true", "false"):
            return value.text == "true"
        self.mistakes.append(Diagnostic(value.mark, f"`{key}` is `true` or `false`"))
        return False

    def _compiled(self, key: str, compile_: Callable[[str], T]) -> T | None:
        value = self.node.get(key)
        if value is None:
            return None
        if not isinstance(value, Scalar) or value.is_null:
            self.mistakes.append(Diagnostic(value.mark, f"`{key}` is a text"))
            return None
        try:
            return compile_(value.text)
        except PatternError as problem:
            self.mistakes.append(Diagnostic(value.mark, str(problem)))
            return None

    def _name(self) -> str:
        if self.node.get("name") is None:
            return ""
        name = text_of(self.node, "name", self.mistakes)
        if name and not _NAME.match(name):
            self._mistake("name", f"`{name}` is not a name (letters, digits, `.`, `_`, `-`)")
        return name

    def _adapter(self) -> Adapter | None:
        if self.node.get("protocol") is None:
            return None
        name = text_of(self.node, "protocol", self.mistakes)
        if name and name not in PROTOCOLS:
            value = self.node.get("protocol")
            mark = value.mark if value is not None else self.node.mark
            known = did_you_mean(name, PROTOCOLS) or f" (known: {', '.join(sorted(PROTOCOLS))})"
            self.mistakes.append(Diagnostic(mark, f"unknown protocol `{name}`{known}"))
        return PROTOCOLS.get(name)

    def _texts(self, key: str) -> list[Scalar]:
        value = self.node.get(key)
        if value is None:
            return []
        if not isinstance(value, Sequence) or not len(value):
            self.mistakes.append(Diagnostic(value.mark, f"`{key}` is a list of at least one text"))
            return []
        texts = [item for item in value if isinstance(item, Scalar) and item.text]
        if len(texts) != len(value):
            self.mistakes.append(Diagnostic(value.mark, f"`{key}` is a list of texts"))
        return texts

    def _methods(self) -> frozenset[str] | None:
        if self.node.get("methods") is None:
            return None
        methods = self._texts("methods")
        for method in methods:
            if method.text == "CONNECT":
                self.mistakes.append(Diagnostic(method.mark, "CONNECT is never routed"))
            elif not _METHOD.match(method.text):
                hint = f", did you mean `{method.text.upper()}`?" if _METHOD.match(method.text.upper()) else ""
                self.mistakes.append(Diagnostic(method.mark, f"`{method.text}` is not a method{hint}"))
        return frozenset(method.text for method in methods)

    def _upgrade(self) -> frozenset[str]:
        wanted = self._texts("upgrade")
        for upgrade in wanted:
            if upgrade.text not in UPGRADES:
                self.mistakes.append(Diagnostic(upgrade.mark, f"`{upgrade.text}`: the only upgrade is `websocket`"))
        return frozenset(upgrade.text for upgrade in wanted)

    def _attributes(self) -> dict[str, AttributeValue]:
        value = self.node.get("attributes")
        if value is None:
            return {}
        if not isinstance(value, MappingNode):
            self.mistakes.append(Diagnostic(value.mark, "`attributes` is a mapping"))
            return {}
        return read_attributes(value, frozenset(), self.mistakes)

    def _exact(self, path: PathTemplate | None, methods: frozenset[str] | None) -> None:
        self._need("path", "a public entry names one exact path")
        if path is not None and not path.exact:
            self._mistake("path", "a public entry names one exact path, without `{x}`, `*` or `**`")
        if methods is None:
            self.mistakes.append(Diagnostic(self.node.mark, "`methods` is missing: a public entry names them"))

    def _mount(self, path: PathTemplate | None, adapter: Adapter | None) -> tuple[str, ...]:
        if path is None:
            return ()
        *mount, last = path.tokens
        if last != REST or not mount or path.trailing or any(token == EVERY or "{" in token for token in mount):
            self._mistake("path", "beside `protocol` a path is where the protocol is mounted: `/plain/text/**`")
        elif adapter is not None and mount[0] in adapter.first_segments:
            self._mistake(
                "path",
                f"this mounts `{adapter.name}` below `/{'/'.join(mount)}`, whose own paths begin with `/{mount[0]}`: "
                "leave `path` out",
            )
        return tuple(mount)

    def _host_style(self, host: HostPattern | None, adapter: Adapter | None) -> None:
        if adapter is None or adapter.host_style is HostStyle.ANY or self._host_failed(host):
            return
        if adapter.host_style is HostStyle.WILD and (host is None or not host.wild or host.anybody or host.prefix):
            self._mistake("host", f'`{adapter.name}` reads the bucket from the host: write `host: "*.NAME"`')
        if adapter.host_style is HostStyle.EXACT and (host is None or host.wild):
            self._mistake("host", f"`{adapter.name}` needs one exact `host`: servers read a bucket from any other")

    def _host_failed(self, host: HostPattern | None) -> bool:
        return host is None and self.node.get("host") is not None

    def _resource(
        self, path: PathTemplate | None, attributes: Mapping[str, AttributeValue], *, encoded_slash: bool
    ) -> ResourceTemplate | None:
        node = self.node.get("resource")
        if not isinstance(node, MappingNode):
            mark = self.node.mark if node is None else node.mark
            missing = "`resource` is missing" if node is None else "`resource` is a mapping"
            self.mistakes.append(Diagnostic(mark, f"{missing}: `{{type: …, id: …}}`"))
            return None
        kind = text_of(node, "type", self.mistakes)
        if kind and not _WORD.match(kind):
            self.mistakes.append(Diagnostic(node.key_mark("type"), f"`{kind}` is not a resource type"))
        name_of = self._name_template(node, "id", path, encoded_slash=encoded_slash)
        version = NameTemplate(("",), ())
        if node.get("version") is not None:
            version = self._name_template(node, "version", path, encoded_slash=encoded_slash) or version
        own = read_attributes(node, frozenset({"type", "id", "version"}), self.mistakes)
        for key in own.keys() & attributes.keys():
            self.mistakes.append(Diagnostic(node.key_mark(key), f"`{key}` stands under `attributes` too"))
        return ResourceTemplate(kind, name_of, version, own) if name_of is not None else None

    def _name_template(
        self, node: MappingNode, key: str, path: PathTemplate | None, *, encoded_slash: bool
    ) -> NameTemplate | None:
        text = text_of(node, key, self.mistakes)
        if not text or (path is None and self.node.get("path") is not None):
            return None
        try:
            return name_template(text, path, encoded_slash=encoded_slash)
        except PatternError as problem:
            value = node.get(key)
            self.mistakes.append(Diagnostic(value.mark if value is not None else node.mark, str(problem)))
            return None

    def _action(self) -> str:
        action = text_of(self.node, "action", self.mistakes)
        if action and not _WORD.match(action):
            self._mistake("action", f"`{action}` is not an action (letters, digits, `_`, `.`, `:`, `-`)")
        return action
