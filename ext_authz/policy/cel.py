"""The `cel` condition: one CEL expression (CEL-C++ through `cel-expr-python`), type-checked at load.

Law: only `true` holds and only `false` does not; an error, a missing key or
another type cannot be evaluated. Non-goal: functions or variables of our own
beyond those declared here.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any, ClassVar, Final

from ext_authz.documents import did_you_mean
from ext_authz.model import Query
from ext_authz.policy.cel_cost import MAX_WORK, work_of
from ext_authz.policy.grant import Grant, Remedy
from ext_authz.policy.matching import names_several, resource_value

MAX_EXPRESSION: Final = 2048
SECOND_NS: Final = 1_000_000_000

_LIBRARY: Final = "cel_expr_python.cel"
_CLAIMS_VARIABLE: Final = "subject.claims"
_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")
_UNKNOWN_NAME = re.compile(r"undeclared reference to '([^']+)'")
_NO_OVERLOAD = re.compile(r"found no matching overload for '([^']+)' applied to '\((.*)\)'")
_SLIPS: Final = (
    (re.compile(r"Syntax error: token recognition error at: '(=) "), "`{}` has no meaning here: equality is `==`"),
    (re.compile(r"Syntax error: token recognition error at: '([\"'].*)'"), "the text {} is not closed"),
    (re.compile(r"Syntax error: (?:mismatched|extraneous) input '(and)'"), "`{}` has no meaning here: write `&&`"),
    (re.compile(r"Syntax error: (?:mismatched|extraneous) input '(or)'"), "`{}` has no meaning here: write `||`"),
)
# What an expression may call (https://github.com/google/cel-spec, standard definitions and macros), for suggestions.
_FUNCTIONS: Final = (
    *("all", "exists", "exists_one", "filter", "map", "has", "contains", "startsWith", "endsWith", "matches", "size"),
    *("int", "uint", "double", "string", "bool", "bytes", "timestamp", "duration", "type", "dyn"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
)
_MACRO = re.compile(r"all|exist|map|filter|transform|sort|bind")
_CLAIMS = re.compile(r"subject\.claims(?:\.([A-Za-z_]\w*)(?!\w|\s*\()|\[(?:\"([^\"\\]+)\"|'([^'\\]+)')\])?")


class CelError(ValueError):
    """The expression cannot be compiled; the message says why and where."""


def _moment(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC) + timedelta(microseconds=time_ns % SECOND_NS // 1000)


def _age(query: Query) -> timedelta | None:
    issued = query.subject.issued_at
    return None if issued is None else timedelta(microseconds=query.context.now_ns // 1000 - issued * 1_000_000)


def _picked_claims(names: frozenset[str], query: Query) -> dict[str, Any]:
    """Return only the claims that are read: another one that CEL cannot hold spoils nothing."""
    claims = query.subject.claims
    return {name: claims[name] for name in names if name in claims}


def _attributes(query: Query) -> dict[str, Any]:
    return {key: value for key, value in query.resource.attributes.items() if key not in ("type", "id", "version")}


# Each variable: its CEL type, and how a query gives it. None leaves it unbound: reading it cannot be evaluated.
_VARIABLES: Final[dict[str, tuple[str, Callable[[Query], Any]]]] = {
    "subject.id": ("STRING", lambda query: query.subject.id),
    "subject.name": ("STRING", lambda query: query.subject.name),
    "subject.auth": ("STRING", lambda query: query.subject.auth.value),
    "subject.issuer": ("STRING", lambda query: query.subject.issuer),
    "subject.roles": ("LIST", lambda query: sorted(query.subject.roles)),
    "subject.groups": ("LIST", lambda query: sorted(query.subject.groups)),
    "subject.org": ("STRING", lambda query: query.subject.org),
    "subject.scopes": ("LIST", lambda query: sorted(query.subject.scopes)),
    "subject.mfa": ("BOOL", lambda query: query.subject.mfa),
    "subject.token_age": ("DURATION", _age),
    "subject.workload": ("STRING", lambda query: query.subject.workload),
    "subject.cert_fingerprint": ("STRING", lambda query: query.subject.cert_fingerprint),
    "resource.type": ("STRING", lambda query: query.resource.type),
    # A request that may name any resource has no id that an expression could judge.
    "resource.id": ("STRING", lambda query: None if names_several(query.resource.id) else query.resource.id),
    "resource.version": ("STRING", lambda query: resource_value(query.resource, "version")),
    "resource": ("MAP", _attributes),
    "action": ("STRING", lambda query: query.action),
    "request.method": ("STRING", lambda query: query.context.method),
    "request.host": ("STRING", lambda query: query.context.host),
    "request.path": ("STRING", lambda query: query.context.path),
    "request.protocol": ("STRING", lambda query: query.context.protocol),
    "request.bytes": ("INT", lambda query: query.context.bytes),
    "request": ("MAP", lambda query: dict(query.attributes)),
    "context.ip": ("STRING", lambda query: None if query.context.ip is None else str(query.context.ip)),
    "context.time": ("TIMESTAMP", lambda query: _moment(query.context.time_ns)),
    "context.risk": ("STRING", lambda query: None if query.context.risk is None else query.context.risk.value),
}


@dataclass(frozen=True, slots=True)
class Cel:
    """`expression` is true of the query. Raises CelError when it cannot be compiled."""

    kind: ClassVar[str] = "cel"
    expression: str
    _program: Any = field(init=False, repr=False, compare=False)
    _bindings: tuple[tuple[str, Callable[[Query], Any]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile and type-check the expression."""
        object.__setattr__(self, "_program", _compile(self.expression))
        rest = _squeeze(self.expression)
        used = []
        # Longest first, and each taken out: `resource.type` does not ask for the map `resource`, `resource.typed` does.
        for name in sorted(_VARIABLES, key=len, reverse=True):
            rest, found = re.subn(rf"{re.escape(name)}(?!\w)", "", rest)
            if found:
                used.append((name, _VARIABLES[name][1]))
        if names := self.claims_read():
            used.append((_CLAIMS_VARIABLE, partial(_picked_claims, names)))
        object.__setattr__(self, "_bindings", tuple(used))

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        value = self._value(query)
        return value if isinstance(value, bool) else None

    def until_ns(self, query: Query, grant: Grant) -> int | None:  # noqa: ARG002, D102
        return None

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        value = self._value(query)
        if isinstance(value, bool):
            return f"`{self.expression}` is {'true' if value else 'false'}"
        return f"`{self.expression}` cannot be evaluated: {value}"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        return None

    def data(self) -> str:  # noqa: D102
        return self.expression

    @property
    def reads(self) -> frozenset[str]:
        """The variables that the expression reads."""
        return frozenset(name for name, _ in self._bindings)

    def claims_read(self) -> frozenset[str]:
        """Return the top-level claims that the expression reads."""
        return frozenset("".join(found) for found in _CLAIMS.findall(_squeeze(self.expression)))

    def _value(self, query: Query) -> bool | str:
        """Return the expression's truth, or why it has none."""
        try:
            bound = ((name, read(query)) for name, read in self._bindings)
            result = self._program.eval(data={name: value for name, value in bound if value is not None})
            value = result.value()
        except Exception as error:  # noqa: BLE001  whatever the library raises, the expression has no value
            return str(error).partition("\n")[0][:200]
        return value if isinstance(value, bool) else str(value).partition("\n")[0][:200]


