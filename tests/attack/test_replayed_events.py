"""What a forged file of events does to whoever replays it, or reads what `access` made of policies."""

import csv
import io

import orjson
import pytest
from command_line import ran
from policy_support import ask, compiled, subject
from recorded_events import changed, event_of
from running_service import CONFIGURATION, write_configuration

from ext_authz.tools import replay_tally
from ext_authz.tools.replay import Replayer
from ext_authz.tools.replay_tally import MAX_NAME, OTHERS, Tally, report
from ext_authz.tools.trail_fold import Seen

OPEN = compiled('policies: [{id: open, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}]')
NOBODY = compiled("policies: [{id: shut, effect: deny}]")
RANGED = compiled(
    'policies: [{id: near, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"], '
    "conditions: [{ip_range: 'fe80::/10'}]}]"
)
LONG = "x" * 500_000


def folded(policies, *lines):
    replayer = Replayer(policies)
    return replayer, replayer.fold(lines, Seen())


def forged(n, name="u"):
    line = event_of(ask(subject(f"sub:{name}{n}")), OPEN, seq=n)
    return changed(line, subject__claims={"a": f"{n}{LONG}"})


def test_large_events_are_not_kept_in_memory():
    replayer, tally = folded(NOBODY, *(forged(n) for n in range(20)))
    assert tally.outcomes == {"lost": 20}
    kept = [*replayer._subjects, *replayer._resources, *(part for key in replayer._memo for part in key)]
    assert max((len(each) for each in kept if isinstance(each, (bytes, str))), default=0) < 5000


def test_made_up_names_fill_neither_memory_nor_report(monkeypatch):
    monkeypatch.setattr(replay_tally, "MAX_GROUPS", 3)
    lines = [changed(forged(n), subject__id=f"sub:{n}{LONG}") for n in range(9)]
    lines += [changed(forged(n), truncated=[f"/subject/{n}{LONG}"]) for n in range(20, 29)]
    lines += [changed(forged(n), reason=f"{n}{LONG}") for n in range(40, 49)]
    _, first = folded(NOBODY, *lines)
    total = Tally()
    total.join(first)
    total.join(folded(NOBODY, *lines)[1])
    made = report(total, "r", 1)
    assert (made["events"]["requests"], made["outcomes"]["lost"]) == (54, 18)
    assert (made["events"]["not_replayed"], made["events"]["before_policies"]) == (18, 18)
    for names in (made["lost"]["by_subject"], made["before_policies"], made["not_replayed"]):
        told = [each.get("name", each.get("detail")) for each in names]
        assert len(told) == 4
        assert OTHERS in told
        assert max(map(len, told)) <= MAX_NAME
    assert len(orjson.dumps({**made, "lost": made["lost"]["by_subject"]})) < 20_000


@pytest.mark.parametrize("ip", ["fe80::1%eth0", "fe80::1%" + "1" * 5000, "fe80::" + "0" * 50 + "1", "10.0.0.1%1"])
def test_an_address_that_the_server_never_records_is_named_and_not_decided(ip):
    line = changed(event_of(ask(), OPEN), context__ip=ip)
    _, tally = folded(RANGED, line)
    assert (tally.not_replayed, tally.replayed) == (1, 0)


@pytest.mark.parametrize("name", ["\uff1dcmd", "a;=1+1", "=1+1", "@x", "+1", "-1"])
def test_no_cell_of_access_is_a_formula(name, tmp_path, capfd):
    policies = f"policies:\n- {{id: p, subjects: [{{id: '{name}'}}, {{group: '{name}'}}], resources: [{{type: model}}], actions: [infer]}}\n"
    config = write_configuration(tmp_path, configuration=CONFIGURATION, policies=policies)
    found = ran(capfd, "access", "-c", config, "--action", "infer", "--resource", "model/fraud", "--format", "csv")
    assert found.status == 0, found.err
    cells = [cell for row in csv.reader(io.StringIO(found.out)) for cell in row]
    assert any(name.strip("'") in cell.replace("'", "") for cell in cells)
    signs = tuple("=+-@\uff1d")
    assert not any(part.startswith(signs) for cell in cells for part in cell.split(";"))
