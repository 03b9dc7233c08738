"""`${a.b}` templates in header and audience values: parsed at load, rendered on an allow.

Law: rendering never yields a byte outside 0x20-0x7e nor an unescaped list
separator, and refuses instead of cutting. Non-goal: expressions.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAX_RENDERED_BYTES = 4096

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[a-z_][a-z0-9_]*(?:\.[A-Za-z0-9_:/.-]+)*\Z")

_NOTHING_ELSE = ("", "")

Value = str | int | bool | Iterable[str] | None
Lookup = Callable[[str], Value]


class TemplateError(ValueError):
    """The template cannot be compiled, or its rendering is too long."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template: literal text and variable names alternate, text first."""

    source: str
    literals: tuple[str, ...]
    variables: tuple[str, ...]

    def render(self, lookup: Lookup) -> str:
        """Render with `lookup(variable)`; None and empty values render as "".

        Raises TemplateError when the result exceeds MAX_RENDERED_BYTES.
        """
        if not self.variables:
            return self.literals[0]
        if self.literals == _NOTHING_ELSE:
            return self._bounded(encode(lookup(self.variables[0])))
        parts = [self.literals[0]]
        for variable, literal in zip(self.variables, self.literals[1:], strict=True):
            parts.append(encode(lookup(variable)))
            parts.append(literal)
        return self._bounded("".join(parts))

    def _bounded(self, rendered: str) -> str:
        if rendered[:1] == " " or rendered[-1:] == " ":
            # HTTP trims a value (RFC 9110 5.5): `alice ` must not arrive as `alice`.
            core = rendered.strip(" ")
            before, _, after = rendered.partition(core) if core else ("", "", "")
            rendered = "%20" * len(before) + core + "%20" * len(after)
        if len(rendered) > MAX_RENDERED_BYTES:
            raise TemplateError(f"`{self.source}` renders to more than {MAX_RENDERED_BYTES} bytes")
        return rendered


def compile_template(source: str, known: Callable[[str], bool], near: Callable[[str], str] = lambda _: "") -> Template:
    """Compile `source`; `known(name)` says whether a variable exists, `near(name)` which one may have been meant.

    Raises TemplateError on an unknown variable, an unclosed `${` or a literal
    byte outside 0x20-0x7e.
    """
    literals: list[str] = []
    variables: list[str] = []
    at = 0
    for found in _VARIABLE.finditer(source):
        literals.append(source[at : found.start()])
        name = found.group(1)
        if not _NAME.match(name) or not known(name):
            raise TemplateError(f"unknown variable `${{{name}}}`{near(name)}")
        variables.append(name)
        at = found.end()
    literals.append(source[at:])
    for literal in literals:
        if "${" in literal:
            raise TemplateError("`${` is not closed by `}`")
        if any(not " " <= c <= "~" for c in literal):
            raise TemplateError("a header value holds printable ASCII only")
    if len(source) > MAX_RENDERED_BYTES:
        raise TemplateError(f"longer than {MAX_RENDERED_BYTES} bytes")
    return Template(source, tuple(literals), tuple(variables))


def encode(value: Value) -> str:
    """Percent-encode `%`, a list item's `,` and every byte outside 0x20-0x7e; join lists by `,` (sets in order)."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if _plain(value) and "%" not in value else _escape(value, "%")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    items = sorted(value) if isinstance(value, (set, frozenset)) else value
    return ",".join(
        [item if _plain(item) and "%" not in item and "," not in item else _escape(item, "%,") for item in items]
    )


def _plain(text: str) -> bool:
    # Of ASCII, exactly 0x20-0x7e is printable.
    return text.isascii() and text.isprintable()


def _escape(text: str, reserved: str) -> str:
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and chr(byte) not in reserved else f"%{byte:02X}"  # noqa: PLR2004
        for byte in text.encode("utf-8", "surrogatepass")
    )


def claim_at(claims: object, path: str) -> object:
    """Return the claim at a dotted path, or None; a key that holds dots itself wins over the path."""
    if isinstance(claims, dict) and path in claims:
        return claims[path]
    value = claims
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return value