def _compile(expression: str) -> Any:  # noqa: ANN401  the library ships no typed package
    if len(expression) > MAX_EXPRESSION:
        raise CelError(f"longer than {MAX_EXPRESSION} characters")
    squeezed = _squeeze(expression)
    if squeezed.count(_CLAIMS_VARIABLE) != sum(1 for found in _CLAIMS.findall(squeezed) if any(found)):
        raise CelError(
            '`subject.claims` must be followed by the claim: `subject.claims.team` or `subject.claims["team"]`'
        )
    library, environment = _environment()
    try:
        program = environment.compile(expression)
    except RuntimeError as error:
        place = _PLACE.search(str(error))
        if place is None:
            # The one error without a place: the parser's own limit.
            raise CelError("nested deeper than 32 levels") from None
        where = f"character {place[2]}" if place[1] == "1" else f"line {place[1]}, character {place[2]}"
        raise CelError(f"{_words(place[3])} (at {where})") from None
    if program.return_type() not in (library.Type.BOOL, library.Type.DYN):
        raise CelError(f"it yields {program.return_type().name().lower()}, not true or false")
    # Without a macro nothing is gone through, and so nothing grows beyond what is written.
    if _MACRO.search(expression) and work_of(program.serialize()) > MAX_WORK:
        raise CelError("it could make too much of what it is given: fewer lists in lists, and less put together")
    return program


def _words(problem: str) -> str:
    """Return what the compiler says in the words of the house; what it says of its own grammar is left out."""
    if found := _UNKNOWN_NAME.match(problem):
        return _unknown(found[1])
    if found := _NO_OVERLOAD.match(problem):
        return f"`{found[1].strip('_@').replace('_', ' ')}` does not take {' and '.join(found[2].split(', '))}"
    if "'<EOF>'" in problem:
        return "the expression ends where more is wanted"
    for pattern, hint in _SLIPS:
        if found := pattern.match(problem):
            return hint.format(found[1])
    reason = problem.partition(" expecting ")[0].removesuffix(" (in container '')")
    return f"{reason[:1].lower()}{reason[1:200]}"


def _unknown(name: str) -> str:
    if name in _FUNCTIONS:
        return f"`{name}` does not take these arguments"
    known = (*_VARIABLES, _CLAIMS_VARIABLE) if "." in name else ("action", *_FUNCTIONS)
    inside = next((each for each in _VARIABLES if each.startswith(f"{name}.")), None)
    hint = did_you_mean(name, known) if inside is None else f", only what is in it: `{inside}`"
    return f"unknown name `{name}`{hint}"


@lru_cache(maxsize=1)
def _environment() -> tuple[Any, Any]:
    try:
        library = importlib.import_module(_LIBRARY)
    except ImportError:
        raise CelError("needs the extra `cel`: install `ext-authz[cel]`") from None
    kinds = library.Type
    texts, anything = kinds.List(kinds.STRING), kinds.Map(kinds.STRING, kinds.DYN)
    types = {"LIST": texts, "MAP": anything}
    declared = {_CLAIMS_VARIABLE: anything}
    declared |= {name: types.get(kind) or getattr(kinds, kind) for name, (kind, _) in _VARIABLES.items()}
    return library, library.NewEnv(variables=declared)


def _squeeze(expression: str) -> str:
    return re.sub(r"\s*([.\[\]])\s*", r"\1", expression)
