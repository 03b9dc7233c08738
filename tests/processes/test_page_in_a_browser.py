"""The page as a real Chromium has it, over a real sidecar. Skipped where no Chromium can be had (`make test-browser`)."""

import contextlib
import os
import urllib.request
from pathlib import Path

import pytest
from chromium import Browser, start
from running_service import CONFIGURATION, DEPLOYER, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request

from ext_authz.demo.pki import Authority

TOKEN = "correct-horse-battery-staple-and-more"
SCREENSHOTS = bool(os.environ.get("EXT_AUTHZ_SCREENSHOTS"))
IMAGES = Path(__file__).parents[2] / "docs/images"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("EXT_AUTHZ_BROWSER"),
        reason="`make test-browser` runs these, in a real Chromium that it fetches where there is none",
    ),
]


@contextlib.contextmanager
def started(folder, tls=""):
    (folder / "admin.token").write_text(TOKEN + "\n")
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += f"server: {{listen: ['unix:{folder}/{{worker}}.sock'], trusted_proxies: [192.0.2.0/24]}}\n"
    text += f"admin: {{listen: '127.0.0.1:0', token_file: admin.token, allow_changes: true{tls}}}\n"
    text += "audit: {sinks: [{type: file, path: events.jsonl}]}\n"
    running = Sidecar(write_configuration(folder, configuration=text)).ready()
    running.address = next(line.split()[2] for line in running.lines if "(admin)" in line)
    running.url = f"{'https' if tls else 'http'}://{running.address}"
    running.socket = f"unix:{folder}/0.sock"
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory):
    with started(tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture
def browse():
    opened = []

    def opening(**options) -> Browser:
        opened.append(start(**options))
        return opened[-1]

    yield opening
    for each in opened:
        each.close()


def sign_in(browser: Browser, sidecar: Sidecar) -> None:
    browser.open(sidecar.url)
    browser.wait("document.activeElement && document.activeElement.name === 'token'")  # nobody has to click
    browser.type(TOKEN)
    browser.loads(lambda: browser.key("Enter"))
    assert all("401" in each for each in browser.complaints), "the page that asks for the token is a 401"
    browser.complaints.clear()


def traffic(sidecar, times=3):
    for _ in range(times):
        for model, principal in (
            ("fraud", SCORER),
            ("fraud", SCORER),
            ("other", SCORER),
            ("fraud", DEPLOYER),
            ("secret", SCORER),
        ):
            message = check_request("POST", f"/v2/models/{model}/infer", principal=principal)
            sidecar.check(message, sidecar.socket)
        sidecar.check(check_request("GET", f"/v2/models/{HOSTILE}", headers={"user-agent": HOSTILE}), sidecar.socket)
        hostile = check_request("POST", "/v2/models/fraud/infer", principal=SCORER, headers={"x-request-id": HOSTILE})
        sidecar.check(hostile, sidecar.socket)


def test_an_operator_signs_in_and_sees_what_happens_as_it_happens(sidecar, browse):
    browser = browse()
    traffic(sidecar)
    sign_in(browser, sidecar)
    browser.wait("document.querySelectorAll('#decisions-rows tr[data-id]').length >= 10")
    before = browser.run("document.querySelector('#decisions-rows tr[data-id]').dataset.id")
    sidecar.check(check_request("POST", "/v2/models/fraud/infer", principal=SCORER), sidecar.socket)
    browser.wait(f"document.querySelector('#decisions-rows tr[data-id]').dataset.id !== {before!r}")
    browser.wait("document.getElementById('live').textContent === 'live'")
    assert browser.complaints == [], "a refused script, style or load, or a failure of ours"
    assert all(url.startswith((sidecar.url, "data:", "about:")) for url in browser.requests)
    assert TOKEN not in browser.run("document.cookie + document.documentElement.outerHTML")


def test_nothing_that_callers_sent_runs(sidecar, browse):
    browser = browse()
    traffic(sidecar, 1)
    sign_in(browser, sidecar)
    browser.open(f"{sidecar.url}/?reason=ambiguous_path&subject=%3Cscript%3Ealert(3)%3C/script%3E")
    browser.open(f"{sidecar.url}/?decision=deny")
    browser.wait("document.querySelectorAll('#decisions-rows tr[data-id]').length >= 3")
    for link in browser.run("[...document.querySelectorAll('#decisions-rows a')].slice(0, 3).map(each => each.href)"):
        browser.open(link)
        assert browser.run("document.querySelector('h2').textContent") == "A decision on record"
    browser.open(sidecar.url)
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.scripts.length") == 1
    assert browser.complaints == []


def test_a_keyboard_is_enough(sidecar, browse):
    browser = browse()
    traffic(sidecar, 1)
    sign_in(browser, sidecar)
    browser.key("/")
    assert browser.run("document.activeElement.name") == "policy"
    browser.type("no_secret_model")
    browser.loads(lambda: browser.key("Enter"))
    assert "policy=no_secret_model" in browser.run("location.search")
    rows = "[...document.querySelectorAll('#decisions-rows tr[data-id]')]"
    browser.wait(f"{rows}.length > 0 && {rows}.every(row => row.textContent.includes('no_secret_model'))")
    browser.key("p")
    assert browser.run("document.getElementById('live').textContent") == "paused"
    browser.key("6")
    assert browser.run("location.hash") == "#policies"


def test_a_quarantine_is_recorded_and_lifted_with_the_forms(sidecar, browse):
    browser = browse()
    sign_in(browser, sidecar)
    fill = "document.querySelector('#quarantines form.row').elements"
    browser.run(f"{fill}.subject.value = {DEPLOYER!r}; {fill}.reason.value = 'odd'")
    browser.loads(lambda: browser.run(f"{fill}.change.click()"))
    browser.wait(f"document.getElementById('quarantines-live').textContent.includes({DEPLOYER!r})")
    load = check_request("POST", "/v2/models/fraud/infer", principal=DEPLOYER)
    wait_until(lambda: sidecar.check(load, sidecar.socket).reason == "quarantined", what="the quarantine")
    browser.loads(lambda: browser.run("document.querySelector('#quarantines-live button').click()"))
    browser.wait("document.getElementById('quarantines-live').textContent.includes('Nobody')")
    wait_until(lambda: sidecar.check(load, sidecar.socket).reason != "quarantined", what="its end")

    def changes():
        return [each["record"]["by"] for each in sidecar.events() if each["schema"] == "ext_authz.state/1"]

    wait_until(lambda: len(changes()) >= 2, what="both changes in the trail")
    assert changes() == ["admin", "admin"]
    assert browser.complaints == []


def test_without_javascript_the_essentials_are_there(sidecar, browse):
    browser = browse(script=False)
    traffic(sidecar, 1)
    sign_in(browser, sidecar)
    browser.wait("document.title === 'ext-authz' && document.querySelectorAll('#decisions-rows tr').length > 1")
    assert browser.run("document.getElementById('pause').hidden"), "what needs the script is not shown"
    with_token = urllib.request.Request(f"{sidecar.url}/", headers={"authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(with_token, timeout=10) as answer:
        page = answer.read().decode()
    for said in ("Decisions", "no_policy", "Top denials", "<polyline", "scoring", "ready"):
        assert said in page, said
    assert browser.complaints == []


def test_over_tls_a_browser_signs_in_stays_signed_in_and_may_change_things(tmp_path, browse):
    Authority(tmp_path / "pki").server("admin")
    with started(tmp_path, ", tls: {certificate: pki/admin.pem, private_key: pki/admin.key}") as sidecar:
        browser = browse(any_certificate=True)
        sign_in(browser, sidecar)
        (cookie,) = browser.send("Network.getCookies", urls=[sidecar.url])["cookies"]
        assert cookie["name"].startswith("__Host-")
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        sidecar.check(check_request("POST", "/v2/models/fraud/infer", principal=SCORER), sidecar.socket)
        browser.wait("document.querySelectorAll('#decisions-rows tr[data-id]').length === 1")
        fill = "document.querySelector('#quarantines form.row').elements"
        browser.run(f"{fill}.subject.value = {DEPLOYER!r}; {fill}.reason.value = 'odd'")
        browser.loads(lambda: browser.run(f"{fill}.change.click()"))
        browser.wait(f"document.getElementById('quarantines-live').textContent.includes({DEPLOYER!r})")
        assert browser.complaints == []


def test_on_a_phone_nothing_sticks_out_and_no_row_is_a_tower(sidecar, browse):
    browser = browse(width=400)
    traffic(sidecar, 1)
    sign_in(browser, sidecar)
    browser.wait("document.querySelectorAll('#decisions-rows tr[data-id]').length >= 7")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    heights = browser.run(
        "[...document.querySelectorAll('#decisions-rows tr[data-id]')].map(each => each.offsetHeight)"
    )
    assert max(heights) < 400
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_looks_as_in_the_docs(sidecar, browse, dark, tmp_path):
    """With EXT_AUTHZ_SCREENSHOTS set it writes those of the docs."""
    browser = browse(dark=dark, width=1180, height=860)
    traffic(sidecar, 4)
    sign_in(browser, sidecar)
    for _ in range(7 if SCREENSHOTS else 1):  # something for the charts to draw
        traffic(sidecar, 2)
        browser.run("new Promise(done => setTimeout(done, 1000))")
    browser.wait("document.querySelectorAll('polyline').length >= 3")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the side"
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(14, 17, 22)" if dark else "rgb(246, 247, 249)")
    name = f"page-{'dark' if dark else 'light'}.png"
    target = IMAGES / name if SCREENSHOTS else tmp_path / name
    target.parent.mkdir(exist_ok=True)
    browser.screenshot(target)
    assert 10_000 < target.stat().st_size < 200_000
