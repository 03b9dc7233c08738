"""People's hours: the detectors of time and of dormancy over years of work, and how well hours could be told at all."""

import copy
import random
from collections import Counter

from detection_score import Unit, has_rhythm, one, sleeping

from ext_authz.monitor.detectors.seen import DAY, HOUR
from ext_authz.monitor.detectors.subjects import DormantIdentity
from ext_authz.monitor.detectors.times import UnusualTime

PAST = 300
"""Pieces of work that tell when somebody sleeps."""


def times(crowd, params, what, attacks=3):
    units = []
    for person in crowd:
        detector, unit = UnusualTime(params), Unit(person.name)
        days = sorted({second // DAY for second in person.times})
        ready = max(days[30], days[0] + 15)
        chance = random.Random(f"attack/{person.name}")
        test = [day for day in days if day >= ready]
        moments = {chance.choice(test) for _ in range(attacks)}
        alarms, before = 0, days[0]
        for at, second in enumerate(person.times):
            day = second // DAY
            if day != before:
                if before >= ready:
                    unit.day(alarms)
                alarms, before = 0, day
                if day in moments:
                    for kind in what:
                        delay = visit(detector, person, at, day, what[kind])
                        unit.attacked(kind, delay)
                        if has_rhythm(person.times[max(at - PAST, 0) : at]):
                            unit.attacked(f"{kind}, of people with a rhythm", delay)
            for number in range(5):
                alarms += len(detector.see(one(second + number, f"sub:{person.name}")))
        unit.day(alarms)
        units.append(unit)
    return units


def visit(detector, person, at, day, what):
    """Return the seconds until the alarm, None without one."""
    other = copy.deepcopy(detector)
    begin = day * DAY + (sleeping(person.times[max(at - PAST, 0) : at]) - what["hours"] / 2) % 24 * HOUR
    # The victim's own work of that day comes when it comes; the visit before or after it.
    if begin < person.times[at - 1]:
        begin += DAY
    for number in range(what["hours"] * what["requests_per_hour"]):
        second = begin + number * HOUR / what["requests_per_hour"]
        if other.see(one(second, f"sub:{person.name}")):
            return second - begin
    return None


def dormant(crowd):
    units = []
    for person in crowd:
        detector, unit = DormantIdentity(), Unit(person.name)
        days = sorted({second // DAY for second in person.times})
        for number, day in enumerate(days):
            alarms = len(detector.see(one(day * DAY, f"sub:{person.name}")))
            if number >= 10:
                unit.day(alarms)
        units.append(unit)
    return units


def ceiling(crowd, what, targets):
    """Return the recall that nobody could exceed who knew the attack's hours and every person's future.

    Whoever knows both raises an alarm for work within the attack's hours, or for so much work in one of them as the
    attack brings, and only for those people who do that least often themselves.
    """
    days_of = {}
    for person in crowd:
        days = sorted({second // DAY for second in person.times})
        days_of[person.name] = [day for day in days if day >= max(days[30], days[0] + 15)]
    total = sum(map(len, days_of.values()))
    rows = []
    for kind, attack in what.items():
        for said, least in (("hours alone", 1), ("hours and requests", attack["requests_per_hour"])):
            costs = sorted(_own_visits(person, days_of[person.name], attack["hours"], least) for person in crowd)
            rows.append([kind, said, *(f"{_share(costs, target * total / 1000):.3f}" for target in targets)])
    return rows


def _own_visits(person, test, hours, least):
    """Return on how many days somebody did as much at the hours of the attack as the attack does."""
    counts = Counter(second // HOUR for second in person.times)
    first = {}
    for at, second in enumerate(person.times):
        first.setdefault(second // DAY, at)
    found = 0
    for day in test:
        at = first[day]
        begin = (sleeping(person.times[max(at - PAST, 0) : at]) - hours / 2) % 24
        # Parts of an hour at both ends count whole: that is one hour more.
        cells = {int(begin + step) % 24 for step in range(hours + 1)}
        found += any(5 * counts[day * 24 + cell] >= least for cell in cells)
    return found


def _share(costs, budget):
    """Return the share of people whose own visits fit into the budget together, the last of them in part."""
    fit = 0.0
    for cost in costs:
        if cost > budget:
            return (fit + budget / cost) / len(costs)
        fit, budget = fit + 1, budget - cost
    return fit / len(costs)
