"""Stuffing: real guessing from a public log, and attacks amid what fails without one (assumed, attacks.yaml)."""

import copy
import random
from dataclasses import replace

from detection_data import guesses
from detection_score import Result, Unit, one

from ext_authz.monitor.detectors.credentials import CredentialParams, CredentialStuffing
from ext_authz.monitor.detectors.seen import DAY

SUBJECTS, DAYS, WARM, STARTS = 500, 28, 7, 10
MONDAY = 20458
KEY = b"benchmark"


def background(what, seed):
    """Yield days of (second, subject or "", claimed name, source), in order of time."""
    chance = random.Random(seed)
    per = what["shared_sources"]["subjects_per_source"]
    for day in range(DAYS):
        begin, made = (MONDAY + day) * DAY, []
        for number in range(SUBJECTS):
            name, source = f"user-{number}", f"198.51.{number // per}.1"
            if day % 7 < 5:
                made += [(begin + chance.uniform(8, 18) * 3600, name, "", source) for _ in range(2)]
            at = begin + chance.uniform(8, 18) * 3600
            if chance.random() < what["retry_loop"]["per_subject_day"]:
                made += [(at + 2 * n, "", name, source) for n in range(what["retry_loop"]["failures"])]
            if chance.random() < what["wrong_credential"]["per_subject_day"]:
                other = f"service-{chance.randrange(200)}"
                made += [(at + 5 * n, "", other, source) for n in range(what["wrong_credential"]["failures"])]
            if day in what["key_rotation"]["days"]:
                within = what["key_rotation"]["minutes"] * 60
                made += [
                    (begin + 10 * 3600 + chance.uniform(0, within), "", name, source)
                    for _ in range(what["key_rotation"]["retries"])
                ]
        yield sorted(made)


def attempts(what, begin, chance):
    """Yield the attack: (second, "", claimed name, source)."""
    total = round(what["attempts_per_second"] * what["minutes"] * 60)
    for number in range(total):
        source = chance.randrange(what["sources"])
        name = f"leaked-{number % what['names']}"
        yield (
            begin + number / what["attempts_per_second"],
            "",
            name,
            f"203.{source // 65536}.{source // 256 % 256}.{source % 256}",
        )


def see(detector, event):
    second, subject, claimed, source = event
    reason = "allowed" if subject else "invalid_token"
    return detector.see(one(second, f"sub:{subject}" if subject else "", ip=source, reason=reason, claimed=claimed))


def run(attacks, params, seed):
    detector = CredentialStuffing(params, KEY)
    days = list(background(attacks["background"], seed))
    chance = random.Random(f"starts/{seed}")
    starts = {
        kind: [chance.randrange(WARM, DAYS - 3) for _ in range(STARTS)] for kind in attacks["credential_stuffing"]
    }
    units = {name: Unit(f"{seed}/{name}") for name in ("all", *(f"{kind}" for kind in starts))}
    units["all"].days = 0
    for day, events in enumerate(days):
        for kind, begins in starts.items():
            for _ in range(begins.count(day)):
                units["all"].attacked(kind, attacked(detector, attacks["credential_stuffing"][kind], days, day, chance))
        for event in events:
            alarms = len(see(detector, event))
            if day >= WARM:
                units["all"].false += alarms
        if day >= WARM:
            units["all"].days += SUBJECTS
    return [units["all"]]


def attacked(detector, what, days, day, chance):
    """Return the seconds until an alarm that names the attack, None without one."""
    other = copy.deepcopy(detector)
    begin = (MONDAY + day) * DAY + chance.uniform(0, DAY)
    attack = list(attempts(what, begin, chance))
    last = attack[-1][0]
    amid = [event for events in days[day : day + 4] for event in events if event[0] <= last]
    for event in sorted(amid + attack):
        for found in see(other, event):
            hit = found.source is None or found.source.startswith("203.")
            if hit and event[0] >= begin:
                return event[0] - begin
    return None


def stuffing(attacks, targets):
    seeds = range(4)
    made = [Result("defaults", "", [u for seed in seeds for u in run(attacks, CredentialParams(), 100 + seed)])]
    for names in (3, 5, 8):
        params = replace(CredentialParams(), names=names, slow_names=2 * names)
        units = [u for seed in seeds for u in run(attacks, params, 100 + seed)]
        made.append(Result(f"names {names}, slow_names {2 * names}", "", units))
    yield "credential_stuffing", made


def real_guessing(data):
    """Return a table of the sources of a real log: what they did, and whether they were reported."""
    events = guesses(data)
    detector, found = CredentialStuffing(key=KEY), {}
    seen = {}
    for second, name, source in events:
        at = MONDAY * DAY + second
        tried = seen.setdefault(source, [0, set()])
        tried[0] += 1
        tried[1].add(name)
        for each in see(detector, (at, "", name, source)):
            if each.source:
                found.setdefault(each.source, tried[0])
    lines = ["| failures | names | sources | reported | after failures (median) |", "|---|---|---|---|---|"]
    rows = [
        ("≥ 10", "≥ 5", lambda n, k: n >= 10 and k >= 5),
        ("≥ 10", "< 5", lambda n, k: n >= 10 and k < 5),
        ("< 10", "any", lambda n, k: n < 10),
    ]
    for failures, names, fits in rows:
        those = [source for source, (n, k) in seen.items() if fits(n, len(k))]
        after = sorted(found[source] for source in those if source in found)
        median = str(after[len(after) // 2]) if after else "-"
        lines.append(f"| {failures} | {names} | {len(those)} | {len(after)} | {median} |")
    return "\n".join(lines)
