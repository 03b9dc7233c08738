"""What the admin listener's gated paths answer: JSON for programs, the page for people.

Law: reads what others have (trail, counters, store, inputs) and changes nothing, but quarantines where
`admin.allow_changes` says so; every question and every change is on record before it is answered.
Non-goal: who may ask (admin.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz import config, wiring
from ext_authz.audit.spool import AuditUnavailable
from ext_authz.check import Snapshot
from ext_authz.config import Inputs
from ext_authz.config.masked import masked
from ext_authz.documents import DocumentError, Mark, did_you_mean, printable
from ext_authz.model import Reason
from ext_authz.request import from_json
from ext_authz.server.admin_pages import AdminReply, AdminRequest, Handler
from ext_authz.server.feed import Feed, Filter
from ext_authz.server.metrics import POLICY_DECISIONS
from ext_authz.server.metrics import Snapshot as Counted
from ext_authz.server.page.explained import explained_page, message_page, recorded_page, refused_page
from ext_authz.server.page.facts import LastReload, Overview
from ext_authz.server.page.html import Markup
from ext_authz.server.page.layout import POLICY, document, login_page
from ext_authz.server.page.view import overview
from ext_authz.server.quarantine_desk import BadChangeError, change_of
from ext_authz.server.sampler import Sampler, hits
from ext_authz.server.typed_request import check_request
from ext_authz.state import StoreError
from ext_authz.state.book import read_book
from ext_authz.state.changes import Change, Kind
from ext_authz.state.opening import open_store
from ext_authz.tools.explain import explain_recorded, explain_request
from ext_authz.tools.recorded_query import UnfaithfulError

SHOWN: Final = 60
MAX_SHOWN: Final = 500
DENIALS: Final = 15
ADVISED: Final = 5
"""Denials of which the overview says what would have allowed them."""
ADVISED_ACCESSES: Final = 16
"""Of requests for more at once only their own page says so: what would allow a thousand takes long to find."""
_MAX_ADVICE: Final = 256
_JSON: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the desk asks. `record(what, result, about)` puts an event on record; raises AuditUnavailable."""

    inputs: Callable[[], Inputs]
    ready: Callable[[], str]
    reload: Callable[[], LastReload]
    counted: Callable[[], Sequence[Counted]]
    sinks: Callable[[], Mapping[str, Mapping[str, int | float | str]]]
    spool_bytes: Callable[[], int]
    record: Callable[[str, str, Mapping[str, Any]], None]


