"""How good the detectors are, on traffic that nobody here made up, and what they cost.

`python benchmarks/detection.py --data DIR [--write] [--only NAME]` replays public traces (detection_data.py) as subjects' days,
lets the attacks of attacks.yaml happen at random moments, and prints one table per detector; `--write` puts them into
docs/monitoring.md. Thresholds are chosen on one half of the subjects and reported on the other.
`--cost` measures the time per event and the memory under a million subjects instead. See docs/monitoring.md.
"""

import argparse
import copy
import random
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from detection_baselines import rivals
from detection_cost import cost
from detection_credentials import real_guessing, stuffing
from detection_data import COMMITS, HELD_OUT, HELD_OUT_FIRST, LOGS, TRACES, block_bootstrap, clients, people, revision
from detection_pairs import pair_tables as pairs
from detection_score import Result, Unit, one
from detection_times import ceiling, dormant, times

from ext_authz.monitor.detectors import Params
from ext_authz.monitor.detectors.extraction import ExtractionParams, ModelExtraction
from ext_authz.monitor.detectors.seen import DAY, HOUR
from ext_authz.monitor.detectors.times import TimeParams
from ext_authz.monitor.detectors.volume import UnusualVolume, VolumeParams

DOC = Path(__file__).parent.parent / "docs" / "monitoring.md"
ATTACKS = yaml.safe_load((Path(__file__).parent / "attacks.yaml").read_text())
WARM, TEST, COPIES = 14, 14, 4
FRESH = 100
"""The first seed of draws that no rule was changed after."""
MONDAY = 20458  # days since 1970
BATCH = 64
KEY = b"benchmark"
TARGETS = (1, 5, 20)


def twin(table, key):
    """Return the key of a copy that an attack may happen to, and nothing else notices."""
    table._settled[f"{key}#"] = copy.deepcopy(table.get(key))
    return f"{key}#"


@dataclass
class Subject:
    """One subject of the block bootstrap: a client of the trace and its days."""

    name: str
    client: object
    moments: list
    """Requests in each ten minutes of each day."""
    unit: Unit
    attacks: dict = field(default_factory=dict)
    days: list = field(default_factory=list)
    """The same by the hour."""

    def __post_init__(self):
        self.days = [[sum(day[at : at + 6]) for at in range(0, len(day), 6)] for day in self.moments]

    @property
    def busiest(self):
        return max(max(day) for day in self.days[:WARM])


def subjects(trace, tuning, copies=COPIES, first=0):
    """Return the subjects of one half (None: of both), each `copies` times, drawn with seeds from `first`."""
    made = []
    for number in range(first, first + copies):
        for client in trace:
            if tuning not in (None, client.tuning):
                continue
            moments = block_bootstrap(client, WARM, TEST, number)
            if not any(map(sum, moments[:WARM])):
                continue
            chance = random.Random(f"attack/{number}/{client.name}")
            subject = Subject(f"sub:{client.name}#{number}", client, moments, Unit(client.name))
            active = [day for day in range(WARM, WARM + TEST) if sum(moments[day])] or [WARM]
            for kind in (*ATTACKS["unusual_volume"], *ATTACKS["model_extraction"]):
                subject.attacks[kind] = (chance.choice(active), chance.randrange(24))
            made.append(subject)
    return made


def volume(crowd, params):
    detector = UnusualVolume(replace(params, max_subjects=100_000))
    for day in range(WARM + TEST):
        for subject in crowd:
            kinds = [k for k in ATTACKS["unusual_volume"] if subject.attacks[k][0] == day]
            alarms = 0
            for hour, count in enumerate(subject.days[day]):
                begin = (MONDAY + day) * DAY + hour * HOUR
                for kind in kinds:
                    if subject.attacks[kind][1] == hour:
                        subject.unit.attacked(kind, volume_attack(detector, subject, kind, begin))
                if count:
                    alarms += len(detector.add(one(begin + 1, subject.name), count))
            if day >= WARM and sum(subject.days[day]):
                subject.unit.day(alarms)
    return [subject.unit for subject in crowd]


