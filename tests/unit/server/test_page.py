"""The page and the gated paths: everything shown is escaped, every question is on record, every change is meant."""

import base64
import hashlib
import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import orjson
import pytest
from admin_desk import TOKEN, Operators
from running_service import DEPLOYER, SCORER
from sidecar_process import wait_until
from wire_requests import check_request

from ext_authz.audit.event import ALERT
from ext_authz.server import feed, sessions
from ext_authz.server.page import charts, layout
from ext_authz.server.page.facts import LastReload
from ext_authz.server.sessions import Sessions
from ext_authz.state.opening import open_store

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&"
"""What an attacker would have an operator's browser run."""


@pytest.fixture
def serve(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.02)
    running = []

    def start(**options) -> Operators:
        running.append(Operators(tmp_path, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def infer(model="fraud", **options):
    return check_request("POST", f"/v2/models/{model}/infer", **{"principal": SCORER, **options})


def recent(operators, query="", count=1):
    """Return the decisions listed, once there are `count`."""
    found = []

    def come() -> bool:
        found[:] = orjson.loads(operators.ask(f"/decisions?{query}").body)["decisions"]
        return len(found) >= count

    wait_until(come, what="the decisions")
    return found


class Elements(HTMLParser):
    """What a browser would make of a page, as far as it could run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self._script = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._script = tag == "script"
        self.handlers += [name for name, value in attrs if name.startswith("on") or name == "style"]
        self.handlers += [value for _, value in attrs if value and value.strip().lower().startswith("javascript:")]

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script:
            self.scripts.append(data)


def assert_harmless(page: str) -> None:
    seen = Elements(page)
    assert seen.scripts in ([layout.SCRIPT], [])
    assert seen.handlers == []
    assert "img" not in seen.tags


def test_whatever_callers_send_the_page_runs_nothing_but_its_own_script(serve):
    operators = serve()
    for principal in (SCORER, f"spiffe://ml.example/{HOSTILE}", HOSTILE):
        operators.check(
            check_request(
                "POST",
                f"/v2/models/{HOSTILE}/infer",
                principal=principal,
                host=HOSTILE,
                headers={"user-agent": HOSTILE, "x-request-id": HOSTILE, "authorization": f"Bearer {HOSTILE}"},
            )
        )
    operators.check(infer(HOSTILE.replace("/", "")))
    operators.check(infer("secret", headers={"x-request-id": HOSTILE}))
    found = recent(operators, count=5)
    operators.reload = LastReload(1.0, (f"ext-authz.yaml:1:1: {HOSTILE}",))
    operators.sinks["file"] |= {"state": "down", "last_error": HOSTILE}
    operators.not_ready = HOSTILE
    for path in ("/", "/live", f"/?subject={HOSTILE}", *(f"/decision?id={each['event_id']}" for each in found)):
        answer = operators.ask(path.replace("<", "%3C").replace(">", "%3E").replace(" ", "%20"))
        assert answer.status == 200
        assert_harmless(answer.text)
    assert "&lt;script&gt;alert(1)" in operators.ask("/").text


def test_an_alert_is_shown_as_text(serve):
    operators = serve()
    about = {"alert": "a", "status": "firing", "detector": HOSTILE, "severity": "high", "explanation": HOSTILE}
    about |= {"subject": None, "source": HOSTILE, "evidence": [HOSTILE]}
    about |= {"schema": ALERT, "event_id": "control-x:1", "seq": 1, "time": "2026-11-23T10:00:00.000000Z"}
    operators.spool.append(lambda _: orjson.dumps(about))
    wait_until(lambda: orjson.loads(operators.ask("/alerts").body)["alerts"], what="the alert")
    page = operators.ask("/").text
    assert_harmless(page)
    assert "high firing" in page


def test_many_alerts_push_no_graver_one_off_the_page(serve):
    operators = serve()
    about = {"schema": ALERT, "status": "firing", "detector": "credential_stuffing", "evidence": [], "source": "x"}
    for number in range(120):
        severity = "high" if number else "critical"
        made = {"alert": f"a{number}", "severity": severity, "explanation": f"the {severity} one", "seq": number}
        made |= {
            "event_id": f"control-x:{number}",
            "time": f"2026-11-23T10:{number // 60:02d}:{number % 60:02d}.000000Z",
        }
        line = orjson.dumps(about | made)
        operators.spool.append(lambda _, line=line: line)
    wait_until(lambda: len(orjson.loads(operators.ask("/alerts").body)["alerts"]) == 120, what="the alerts")
    page = operators.ask("/").text
    assert "the critical one" in page
    assert page.count("the high one") == 25


def test_the_policy_of_every_page_names_its_script_and_its_style_and_nothing_else(serve):
    operators = serve()
    answer = operators.ask("/")
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for name, text in (("script-src", layout.SCRIPT), ("style-src", layout.STYLE)):
        assert policy[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert f"<script>{layout.SCRIPT}</script>" in answer.text
    assert f"<style>{layout.STYLE}</style>" in answer.text
    assert policy["form-action"] == "'self'"
    assert "frame-ancestors" in policy


def test_the_latest_decisions_come_newest_first_and_filtered(serve):
    operators = serve()
    operators.check(infer())
    operators.check(infer("secret"))
    operators.check(infer("other"))
    operators.check(check_request("GET", "/v2/models/fraud"))
    reasons = [each["reason"] for each in recent(operators, count=4)]
    assert reasons == ["no_credentials", "no_policy", "denied_by_policy", "allowed"]
    for query, wanted in (
        ("reason=no_policy", ["no_policy"]),
        ("decision=allow", ["allowed"]),
        ("policy=no_secret", ["denied_by_policy"]),
        ("subject=SA/SCORER", ["no_policy", "denied_by_policy", "allowed"]),
        ("resource=model/other", ["no_policy"]),
        ("resource=infer&limit=1", ["no_policy"]),
    ):
        assert [each["reason"] for each in recent(operators, query)] == wanted, query
    newest = recent(operators)[0]["event_id"]
    assert orjson.loads(operators.ask(f"/decisions?after={newest}").body)["decisions"] == []
    for query in ("limit=0", "limit=x", "limit=501", "reason=none"):
        assert operators.ask(f"/decisions?{query}").status == 400
    slip = operators.ask("/decisions?decison=deny")
    assert slip.status == 400
    assert orjson.loads(slip.body)["error"]["message"] == "unknown parameter `decison`, did you mean `decision`?"


def test_a_flood_of_strangers_hides_no_denial_of_somebody_known(serve, monkeypatch):
    monkeypatch.setattr(feed, "KEEP", 5)
    operators = serve()
    operators.check(infer("other"))
    for _ in range(50):
        operators.check(check_request("GET", "/v2/models/fraud"))
    found = recent(operators, count=6)
    assert [each["reason"] for each in found] == ["no_credentials"] * 5 + ["no_policy"]


def test_what_is_kept_is_bounded_in_bytes(serve, monkeypatch):
    monkeypatch.setattr(feed, "KEEP_BYTES", 3000)
    operators = serve()
    for _ in range(40):
        operators.check(infer())
    recent(operators)
    assert sum(len(each.line) for each in operators.desk._feed._rings[0].items) <= 3000


def test_top_denials_say_how_often_and_what_would_have_allowed_them(serve):
    operators = serve()
    for _ in range(3):
        operators.check(infer(principal=DEPLOYER))
    operators.check(infer())
    recent(operators, count=4)
    page = operators.ask("/").text
    row = re.search(r'<div id="denials-live".*?</table>', page, re.DOTALL)[0]
    assert '<td class="number">3</td>' in row
    assert "would be allowed with" in row
    assert "model/fraud" in row


def test_a_recorded_decision_is_explained_by_the_policies_in_force(serve):
    operators = serve()
    operators.check(infer(principal=DEPLOYER))
    operators.check(check_request("GET", "/v2/models/fraud"))
    stranger, known = recent(operators, count=2)
    page = operators.ask(f"/decision?id={known['event_id']}").text
    assert "The policies in force now say the same." in page
    assert "It would be allowed</h3>" in page
    assert "<li>with " in page
    assert "scoring" in page
    page = operators.ask(f"/decision?id={stranger['event_id']}").text
    assert "The policies cannot be asked about it" in page
    assert operators.ask("/decision?id=nothing").status == 404


def test_a_decision_leads_to_the_others_like_it(serve):
    operators = serve()
    operators.check(infer(principal=DEPLOYER, headers={"x-request-id": "r-1"}))
    operators.check(infer())
    (denied,) = [each for each in recent(operators, count=2) if each["decision"] == "deny"]
    page = html.unescape(operators.ask(f"/decision?id={denied['event_id']}").text)
    for said in (
        DEPLOYER,
        "POST models.internal /v2/models/fraud/infer",
        denied["decision_id"],
        "r-1",
        "<dd>infer</dd>",
    ):
        assert said in page, said
    links = re.findall(r'href="(/[?][^"#]*)#decisions"', page)
    links += re.findall(r'href="(/[?][^"#]*)#decisions"', html.unescape(operators.ask("/").text))
    assert len(links) >= 4
    for link in links:
        shown = orjson.loads(operators.ask("/decisions" + link.removeprefix("/")).body)["decisions"]
        assert denied["event_id"] in {each["event_id"] for each in shown}, link


def test_policies_that_never_matched_stand_first(serve):
    operators = serve()
    operators.check(infer())
    loaded = orjson.loads(operators.ask("/policies").body)
    assert {each["id"]: each["hits"] for each in loaded["policies"]} == {
        "scoring": 1,
        "deploying": 0,
        "no_secret_model": 0,
    }
    assert loaded["revision"] == operators.inputs.revision
    assert all(re.fullmatch(r"[0-9a-f]+", each["digest"]) for each in loaded["policies"])
    table = re.search(r'<div id="policies-live".*?</table>', operators.ask("/").text, re.DOTALL)[0]
    assert table.index("deploying") < table.index("scoring")
    assert table.count("never</span>") == 2


def test_what_is_wrong_stands_on_top_in_words(serve):
    operators = serve()
    assert 'role="alert"' not in operators.ask("/").text
    operators.not_ready = "0 of 1 workers serve revision x"
    operators.reload = LastReload(1.0, ("policies.yaml:3:1: `efect` is not known",))
    operators.sinks["file"] |= {"state": "held", "last_error": "HTTP 401"}
    page = operators.ask("/").text
    for said in ("Not ready: 0 of 1 workers", "The last reload failed", "The sink file is held: HTTP 401", "`efect`"):
        assert said in page, said


REQUEST = {
    "attributes": {
        "source": {"principal": SCORER, "address": {"socketAddress": {"address": "10.1.2.3", "portValue": 4}}},
        "request": {"http": {"method": "GET", "host": "models.internal", "path": "/v2/models/fraud", "headers": {}}},
    }
}


def test_explain_answers_as_the_command_does_and_is_on_record(serve):
    operators = serve()
    answer = operators.ask("/explain", "POST", orjson.dumps(REQUEST))
    explained = orjson.loads(answer.body)
    assert (answer.status, explained["decision"], explained["policy_id"]) == (200, "allow", "scoring")
    (event,) = [each for each in operators.events() if each.get("event") == "explain"]
    assert event["details"]["by"] == "admin"
    assert event["details"]["subject"] == SCORER
    assert event["details"]["decision"] == "allow"
    assert event["details"]["request"]["path"] == "/v2/models/fraud"


def test_an_explain_that_cannot_be_read_is_on_record_too(serve):
    operators = serve()
    assert operators.ask("/explain", "POST", b"\xff{").status == 400
    assert operators.ask("/explain", "POST", b"[]").status == 400
    events = [each for each in operators.events() if each.get("event") == "explain"]
    assert [each["result"] for each in events] == ["failed", "failed"]


def test_an_explain_that_fails_inside_is_on_record_too(serve, monkeypatch):
    operators = serve()
    monkeypatch.setattr("ext_authz.server.desk.explain_request", lambda *_: 1 / 0)
    assert operators.ask("/explain", "POST", orjson.dumps(REQUEST)).status == 500
    events = [each for each in operators.events() if each.get("event") == "explain"]
    assert [each["result"] for each in events] == ["failed"]


def test_the_overview_seeks_no_advice_for_requests_of_very_many_accesses(serve, monkeypatch):
    operators = serve()
    operators.check(infer(principal=DEPLOYER))
    (event,) = recent(operators, count=1)
    asked = []
    monkeypatch.setattr(operators.desk, "_recorded", lambda event_id: (asked.append(event_id), (None, ""))[1])
    assert operators.desk._advised(event["event_id"]) == ()
    assert asked == [event["event_id"]]
    many = replace(operators.desk._feed.find(event["event_id"]), line=orjson.dumps({"accesses": [{}] * 1000}))
    monkeypatch.setattr(operators.desk._feed, "find", lambda _: many)
    assert operators.desk._advised("another") == ()
    assert asked == [event["event_id"]]


def test_no_explain_without_a_record(serve):
    operators = serve()
    operators.spool.close()
    answer = operators.ask("/explain", "POST", orjson.dumps(REQUEST))
    assert answer.status == 503
    assert b"allow" not in answer.body
    assert operators.ask("/explain", "POST", b"[]").status == 503


def test_the_form_explains_what_was_typed_and_shows_no_credential_again(serve):
    operators = serve()
    form = {
        "method": "POST",
        "host": "models.internal",
        "path": "/v2/models/fraud/infer",
        "principal": SCORER,
        "source": "10.1.2.3",
        "headers": "content-type: application/json\r\nx-api-key: topsecretvalue",
        "body": '{"inputs": []}',
    }
    answer = operators.ask("/explain", "POST", form=form)
    assert answer.status == 200
    assert "topsecretvalue" not in answer.text
    assert "invalid_api_key" in answer.text
    allowed = operators.ask("/explain", "POST", form=form | {"headers": "content-type: application/json"})
    assert "allowed" in allowed.text
    assert operators.ask("/explain", "POST", form={"host": "x"}).status == 400
    assert not any("topsecretvalue" in str(each) for each in operators.events())


def test_a_browser_shows_the_token_once_and_gets_a_cookie_that_is_not_the_token(serve):
    operators = serve()
    assert operators.ask("/", token=None).status == 401
    assert 'type="password"' in operators.ask("/", token=None).text
    answer = operators.login()
    cookie = answer.headers["set-cookie"]
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    shown = {"cookie": cookie.partition(";")[0]}
    page = operators.ask("/", token=None, headers=shown)
    assert page.status == 200
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    assert operators.ask("/logout", "POST", form={"csrf": csrf}, token=None, headers=shown).status == 303
    assert operators.ask("/", token=None, headers=shown).status == 401
    logins = [each["result"] for each in operators.events() if each.get("event") == "admin_login"]
    assert logins == ["ok"]


def test_another_page_on_this_machine_can_do_nothing_with_the_cookie(serve):
    operators = serve(allow_changes=True)
    shown = operators.cookie()
    csrf = re.search(r'name="csrf" value="([^"]+)"', operators.ask("/", token=None, headers=shown).text)[1]
    form = {"subject": "sub:alice", "for": "10m", "reason": "x", "change": "record"}
    here = {**shown, "origin": f"http://{operators.server.address}"}
    for headers, sent in (
        (here, form),
        (here, form | {"csrf": csrf + "x"}),
        ({**shown, "origin": "http://127.0.0.1:1"}, form | {"csrf": csrf}),
        ({**shown, "origin": "null"}, form | {"csrf": csrf}),
    ):
        assert operators.ask("/quarantines", "POST", form=sent, token=None, headers=headers).status == 403
    foreign = {**shown, "sec-fetch-site": "same-site"}
    assert operators.ask("/decisions", token=None, headers=foreign).status == 401
    assert operators.ask("/explain", "POST", b"{}", token=None, headers=here).status == 403
    assert not orjson.loads(operators.ask("/quarantines").body)["quarantines"]
    assert operators.login(origin="http://evil.example").status == 403


def test_a_quarantine_is_recorded_and_lifted_by_admin_where_that_is_allowed(serve):
    operators = serve(allow_changes=True)
    shown = operators.cookie()
    csrf = re.search(r'name="csrf" value="([^"]+)"', operators.ask("/", token=None, headers=shown).text)[1]
    form = {"csrf": csrf, "subject": "alice", "for": "10m", "reason": "odd", "change": "record"}
    assert operators.ask("/quarantines", "POST", form=form, token=None, headers=shown).status == 303
    (held,) = orjson.loads(operators.ask("/quarantines").body)["quarantines"]
    assert (held["subject"], held["by"], held["reason"]) == ("sub:alice", "admin", "odd")
    assert "sub:alice" in operators.ask("/").text
    lift = orjson.dumps({"subject": "sub:alice", "change": "lift"})
    assert operators.ask("/quarantines", "POST", lift).status == 200
    assert not orjson.loads(operators.ask("/quarantines").body)["quarantines"]
    settings = operators.inputs.settings
    store = open_store(settings.state, settings.run_dir)
    operators.recorder.changes(store)
    store.close()
    changes = [each for each in operators.events() if each["schema"] == "ext_authz.state/1"]
    assert [(each["event"], each["record"]["by"]) for each in changes] == [
        ("quarantine_recorded", "admin"),
        ("quarantine_withdrawn", "admin"),
    ]


def test_without_leave_nothing_can_be_changed(serve):
    operators = serve()
    body = orjson.dumps({"subject": "alice", "for": "10m", "reason": "odd"})
    assert operators.ask("/quarantines", "POST", body).status == 403
    assert 'action="/quarantines"' not in operators.ask("/").text


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "", "for": "10m", "reason": "x"},
        {"subject": "alice", "for": "10m", "reason": ""},
        {"subject": "alice", "for": "1", "reason": "x"},
        {"subject": "alice", "for": "31d", "reason": "x"},
        {"subject": "alice", "for": "10m", "reason": "x", "change": "delete"},
        {"subject": "al\u202eice", "for": "10m", "reason": "x"},
        {"subject": "alice", "for": "10m", "reason": "x", "extra": "y"},
        {"subject": 1},
        [],
    ],
)
def test_a_quarantine_that_makes_no_sense_is_refused(serve, change):
    operators = serve(allow_changes=True)
    assert operators.ask("/quarantines", "POST", orjson.dumps(change)).status == 400


def test_wrong_tokens_are_told_of_only_so_often_and_lock_nobody_out():
    now = [0.0]
    made = Sessions(lambda: TOKEN, clock=lambda: now[0])
    assert [made.login("wrong") for _ in range(sessions.FAILURES)] == [""] * sessions.FAILURES
    assert made.login("wrong") is None
    assert made.login(TOKEN), "whoever has it gets in, however many others guess"
    now[0] += sessions.FAILURE_SECONDS
    assert made.login("wrong") == ""
    assert made.login("wrong") is None
    assert made.login(TOKEN)


def test_a_session_ends_with_idleness_with_its_time_and_with_the_token():
    now, token = [0.0], [TOKEN]
    made = Sessions(lambda: token[0], clock=lambda: now[0])
    cookie = made.login(TOKEN)
    now[0] = sessions.IDLE_SECONDS - 1
    assert made.find(cookie)
    now[0] += sessions.IDLE_SECONDS
    assert made.find(cookie) is None
    cookie = made.login(TOKEN)
    started = now[0]
    while now[0] < started + sessions.LIFETIME_SECONDS - 1800:
        now[0] += 1800
        assert made.find(cookie)
    now[0] += 1800
    assert made.find(cookie) is None
    cookie = made.login(TOKEN)
    token[0] = TOKEN + "2"
    assert made.find(cookie) is None
    assert made.find("") is None


def test_sessions_are_bounded():
    made = Sessions(lambda: TOKEN, clock=lambda: 0.0)
    for _ in range(sessions.MAX_SESSIONS * 2):
        assert made.login(TOKEN)
    assert len(made._sessions) == sessions.MAX_SESSIONS


@pytest.mark.parametrize(
    ("values", "axis"),
    [([0.0, 0.0], "1/s"), ([None, None], "1/s"), ([], "1/s"), ([0.003, 0.0], "0.005/s"), ([1700.0], "2,000/s")],
)
def test_a_chart_has_an_axis_that_people_read_also_where_nothing_happened(values, axis):
    drawn = str(charts.chart("Checks", [charts.Line("allowed", "a", values)], unit="/s", span="1 min ago"))
    assert f">{axis}</text>" in drawn


def test_a_chart_s_elements_do_not_nest(serve):
    operators = serve()
    operators.desk._sampler.stop()
    for at in range(4):
        operators.desk._sampler._clock = lambda at=at: 1000.0 + at
        operators.desk._sampler.look()
        operators.check(infer())
    page = operators.ask("/").text
    assert page.count("<polyline") == page.count("</polyline>") == 5
    assert page.count("<line") == page.count("</line>") == 6


def test_nothing_is_read_or_kept_while_nobody_looks(serve, monkeypatch):
    operators = serve()
    operators.check(infer())
    recent(operators)
    kept = operators.desk._feed
    monkeypatch.setattr(feed, "IDLE_SECONDS", -1.0)
    wait_until(lambda: kept._trail is None and not any(ring.items for ring in kept._rings), what="rest")
    operators.check(infer("other"))
    assert not kept._wanted.wait(0.1), "the thread sleeps until somebody looks"
    monkeypatch.setattr(feed, "IDLE_SECONDS", 300.0)
    assert [each["reason"] for each in recent(operators, count=2)] == ["no_policy", "allowed"]
