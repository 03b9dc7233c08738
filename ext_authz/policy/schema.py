"""Policy files to a PolicyDocument, with every mistake of every file reported at once.

Law: what this page does not read is an error, never ignored; what is ambiguous
is refused. Non-goal: warnings (lint.py) and what policies do (compiler.py).
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from ext_authz.documents import Diagnostic, DocumentError, MappingNode, Mark, Node, Scalar, Sequence, load
from ext_authz.headers import MAX_HEADERS, header_name_problem, known_variable, near_variable
from ext_authz.model import Auth
from ext_authz.policy.collector import collector_paused
from ext_authz.policy.condition_reader import Windows, read_conditions, read_group
from ext_authz.policy.conditions import Approved, Condition
from ext_authz.policy.document import DEFAULT_TTL, Effect, Mode, Policy, PolicyDocument, dump, undump
from ext_authz.policy.matching import ANYTHING, CERTIFICATE_NAMES, CLAIM, SUBJECT_KEYS, Entry, Trait, typed_name
from ext_authz.policy.reader import Reader
from ext_authz.policy.windows import Window
from ext_authz.template import TemplateError, compile_template

__all__ = ["FILE_KEYS", "POLICY_KEYS", "dump", "load_policies", "undump"]

MAX_APPROVALS: Final = 16
MAX_TTL_MS: Final = 365 * 86_400_000
FILE_KEYS: Final = ("policies", "time_windows")
POLICY_KEYS: Final = (
    "id",
    "description",
    "effect",
    "mode",
    "subjects",
    "resources",
    "actions",
    "conditions",
    "approvals",
    "ttl",
    "not_before",
    "not_after",
    "headers",
)
_ENTRY_KEYS: Final = (*SUBJECT_KEYS, "any", "approval")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@-]{0,127}\Z")
_ANYTHING: Final = {"subjects": "[{any: true}]", "resources": '[{type: "*"}]', "actions": '["*"]'}
_Word = TypeVar("_Word", Effect, Mode)
_NOT_SUBJECTS: Final = {
    "group:": "a group is written `group: NAME`",
    "anonymous:": "an anonymous caller is written `auth: anonymous`",
    "os:": "an operating-system user approves, but never calls",
    "spiffe:": "a SPIFFE ID begins with `spiffe://`",
}


def load_policies(texts: Mapping[str, str]) -> PolicyDocument:
    """Read policy files, given as file name to text in path order.

    Raises DocumentError with every mistake found in all of them.
    """
    reader = Reader()
    with collector_paused():
        roots = {file: root for file, text in texts.items() if (root := _root(reader, text, file)) is not None}
        windows, marks = _read_windows(reader, roots)
        policies = _Policies(reader, windows)
        for root in roots.values():
            policies.read_file(root)
    if reader.mistakes:
        raise DocumentError(reader.mistakes, texts)
    defined = {name: window for name, window in windows.items() if window is not None}
    return PolicyDocument(tuple(policies.found), defined, marks)


def _root(reader: Reader, text: str, file: str) -> MappingNode | None:
    try:
        node = load(text, file, reader.budget)
    except DocumentError as error:
        reader.mistakes.extend(error.diagnostics)
        return None
    if node is None:
        reader.mistakes.append(Diagnostic(Mark(file, 1, 1), "the file is empty; it should hold `policies`"))
        return None
    if not isinstance(node, MappingNode):
        reader.mistake(node, "a policy file is a mapping with `policies`, `time_windows` or both")
        return None
    if not node.entries:
        reader.mistake(node, "the file is empty; it should hold `policies`")
    for key, _ in node:
        if key.text not in FILE_KEYS:
            reader.unknown_key(key, FILE_KEYS, "key of a policy file")
    return node


def _read_windows(reader: Reader, roots: Mapping[str, MappingNode]) -> tuple[dict[str, Window | None], dict[str, Mark]]:
    windows: dict[str, Window | None] = {}
    marks: dict[str, Mark] = {}
    for root in roots.values():
        node = root.get("time_windows")
        mapping = None if node is None else reader.mapping(node, "`time_windows`")
        for key, value in mapping or ():
            name = reader.text(key, "the name of a time window")
            if name is None:
                continue
            if name in windows:
                reader.mistake(key, f"time window `{name}` is defined twice, first at {marks[name]}")
                continue
            marks[name] = key.mark
            windows[name] = reader.window(value, f"time window `{name}`")
    return windows, marks


class _Policies:
    """Reads policies one by one into `found`, in order."""

    def __init__(self, reader: Reader, windows: Windows) -> None:
        self.reader = reader
        self.windows = windows
        self.found: list[Policy] = []
        self.seen: dict[str, Mark] = {}

    def read_file(self, root: MappingNode) -> None:
        node = root.get("policies")
        sequence = None if node is None else self.reader.sequence(node, "`policies`")
        for item in sequence or ():
            mapping = self.reader.mapping(item, "a policy")
            if mapping is not None:
                self._policy(mapping)

    def _policy(self, node: MappingNode) -> None:
        reader = self.reader
        marks: dict[str, Mark] = {}
        before = len(reader.mistakes)
        meant: set[str | None] = set()
        for key, _ in node:
            marks[key.text] = key.mark
            if key.text not in POLICY_KEYS:
                reader.unknown_key(key, POLICY_KEYS, "key of a policy")
                meant.add(reader.nearest(key.text, POLICY_KEYS))
        identifier = self._id(node, marks)
        effect = self._choice(node, "effect", Effect, Effect.ALLOW)
        mode = self._choice(node, "mode", Mode, Mode.ENFORCE) or Mode.ENFORCE
        description = node.get("description")
        subjects, approved = self._subjects(node, marks)
        resources = self._resources(node, marks)
        actions = self._actions(node, marks)
        conditions: list[Condition] = list(approved)
        if (listed := node.get("conditions")) is not None:
            conditions += [each for each in read_conditions(reader, listed, self.windows) if each not in conditions]
        if effect is Effect.ALLOW:
            for name, anything in _ANYTHING.items():
                if node.get(name) is None and name not in meant:
                    reader.mistake(marks["id"], f"an allow policy has no `{name}`; any is written `{name}: {anything}`")
        elif effect is Effect.DENY:
            for name in ("ttl", "headers"):
                if name in marks:
                    reader.mistake(marks[name], f"`{name}` belongs to an allow policy; a denial has none")
        approvals = self._approvals(node, marks, conditions)
        start, end = self._moment(node, "not_before"), self._moment(node, "not_after")
        ttl, headers = self._ttl(node), self._headers(node)
        text = None if description is None else self._description(description)
        if len(reader.mistakes) > before or effect is None:
            return
        self.found.append(
            Policy(
                id=identifier,
                effect=effect,
                mode=mode,
                subjects=subjects,
                resources=resources,
                actions=actions,
                conditions=tuple(conditions),
                approvals=approvals,
                ttl=ttl,
                not_before_ns=start,
                not_after_ns=end,
                headers=headers,
                description=text or "",
                marks=marks,
            )
        )

    def _id(self, node: MappingNode, marks: dict[str, Mark]) -> str:
        written = node.get("id")
        marks["id"] = node.mark if written is None else written.mark
        if written is None:
            self.reader.mistake(node, "a policy has no `id`")
            return ""
        name = self.reader.text(written, "`id`")
        if name is None:
            return ""
        if not _ID.match(name):
            self.reader.mistake(written, f"`{name}` is not an id: letters, digits and `_ - . : / @`, at most 128")
        if name in self.seen:
            self.reader.mistake(written, f"duplicate policy id `{name}`, first at {self.seen[name]}")
        self.seen.setdefault(name, written.mark)
        return name

    def _choice(self, node: MappingNode, key: str, kind: type[_Word], default: _Word) -> _Word | None:
        """Return the word that is written, `default` where none is, None where it is a mistake."""
        written = node.get(key)
        if written is None:
            return default
        text = self.reader.choice(written, [each.value for each in kind], f"`{key}`")
        return None if text is None else kind(text)

    def _description(self, node: Node) -> str | None:
        if isinstance(node, Scalar) and not node.is_null:
            return node.text
        self.reader.mistake(node, "`description` must be text")
        return None

    def _subjects(self, node: MappingNode, marks: dict[str, Mark]) -> tuple[tuple[Entry, ...] | None, list[Approved]]:
        written = node.get("subjects")
        if written is None:
            return None, []
        entries: list[Entry] = []
        approved: list[Approved] = []
        for item in self.reader.sequence(written, "`subjects`") or ():
            mapping = self.reader.mapping(item, "a subject")
            if mapping is None:
                continue
            approval = mapping.get("approval")
            if approval is None:
                entry = self._subject(mapping)
                marks[f"subjects.{len(entries)}"] = item.mark
                entries.append(entry)
            elif len(mapping) > 1:
                self.reader.mistake(
                    mapping.key_mark("approval"),
                    "`approval` stands alone in its entry, or under `conditions`; it is required of every alternative",
                )
            elif (condition := read_group(self.reader, approval)) is not None:
                marks.setdefault("approval", item.mark)
                approved += [condition] if condition not in approved else []
        if approved and not entries:
            self.reader.mistake(written, "`subjects` lists only approvals; say also who they are for")
        return tuple(entries), approved

    def _subject(self, mapping: MappingNode) -> Entry:
        reader = self.reader
        tests: list[Trait] = []
        for key, value in mapping:
            if key.text == "any":
                if reader.only_true(value, "any") and len(mapping) > 1:
                    reader.mistake(key, "`any: true` stands alone; beside other keys it would say nothing")
            elif key.text == "claim":
                tests += self._claims(value)
            elif key.text not in SUBJECT_KEYS:
                reader.unknown_key(key, _ENTRY_KEYS, "key of a subject")
            elif key.text == "auth":
                kinds = [kind.value for kind in Auth]
                texts = [text for text, item in reader.scalars(value, "`auth`") if reader.choice(item, kinds, "`auth`")]
                tests.append(Trait("auth", tuple(texts)))
            else:
                values = reader.values(value, f"`{key.text}`")
                if values is not None:
                    tests.append(Trait(key.text, self._names(key.text, values, value)))
        return tuple(tests)

    def _names(self, key: str, values: tuple[str, ...], node: Node) -> tuple[str, ...]:
        if key == "group":
            return tuple(value.removeprefix("group:") for value in values)
        if key == "workload":
            for value in values:
                if value != ANYTHING and not value.startswith(CERTIFICATE_NAMES):
                    self.reader.mistake(
                        node, f"`{value}` is not a certificate's name: `spiffe://…`, `dns:NAME` or `x509:SUBJECT`"
                    )
        if key not in ("id", "workload"):
            return values
        names = []
        for value in values:
            try:
                typed = typed_name(value)
            except ValueError:
                self.reader.mistake(node, f"`{value}` is not a distinguished name such as `x509:CN=trainer,O=ML`")
                continue
            names.append(typed)
            for prefix, hint in _NOT_SUBJECTS.items():
                if key == "id" and typed.startswith(f"sub:{prefix}"):
                    self.reader.mistake(node, f"`{value}` is nobody's id: {hint}")
        return tuple(names)

    def _claims(self, node: Node) -> list[Trait]:
        tests: list[Trait] = []
        mapping = self.reader.mapping(node, "`claim`")
        for path, value in mapping or ():
            values = self.reader.values(value, f"claim `{path.text}`")
            if values is not None and self.reader.text(path, "the name of a claim") is not None:
                tests.append(Trait(CLAIM + path.text, values))
        return tests

    def _resources(self, node: MappingNode, marks: dict[str, Mark]) -> tuple[Entry, ...] | None:
        written = node.get("resources")
        if written is None:
            return None
        entries: list[Entry] = []
        for item in self.reader.sequence(written, "`resources`") or ():
            mapping = self.reader.mapping(item, "a resource")
            if mapping is None:
                continue
            tests: list[Trait] = []
            for key, value in mapping:
                values = self.reader.values(value, f"`{key.text}`")
                if values is not None and self.reader.text(key, "an attribute") is not None:
                    tests.append(Trait(key.text, values))
            marks[f"resources.{len(entries)}"] = item.mark
            entries.append(tuple(tests))
        return tuple(entries)

    def _actions(self, node: MappingNode, marks: dict[str, Mark]) -> tuple[str, ...] | None:
        written = node.get("actions")
        if isinstance(written, Sequence):
            marks.update((f"actions.{item.text}", item.mark) for item in written if isinstance(item, Scalar))
        return None if written is None else self.reader.values(written, "`actions`")

    def _approvals(self, node: MappingNode, marks: Mapping[str, Mark], conditions: list[Condition]) -> int:
        written = node.get("approvals")
        if written is None:
            return 1
        count = self.reader.count(written, "`approvals`", 1, MAX_APPROVALS)
        if not any(isinstance(condition, Approved) for condition in conditions):
            self.reader.mistake(marks["approvals"], "`approvals` counts people, but no `approval: GROUP` says whose")
        return count or 1

    def _moment(self, node: MappingNode, key: str) -> int | None:
        written = node.get(key)
        return None if written is None else self.reader.moment_ns(written, f"`{key}`")

    def _ttl(self, node: MappingNode) -> int:
        written = node.get("ttl")
        if written is None:
            return DEFAULT_TTL
        milliseconds = self.reader.duration_ms(written, "`ttl`")
        if milliseconds is not None and not 1000 <= milliseconds <= MAX_TTL_MS:  # noqa: PLR2004
            self.reader.mistake(written, "`ttl` is counted in seconds: at least `1s`, at most `365d`")
        return DEFAULT_TTL if milliseconds is None else milliseconds // 1000

    def _headers(self, node: MappingNode) -> tuple[tuple[str, str], ...]:
        written = node.get("headers")
        mapping = None if written is None else self.reader.mapping(written, "`headers`")
        headers: list[tuple[str, str]] = []
        for key, value in mapping or ():
            problem = header_name_problem(key.text)
            if problem is not None:
                self.reader.mistake(key, problem)
            if not isinstance(value, Scalar) or value.is_null:
                self.reader.mistake(value, f"header `{key.text}` must be text")
                continue
            try:
                compile_template(value.text, known_variable, near_variable)
            except TemplateError as error:
                self.reader.mistake(value, str(error))
                continue
            headers.append((key.text, value.text))
        if mapping is not None and len(mapping) > MAX_HEADERS - 2:
            self.reader.mistake(mapping, f"more than {MAX_HEADERS - 2} headers")
        return tuple(headers)
