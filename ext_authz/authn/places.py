"""Where a token stands besides `authorization: Bearer`: a header, a cookie or a query parameter of its own.

Law: one place an issuer; what is read is told apart from everything else in its place, and two of one name are
ambiguous. Non-goal: verifying, and stripping (headers.py takes all of them away).
"""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, model_validator

from ext_authz.headers import COOKIE, cookies
from ext_authz.model import Reason, Refusal, RequestFacts
from ext_authz.query_tokens import occurrences
from ext_authz.settings import Settings, mistake, shown

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_|~-]{1,128}\Z")
_TAKEN = frozenset({"authorization", "proxy-authorization", "host", COOKIE, "connection", "content-length", "te"})
_TAKEN_PREFIXES = (":", "x-envoy-", "x-forwarded-", "x-authz-", "x-request-id", "content-", "transfer-", "grpc-")
# RFC 6265 4.1.1: a cookie's name is a token.
_COOKIE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")

# RFC 3986 2.3 without `~`: one spelling, and Envoy strips it as it stands.
_PARAMETER = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")

AUTHORIZATION: Final = "authorization"


def parse_credential_header(value: object) -> str:
    """Return the header name in lower case; one that has another meaning is a mistake."""
    name = value.lower() if isinstance(value, str) else ""
    if not _HEADER.match(name):
        raise mistake(f"{shown(value)} is not a header name")
    if name in _TAKEN or name.startswith(_TAKEN_PREFIXES):
        hint = "; `Bearer` is read there anyway" if name == AUTHORIZATION else ""
        raise mistake(f"`{name}` has another meaning and cannot carry a credential{hint}")
    return name


def _cookie(value: object) -> str:
    if not isinstance(value, str) or not _COOKIE.match(value):
        raise mistake(f"{shown(value)} is not the name of a cookie")
    return value


def _parameter(value: object) -> str:
    if not isinstance(value, str) or not _PARAMETER.match(value):
        raise mistake(f"{shown(value)} is not the name of a query parameter: letters, digits, `.`, `_` and `-`")
    return value


class TokenPlace(Settings):
    """A place of its own for an issuer's tokens; nothing but the token stands there."""

    header: Annotated[str, BeforeValidator(parse_credential_header)] | None = None
    """Request header whose whole value is the token."""
    cookie: Annotated[str, BeforeValidator(_cookie)] | None = None
    """Cookie whose whole value is the token."""
    query: Annotated[str, BeforeValidator(_parameter)] | None = None
    """Query parameter whose value is the token."""

    @model_validator(mode="after")
    def _one(self) -> "TokenPlace":
        if sum(place is not None for place in (self.header, self.cookie, self.query)) != 1:
            raise mistake("exactly one of `header`, `cookie` and `query` is needed")
        return self

    @property
    def header_name(self) -> str | None:
        """The request header that is read; None where the token stands in the query."""
        return self.header or (COOKIE if self.query is None else None)

    def read(self, facts: RequestFacts) -> str | Refusal | None:
        """Return the token in this place, or None where there is none."""
        if self.query is not None:
            return _in_query(facts.path, self.query)
        lines = facts.headers.get(self.header or COOKIE)
        if lines is None:
            return None
        found = list(lines) if self.cookie is None else [value for name, value in cookies(lines) if name == self.cookie]
        if len(found) > 1 or (self.cookie is None and "," in found[0]):
            return Refusal(Reason.AMBIGUOUS_CREDENTIALS, "more than one token in its place")
        return found[0].strip(" \t") if found else None


def _in_query(path: str, name: str) -> str | Refusal | None:
    found = occurrences(path, name)
    if not found:
        return None
    if len(found) > 1 or found[0].value is None:
        return Refusal(Reason.AMBIGUOUS_CREDENTIALS, "more than one token in its place, or in another spelling")
    return found[0].value
