"""First uses, refusals and places of people, from what authors of public repositories touched, and where their clock was.

A directory stands for a resource, the offset of an author's clock for a network. Law: what a repository cannot say is
assumed openly: one directory in ten is sensitive (by a hash), and in the line `refused` every first use is refused.
"""

import copy
import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from detection_data import clone, git
from detection_score import Result, Unit

from ext_authz.audit.event import timestamp
from ext_authz.monitor.detectors.clients import ImpossibleClientChange
from ext_authz.monitor.detectors.denials import Enumeration
from ext_authz.monitor.detectors.seen import DAY
from ext_authz.monitor.detectors.subjects import NewPair

REPOSITORIES = ("prometheus/prometheus", "dask/dask", "optuna/optuna", "bentoml/BentoML")
LEAST_DAYS, WARM_DAYS, ATTACKS = 30, 15, 3
KEY = b"benchmark"


@dataclass(frozen=True)
class Author:
    """One author: (Unix second, offset of the clock, directories touched), ascending."""

    name: str
    commits: tuple[tuple[int, str, tuple[str, ...]], ...]


def authors(data: Path) -> list[Author]:
    """Return authors with work on at least LEAST_DAYS days; robots left out. A directory is of at most two levels."""
    made = defaultdict(set)
    for name in REPOSITORIES:
        text = git(
            clone(data, name),
            "log",
            "--no-merges",
            "--name-only",
            "--no-renames",
            "--format=%x01%ae%x02%at%x02%ad",
            "--date=format:%z",
            "HEAD",
        )
        for commit in text.split("\x01")[1:]:
            head, _, files = commit.partition("\n")
            who, second, zone = head.split("\x02")
            if "bot" in who.lower():
                continue
            folders = {"/".join(file.split("/")[:-1][:2]) for file in files.split("\n") if file}
            made[who.lower()].add((int(second), zone, tuple(sorted(f"{name}/{folder}" for folder in folders))))
    return [
        Author(hashlib.sha256(who.encode()).hexdigest()[:12], tuple(sorted(commits)))
        for who, commits in sorted(made.items())
        if len({second // DAY for second, *_ in commits}) >= LEAST_DAYS
    ]


def event(second, who, resource="", *, ip="10.0.0.1", allowed=True):
    """Return the event of a check; a directory in ten is sensitive."""
    high = hashlib.sha256(resource.encode()).digest()[0] % 10 == 0
    return {
        "schema": "ext_authz.decision/1", "event_id": f"w:{second}", "time": timestamp(int(second) * 10**9),
        "decision": "allow" if allowed else "deny", "reason": "allowed" if allowed else "no_policy",
        "context": {"ip": ip, "path": f"/{resource}"}, "action": "read_data",
        "subject": {"id": f"sub:{who}", "name": who, "auth": "jwt", "issuer": "i", "token_id": who},
        "resource": {"type": "dataset", "id": resource, "attributes": {"sensitivity": "high" if high else "low"}},
    }  # fmt: skip


def place(number):
    """Return an address of the network that stands for an offset of the clock, or for one of a thief's."""
    return f"10.{number % 250}.0.1"


def live(author, detector, happen, attacks):
    """Replay an author with `happen` (one event made of one touch, None: none); let attacks happen in copies."""
    unit, chance = Unit(author.name), random.Random(f"attack/{author.name}")
    days = sorted({second // DAY for second, *_ in author.commits})
    test = days[WARM_DAYS:]
    moments = {chance.choice(test) for _ in range(ATTACKS)}
    used, alarms, before = {}, 0, days[0]
    for second, zone, folders in author.commits:
        day = second // DAY
        if day != before:
            if before in test:
                unit.day(alarms)
            alarms, before = 0, day
            if day in moments:
                for kind, attack in attacks.items():
                    unit.attacked(kind, attacked(copy.deepcopy(detector), attack(author, second, zone, chance)))
        for folder in folders:
            made = happen(author, second, zone, folder, folder not in used)
            used[folder] = None
            if made is not None:
                alarms += len(detector.observe(made, 2**62))
    unit.day(alarms)
    return unit


def attacked(detector, events):
    """Return the seconds until the alarm, None without one."""
    begin = None
    for second, made in events:
        begin = second if begin is None else begin
        if detector.observe(made, 2**62):
            return second - begin
    return None


def pair_tables(attacks, data):
    """Yield (name of the table, results) of the three detectors that such data can say something of."""
    crowd = authors(data)
    everything = sorted({folder for author in crowd for *_, folders in author.commits for folder in folders})
    sensitive = [each for each in everything if event(0, "", each)["resource"]["attributes"]["sensitivity"] == "high"]

    def looks(author, second, zone, chance):
        known = {folder for at, _, folders in author.commits if at < second for folder in folders}
        unknown = [each for each in sensitive if each not in known]
        wanted = chance.sample(unknown, attacks["new_pair"]["first_look"]["resources"])
        return [(second + at, event(second + at, author.name, each)) for at, each in enumerate(wanted)]

    def sweep(what):
        def made(author, second, zone, chance):
            wanted, gap = chance.sample(everything, what["resources"]), what["minutes"] * 60 / what["resources"]
            times = [second + round(at * gap) for at in range(len(wanted))]
            return [(at, event(at, author.name, each, allowed=False)) for at, each in zip(times, wanted, strict=True)]

        return made

    def copied(what):
        def made(author, second, zone, chance):
            own, others = place(zone_number(zone)), [place(200 + number) for number in range(what["networks"])]
            calls = []
            for minute in range(what["minutes"]):
                calls += [(second + 60 * minute + 2 * at, ip) for at, ip in enumerate([own, *others])]
            return [(at, event(at, author.name, "m", ip=ip)) for at, ip in calls]

        return made

    def allowed(author, second, zone, folder, first):
        return event(second, author.name, folder)

    def refused(author, second, zone, folder, first):
        return event(second, author.name, folder, allowed=False) if first else None

    def somewhere(author, second, zone, folder, first):
        return event(second, author.name, "m", ip=place(zone_number(zone)))

    def table(title, make, happen, kinds):
        return [Result(title, "", [live(author, make(), happen, kinds) for author in crowd])]

    yield "new_pair", table("defaults", lambda: NewPair(key=KEY), allowed, {"first_look": looks})
    yield (
        "enumeration",
        table(
            "defaults, every first use refused",
            lambda: Enumeration(key=KEY),
            refused,
            {name: sweep(what) for name, what in attacks["enumeration"].items()},
        ),
    )
    yield (
        "impossible_client_change",
        table(
            "defaults",
            ImpossibleClientChange,
            somewhere,
            {name: copied(what) for name, what in attacks["impossible_client_change"].items()},
        ),
    )


def zone_number(zone):
    """Return a number below 200 for an offset such as +0530."""
    return (int(zone[1:3]) * 4 + int(zone[3:5]) // 15) * (1 if zone[0] == "+" else -1) % 200


__all__ = ["REPOSITORIES", "pair_tables"]