def volume_attack(detector, subject, kind, begin):
    """Return the seconds until the alarm, None without one."""
    what = ATTACKS["unusual_volume"][kind]
    rate = what.get("requests_per_second", 0) * 60
    if not rate:
        rate = max(what["times_busiest_hour"] * subject.busiest, what["at_least_per_hour"]) / 60
    name = f"{subject.name}#"
    table = detector._keys
    if table.get(f"{subject.name}\nmodel") is None:
        return None
    table._settled[f"{name}\nmodel"] = copy.deepcopy(table.get(f"{subject.name}\nmodel"))
    owed, found = 0.0, None
    for minute in range(what["minutes"]):
        second = begin + minute * 60
        hour = (second - MONDAY * DAY) // HOUR
        if minute % 60 == 0 and hour < 24 * (WARM + TEST) and subject.days[hour // 24][hour % 24]:
            detector.add(one(second, name), subject.days[hour // 24][hour % 24])
        owed += rate
        if int(owed) and detector.add(one(second + 59, name), int(owed)):
            found = (minute + 1) * 60
            break
        owed -= int(owed)
    table.pop(f"{name}\nmodel")
    return found


def extraction(crowd, params, *, count_together=False):
    detector = ModelExtraction(replace(params, max_pairs=100_000), KEY)
    chance = random.Random("together")
    together = {model: Unit(f"together/{model}") for model in sorted({s.client.model for s in crowd})}
    for day in range(WARM + TEST):
        shared = {model: chance.randrange(24) for model in together} if count_together and day in (15, 19, 24) else {}
        for hour in range(24):
            begin = (MONDAY + day) * DAY + hour * HOUR
            for model, at in shared.items():
                if at == hour:
                    for kind in ("many_accounts", "few_slow_accounts"):
                        together[model].attacked(kind, together_attack(detector, model, kind, begin, chance))
            for subject in crowd:
                for kind in ("loop", "patient"):
                    if subject.attacks[kind] == (day, hour) and subject.name.endswith(("#0", f"#{FRESH}")):
                        subject.unit.attacked(kind, lone_attack(detector, subject, kind, begin))
                found = use(detector, subject, day, hour, begin) if subject.days[day][hour] else ()
                if day >= WARM:
                    subject.unit.pending += sum(each.subject is not None for each in found)
                    together[subject.client.model].pending += sum(each.subject is None for each in found)
        if day >= WARM:
            for subject in crowd:
                if sum(subject.days[day]):
                    subject.unit.day(subject.unit.pending)
                subject.unit.pending = 0
            for unit in together.values():
                unit.day(unit.pending)
                unit.pending = 0
    return [subject.unit for subject in crowd], list(together.values())


def use(detector, subject, day, hour, begin):
    """Return what is found in an hour of the subject's own, requests of ten minutes spread over them evenly."""
    found = []
    for moment in range(6):
        count = subject.moments[day][hour * 6 + moment]
        for number in range(0, count, BATCH):
            second = begin + 600 * moment + 599 * number // count
            made, size = f"{subject.name}/{day}/{hour}/{moment}/{number}", min(BATCH, count - number)
            found += detector.see(one(second, subject.name, subject.client.model, made, size))
    return found


def lone_attack(detector, subject, kind, begin):
    """Return the queries until the alarm, None without one."""
    what, model = ATTACKS["model_extraction"][kind], subject.client.model
    name, about = f"{subject.name}#", f"model/{model}"
    use = detector._uses.get(f"{subject.name}\n{about}")
    kept = detector._models.get(about)
    if use is None or kept is None:
        return None
    detector._uses._settled[f"{name}\n{about}"] = copy.deepcopy(use)
    table = detector._models._settled if about in detector._models._settled else detector._models._probation
    table[about] = copy.deepcopy(kept)
    found = None
    for number in range(what["queries_per_account"]):
        seen = one(begin + number / what["queries_per_second"], name, model, f"theft/{name}/{number}")
        if any(each.subject for each in detector.see(seen)):
            found = number + 1
            break
    table[about] = kept
    detector._uses.pop(f"{name}\n{about}")
    return found


def together_attack(detector, model, kind, begin, chance):
    """Return the queries until the alarm, None without one."""
    what = ATTACKS["model_extraction"][kind]
    other = copy.deepcopy(detector)
    total = what["accounts"] * what["queries_per_account"]
    for number in range(total):
        name = f"sub:bot-{chance.randrange(what['accounts'])}"
        found = other.see(one(begin + number / what["queries_per_second"], name, model, f"bots/{number}"))
        if any(each.subject is None for each in found):
            return number + 1
    return None


def swept(name, run: Callable, settings: Iterable, tune, report) -> list[Result]:
    """Choose, for each target rate, the most sensitive setting that keeps it on the tuning half; report the other."""
    tried = {}
    for setting in settings:
        tried[setting] = Result(name, setting, run(tune, setting))
        print(f"  tuning {name} {setting}: {tried[setting].line()}", file=sys.stderr, flush=True)
    made, reported = [], {}
    for target in TARGETS:
        fitting = [setting for setting, result in tried.items() if result.false_per_thousand <= target]
        if fitting:
            if fitting[0] not in reported:
                reported[fitting[0]] = run(report, fitting[0])
            made.append(Result(name, fitting[0], reported[fitting[0]], target=target))
        else:
            made.append(Result(name, None, [], target=target))
    return made


def time_tables(data, quick):
    crowd = people(data)
    tune, report = [p for p in crowd if p.tuning], [p for p in crowd if not p.tuning]
    steps = (3.0, 3.6, 4.0, 4.4, 4.6, 4.8, 5.0, 5.5, 6.5, 8.0)
    sweep = swept(
        "surprise",
        lambda c, s: times(c, replace(TimeParams(), surprise=s), ATTACKS["unusual_time"]),
        steps[::3] if quick else steps,
        tune,
        report,
    )
    made = [Result("defaults", "", times(report, TimeParams(), ATTACKS["unusual_time"])), *sweep]
    known = {person.name for person in crowd}
    bounds = [("reporting half", report)]
    for said, repositories in (("held out first", HELD_OUT_FIRST), ("held out to the end", HELD_OUT)):
        fresh = [person for person in people(data, repositories) if person.name not in known]
        known |= {person.name for person in fresh}
        bounds.append((f"{len(fresh)} people {said}", fresh))
        made.append(
            Result(f"defaults, {len(fresh)} people {said}", "", times(fresh, TimeParams(), ATTACKS["unusual_time"]))
        )
    yield "unusual_time", made
    lines = [
        "| people | attack | known |" + "".join(f" ≤ {target} per 1,000 |" for target in TARGETS),
        "|" + "---|" * 6,
    ]
    for said, fresh in bounds:
        lines += [f"| {said} | {' | '.join(row)} |" for row in ceiling(fresh, ATTACKS["unusual_time"], TARGETS)]
    yield "ceiling", "\n".join(lines)
    yield "dormant_identity", [Result("defaults", "", dormant(crowd))]


def volume_tables(data, quick):
    trace = clients(data)

    def limits(params, factor):
        return replace(params, limits=replace(params.limits, factor=factor))

    steps = (1.5, 2.0, 3.0, 6.0, 10.0, 20.0)

    def run_volume(tuning, factor):
        return volume(subjects(trace, tuning), limits(VolumeParams(), factor))

    default = Result("defaults", "", volume(subjects(trace, False), VolumeParams()))
    fresh = volume(subjects(trace, None, 2, FRESH), VolumeParams())
    yield (
        "unusual_volume",
        [
            default,
            *swept("factor", run_volume, steps[::3] if quick else steps, True, False),
            Result("defaults, fresh draws of all clients", "", fresh),
        ],
    )

    yield "rivals", rivals(trace, subjects, WARM, TEST, ATTACKS)


def extraction_tables(data, quick):
    trace = clients(data)

    def run_extraction(tuning, factor):
        params = ExtractionParams()
        params = replace(params, hour=replace(params.hour, factor=factor), day=replace(params.day, factor=factor))
        return extraction(subjects(trace, tuning, 1 if tuning else COPIES), params)[0]

    alone, together = extraction(subjects(trace, False), ExtractionParams(), count_together=True)
    slow = ExtractionParams()
    slow = replace(slow, moment=replace(slow.moment, floor=10**9), new_most=10**9, own_factor=10)
    steps = (1.5, 2.0, 4.0)
    found = [
        Result("defaults", "", alone),
        Result("hours and days alone, busy peers an excuse", "", extraction(subjects(trace, False), slow)[0]),
        *swept("factor", run_extraction, steps[::2] if quick else steps, True, False),
    ]
    fresh, anew = extraction(subjects(trace, None, 2, FRESH), ExtractionParams(), count_together=True)
    yield (
        "model_extraction",
        [
            *found,
            Result("defaults, fresh draws of all clients", "", fresh),
            Result("together, per model", "", together),
            Result("together, per model, fresh draws", "", anew),
        ],
    )


def stuffing_tables(data, quick):
    yield from stuffing(ATTACKS, TARGETS)
    yield "real_guessing", real_guessing(data)


def pair_tables(data, quick):
    yield from pairs(ATTACKS, data)


GROUPS = {
    "extraction": extraction_tables,
    "volume": volume_tables,
    "time": time_tables,
    "stuffing": stuffing_tables,
    "pairs": pair_tables,
}


def group(name, data, quick):
    return list(GROUPS[name](data, quick))


def tables(data, quick, only):
    """Return (name, results or text) of every table; the groups run in two processes, the long ones first."""
    with ProcessPoolExecutor(2) as pool:
        return [
            table
            for made in [pool.submit(group, name, data, quick) for name in GROUPS if only in ("", name)]
            for table in made.result()
        ]


def put(text, name, block):
    """Return the document with other lines between a mark and its end."""
    mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    return mark.sub(lambda found: f"{found[1]}{block}\n{found[2]}", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("detection-data"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--only", default="", choices=["", *GROUPS])
    options = parser.parse_args()
    if options.cost:
        block = cost(Params())
        print(f"## cost\n{block}")
        if options.write:
            DOC.write_text(put(DOC.read_text(), "cost", block))
        return
    text = DOC.read_text() if options.write else ""
    for name, results in tables(options.data, options.quick, options.only):
        block = results if isinstance(results, str) else "\n".join(Result.table(results))
        print(f"\n## {name}\n{block}", flush=True)
        text = put(text, name, block)
    names = ", ".join(
        f"{name}@{revision(options.data, name)}" for name in (TRACES, LOGS, *COMMITS, *HELD_OUT_FIRST, *HELD_OUT)
    )
    text = put(text, "data", names)
    if options.write:
        DOC.write_text(text)


if __name__ == "__main__":
    main()