class Desk:
    """Used by every thread of the listener."""

    def __init__(self, sources: Sources, feed: Feed, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._sources = sources
        self._feed = feed
        self._sampler = Sampler(sources.counted)
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._advice: dict[tuple[str, str], tuple[str, ...]] = {}

    def start(self) -> None:
        """Begin to keep what is shown."""
        self._feed.start()
        self._sampler.start()

    def stop(self) -> None:
        """End the threads."""
        self._feed.stop()
        self._sampler.stop()

    def gated(self) -> dict[tuple[str, str], Handler]:
        """Return the handlers, by method and path."""
        return {
            ("GET", "/"): self._overview,
            ("GET", "/live"): self._live,
            ("GET", "/decision"): self._decision,
            ("GET", "/decisions"): self._decisions,
            ("GET", "/alerts"): lambda _: _json({"alerts": self._feed.alerts()}),
            ("GET", "/config"): self._config,
            ("GET", "/policies"): self._policies,
            ("GET", "/quarantines"): lambda _: _json({"quarantines": self._quarantines()}),
            ("POST", "/quarantines"): self._change,
            ("POST", "/explain"): self._explain,
        }

    @staticmethod
    def login(status: int) -> AdminReply:
        """Return the page that asks for the token."""
        return _html(login_page(status), status)

    def tried(self, right: bool) -> None:  # noqa: FBT001  the listener's callback has one argument
        """Put on record that somebody typed a token."""
        try:
            self._sources.record("admin_login", "ok" if right else "failed", {})
        except AuditUnavailable:
            return  # whoever has to find out why may need this page

    def snapshot(self) -> Snapshot:
        """Return what the workers decide with, made once for each revision. Raises DocumentError."""
        inputs = self._sources.inputs()
        with self._lock:
            if self._snapshot is None or self._snapshot.revision != inputs.revision:
                self._snapshot = wiring.build(inputs)
            return wiring.with_keys(self._snapshot, config.kept_keys(inputs.settings.run_dir))

    def _overview(self, request: AdminRequest) -> AdminReply:
        refresh = 10 if request.asked("refresh") == "10" else 0
        return _html(document("ext-authz", overview(self._facts(request)), refresh=refresh))

    def _live(self, request: AdminRequest) -> AdminReply:
        return _html(overview(self._facts(request)).encode("utf-8", "backslashreplace"))

    def _facts(self, request: AdminRequest) -> Overview:
        sources, inputs = self._sources, self._sources.inputs()
        denials = self._feed.denials(DENIALS)
        wanted = _wanted(request)
        problems = [f"The trail cannot be read here: {self._feed.problem}"] if self._feed.problem else []
        try:
            quarantines = self._quarantines()
        except (StoreError, OSError) as error:
            quarantines = []
            problems.append(f"The state store cannot be read: {error}")
        return Overview(
            now=self._clock_ns() / 1e9,
            revision=inputs.revision,
            not_ready=sources.ready(),
            reload=sources.reload(),
            points=self._sampler.points(),
            sinks=sources.sinks(),
            spool_bytes=sources.spool_bytes(),
            wanted=wanted,
            decisions=self._feed.recent(wanted, SHOWN),
            denials=denials,
            advice={each.last.event_id: self._advised(each.last.event_id) for each in denials[:ADVISED]},
            alerts=self._feed.alerts(),
            quarantines=quarantines,
            policies=self._loaded(),
            csrf=request.csrf,
            changes=inputs.settings.admin.allow_changes,
            problems=problems,
            browser=bool(request.csrf),
        )

    def _advised(self, event_id: str) -> tuple[str, ...]:
        key = (event_id, self._sources.inputs().revision)
        known = self._advice.get(key)
        if known is None:
            seen = self._feed.find(event_id)
            accesses = seen.event.get("accesses") if seen is not None else None
            many = isinstance(accesses, list) and len(accesses) > ADVISED_ACCESSES
            explained, _ = (None, "") if many else self._recorded(event_id)
            known = tuple(explained["would_allow_if"][:2]) if explained else ()
            if len(self._advice) >= _MAX_ADVICE:
                self._advice.clear()
            self._advice[key] = known
        return known

    def _recorded(self, event_id: str) -> tuple[dict[str, Any] | None, str]:
        """Return what the policies make of a recorded decision now, or why that cannot be said."""
        seen = self._feed.find(event_id)
        if seen is None:
            return None, "it is not among the latest"
        try:
            return explain_recorded(seen.event, self.snapshot()), ""
        except UnfaithfulError as error:
            return None, error.detail if error.kind == "incomplete" else str(error)
        except DocumentError as error:
            return None, str(error)

    def _decision(self, request: AdminRequest) -> AdminReply:
        seen = self._feed.find(request.asked("id"))
        if seen is None:
            text = "It is not among the latest decisions; `ext-authz audit cat` has all that the trail holds."
            return _html(document("ext-authz", message_page("A decision on record", text)), 404)
        return _html(document("ext-authz", recorded_page(seen, *self._recorded(seen.event_id))))

    def _decisions(self, request: AdminRequest) -> AdminReply:
        known = (*asdict(Filter()), "limit", "after")
        odd = next((name for name in request.asks() if name not in known), None)
        if odd is not None:
            # A slip of the pen would otherwise be answered with everything.
            return _problem(400, printable(f"unknown parameter `{odd[:64]}`{did_you_mean(odd[:64], known)}"))
        limit = request.asked("limit") or "100"
        reason = request.asked("reason")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_SHOWN):
            return _problem(400, f"`limit` is from 1 to {MAX_SHOWN}")
        if reason and reason not in {each.value for each in Reason}:
            return _problem(400, "`reason` is none of the reasons")
        found = self._feed.recent(_wanted(request), int(limit))
        after = request.asked("after")
        events = []
        for each in found:
            if each.event_id == after:
                break
            events.append(each.event)
        return _json({"decisions": events, "problem": self._feed.problem})

    def _config(self, _: AdminRequest) -> AdminReply:
        inputs = self._sources.inputs()
        return _json({"revision": inputs.revision, "file": inputs.file, "configuration": masked(inputs)})

    def _policies(self, _: AdminRequest) -> AdminReply:
        return _json({"revision": self._sources.inputs().revision, "policies": self._loaded()})

    def _loaded(self) -> list[dict[str, Any]]:
        """Return every loaded policy with how often it matched."""
        counted: dict[str, float] = {}
        for (policy, *_), count in hits(self._sources.counted(), POLICY_DECISIONS).items():
            counted[policy] = counted.get(policy, 0) + count
        try:
            policies = self.snapshot().policies.policies
        except DocumentError:
            return []
        return [
            {
                "id": each.id,
                "digest": each.digest,
                "effect": each.effect.value,
                "mode": each.source.mode.value,
                "description": each.source.description,
                "hits": counted.get(each.id, 0),
                "place": _place(each.source.mark),
            }
            for each in policies
        ]

    def _quarantines(self) -> list[dict[str, Any]]:
        """Return the quarantines that hold. Raises StoreError."""
        settings = self._sources.inputs().settings
        store = open_store(settings.state, settings.run_dir)
        try:
            active = read_book(store).active(self._clock_ns())
        finally:
            store.close()
        return [
            {"subject": each.subject, "expires_at": each.expires_at, "by": each.by, "reason": each.reason}
            for each in active
            if each.kind is Kind.QUARANTINE
        ]

    def _change(self, request: AdminRequest) -> AdminReply:
        settings = self._sources.inputs().settings
        if not settings.admin.allow_changes:
            return _problem(403, "read-only: `admin.allow_changes` is not set")
        try:
            change = change_of(request, self._clock_ns())
        except BadChangeError as error:
            return self._said(request, 400, "Quarantines", str(error))
        try:
            made = self._append(change)
        except StoreError as error:
            return self._said(request, 503, "Quarantines", f"not recorded: {error}")
        if request.form:
            return AdminReply(b"", 303, headers=(("location", "/#quarantines"),))
        return _json({"change": made.id, "subject": made.subject, "withdrawn": made.withdraw})

    def _append(self, change: Change) -> Change:
        settings = self._sources.inputs().settings
        store = open_store(settings.state, settings.run_dir)
        try:
            return store.append(change)
        finally:
            store.close()

    def _explain(self, request: AdminRequest) -> AdminReply:
        typed = request.fields() if request.form else {}
        try:
            data = check_request(typed) if request.form else from_json(request.body.decode())
        except ValueError as error:  # UnicodeDecodeError too
            try:
                self._sources.record("explain", "failed", {"by": "admin"})
            except AuditUnavailable as missing:
                return self._said(request, 503, "Explain this request", str(missing))
            if request.form:
                return _html(document("ext-authz", refused_page(str(error), csrf=request.csrf, typed=typed)), 400)
            return _problem(400, str(error))
        now_ns = self._clock_ns()
        try:
            explained = explain_request(data, self.snapshot(), self._state(now_ns), now_ns)
            self._sources.record("explain", "ok", _asked_about(explained))
        except (StoreError, DocumentError, AuditUnavailable) as error:
            self._failed_to_explain()
            return self._said(request, 503, "Explain this request", str(error))
        except Exception:
            self._failed_to_explain()
            raise
        if not request.form:
            return _json(explained)
        return _html(document("ext-authz", explained_page(explained, csrf=request.csrf, typed=typed)))

    def _failed_to_explain(self) -> None:
        """Put on record that somebody asked and got no answer: a fault that asking provokes tells something too."""
        with contextlib.suppress(AuditUnavailable):
            self._sources.record("explain", "failed", {"by": "admin"})

    def _state(self, now_ns: int) -> Any:  # noqa: ANN401  state.State
        settings = self._sources.inputs().settings
        store = open_store(settings.state, settings.run_dir)
        try:
            return read_book(store).state(now_ns, None)
        finally:
            store.close()

    @staticmethod
    def _said(request: AdminRequest, status: int, title: str, text: str) -> AdminReply:
        return (
            _html(document("ext-authz", message_page(title, text)), status) if request.form else _problem(status, text)
        )


def _asked_about(explained: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the event of an `/explain` says: who was asked about and what the answer was."""
    subject, context = explained.get("subject") or {}, explained.get("context") or {}
    return {
        "by": "admin",
        "decision": explained["decision"],
        "reason": explained["reason"],
        "policy_id": explained["policy_id"],
        "subject": subject.get("id", ""),
        "resource": explained.get("resource"),
        "action": explained.get("action"),
        "request": {name: context.get(name, "") for name in ("method", "host", "path")},
    }


def _place(mark: Mark | None) -> str:
    return "" if mark is None else f"{Path(mark.file).name}:{mark.line}"


def _wanted(request: AdminRequest) -> Filter:
    return Filter(**{name: request.asked(name)[:256] for name in asdict(Filter())})


def _json(plain: Any, status: int = 200) -> AdminReply:  # noqa: ANN401
    return AdminReply(orjson.dumps(plain, option=_JSON), status)


def _problem(status: int, message: str) -> AdminReply:
    return _json({"error": {"code": status, "message": message}}, status)


def _html(page: bytes | Markup, status: int = 200) -> AdminReply:
    body = page if isinstance(page, bytes) else page.encode()
    return AdminReply(body, status, "text/html; charset=utf-8", (("content-security-policy", POLICY),))
