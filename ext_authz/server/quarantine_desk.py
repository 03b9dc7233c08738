"""A quarantine that was asked for over the admin listener, read and bounded.

Law: it says that the admin listener did it, who is quarantined, why, and until when. Non-goal: storing it.
"""

from collections.abc import Mapping
from typing import Final

import orjson
from pydantic_core import PydanticCustomError

from ext_authz.authn.subjects import subject_named
from ext_authz.server.admin_pages import AdminRequest
from ext_authz.settings import parse_duration
from ext_authz.state.changes import Change, Kind

BY: Final = "admin"
MAX_SECONDS: Final = 30 * 86_400
_NAMES: Final = ("subject", "for", "reason", "change")


class BadChangeError(Exception):
    """What was asked for makes no sense; the text says why."""


def change_of(request: AdminRequest, now_ns: int) -> Change:
    """Read `subject`, `for`, `reason` and `change` (`record` or `lift`) of a form or a JSON object.

    Raises BadChangeError.
    """
    given = _given(request)
    kind, subject = given.get("change", "record"), given.get("subject", "").strip()
    if kind not in ("record", "lift"):
        raise BadChangeError("`change` is `record` or `lift`")
    if not subject:
        raise BadChangeError("`subject` is missing")
    ends, reason = None, given.get("reason", "").strip() or ("lifted on the admin listener" if kind == "lift" else "")
    if kind == "record":
        try:
            seconds = parse_duration(given.get("for", "").strip())
        except PydanticCustomError as error:
            raise BadChangeError(f"`for`: {error.message()}") from None
        if not 1 <= seconds <= MAX_SECONDS:
            raise BadChangeError("`for` is from 1s to 30d")
        if not reason:
            raise BadChangeError("`reason` is missing")
        ends = now_ns // 1_000_000_000 + int(seconds)
    try:
        typed = subject_named(subject)
    except ValueError as error:
        raise BadChangeError(f"`{subject}` {error}") from None
    change = Change(
        kind=Kind.QUARANTINE,
        by=BY,
        at_ns=now_ns,
        reason=reason,
        withdraw=kind == "lift",
        subject=typed,
        expires_at=ends,
    )
    problem = change.problem()
    if problem is not None:
        raise BadChangeError(problem)
    return change


def _given(request: AdminRequest) -> Mapping[str, str]:
    if request.form:
        return request.fields()
    try:
        plain = orjson.loads(request.body)
    except ValueError:
        raise BadChangeError("the body is neither a form nor JSON") from None
    if not isinstance(plain, dict) or not all(isinstance(each, str) for each in plain.values()):
        raise BadChangeError("the body is not an object of texts")
    unknown = sorted(plain.keys() - set(_NAMES))
    if unknown:
        raise BadChangeError(f"`{unknown[0]}` is not known")
    return plain
