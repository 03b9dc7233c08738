"""The public traces that benchmarks/detection.py reads: where they come from, and subjects made of them.

Nothing fetched is ever kept in this repository. `--data DIR` names a folder with clones (NAME, OWNER/NAME or
OWNER+NAME/repo, bare or not); what is missing is cloned there.
"""

import hashlib
import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TRACES = "alibaba/ServeGen"  # per-client request rates of a model service, 10 minutes, 14 days; Apache-2.0
LOGS = "logpai/loghub"  # OpenSSH_2k.log, real guessing; free for research with citation (Zhu et al., ISSRE 2023)
COMMITS = (  # times at which people worked, years of them; only times are read, authors become numbers
    "sympy/sympy",
    "numpy/numpy",
    "prometheus/prometheus",
    "dask/dask",
    "bentoml/BentoML",
    "optuna/optuna",
    "kvcache-ai/Mooncake",
)
HELD_OUT_FIRST = (  # authors that nothing was tried on until their false alarms made the limit of `unusual_time` stricter
    "networkx/networkx",
    "astropy/astropy",
    "etcd-io/etcd",
    "pytest-dev/pytest",
    "statsmodels/statsmodels",
)
HELD_OUT = (  # authors that nothing was tried on, and nothing was changed after
    "ipython/ipython",
    "sphinx-doc/sphinx",
    "celery/celery",
    "nltk/nltk",
    "containerd/containerd",
)
DAYS = 14
BINS = 144
SCALE = 1000
"""One request of ours for so many of the trace, whose clients are whole companies."""
LEAST_DAYS = 60
_FAILED = re.compile(r"Failed password for (?:invalid user )?(\S*) from (\S+)")


def clone(data: Path, name: str) -> Path:
    """Return the git folder of a public repository, cloned into `data` when it is not there."""
    owner, _, short = name.partition("/")
    for at in (data / f"{owner}+{short}" / "repo", data / owner / short, data / short):
        for folder in (at / ".git", at):
            if (folder / "HEAD").exists():
                return folder
    data.mkdir(parents=True, exist_ok=True)
    target = data / owner / short
    subprocess.run(["git", "clone", "--bare", "--quiet", f"https://github.com/{name}", str(target)], check=True)
    return target


def git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", f"--git-dir={folder}", *command], check=True, capture_output=True)
    return done.stdout.decode("utf-8", "replace")


def revision(data: Path, name: str) -> str:
    return git(clone(data, name), "rev-parse", "HEAD").strip()[:12]


@dataclass(frozen=True)
class Client:
    """One client of the trace: requests of ours per ten minutes, DAYS days from a Monday."""

    name: str
    model: str
    moments: tuple[float, ...]

    @property
    def tuning(self) -> bool:
        return half(self.name)


def half(name: str) -> bool:
    """Whether a subject belongs to the half that thresholds are tuned on."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def clients(data: Path) -> list[Client]:
    """Return all clients that made a request at all, over whole traces of 14 days."""
    folder = clone(data, TRACES)
    made = []
    for path in sorted(git(folder, "ls-tree", "-r", "--name-only", "HEAD").split()):
        if not path.endswith("trace.csv"):
            continue
        rows = [line.split(",") for line in git(folder, "show", f"HEAD:{path}").splitlines()]
        if len(rows) < DAYS * BINS:
            continue
        moments = tuple(float(row[1]) * 600 / SCALE for row in rows[: DAYS * BINS])
        if sum(moments) > 0:
            model = path.split("/")[2]
            made.append(Client(f"{model}/{path.split('/')[3].split('-')[1]}", model, moments))
    return made


@cache
def block_bootstrap(client: Client, warm: int, test: int, seed: int) -> list[list[int]]:
    """Return days of BINS counts, one for ten minutes: `warm` drawn from the first week, `test` from the second.

    Blocks are whole days, working days for working days and weekends for weekends, so the hours of a day stay
    together and no test day is ever seen in the warm-up. Counts are drawn from a Poisson distribution about the rate.
    """
    chance = random.Random(f"{seed}/{client.name}")
    days = [client.moments[at : at + BINS] for at in range(0, DAYS * BINS, BINS)]
    made = []
    for number in range(warm + test):
        week = days[:7] if number < warm else days[7:]
        pool = week[5:] if number % 7 >= 5 else week[:5]
        made.append([poisson(chance, rate) for rate in chance.choice(pool)])
    return made


def poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(round(chance.gauss(mean, mean**0.5)), 0)
    if mean <= 0:
        return 0
    left, count = chance.expovariate(1), 0
    while left < mean:
        left += chance.expovariate(1)
        count += 1
    return count


@dataclass(frozen=True)
class Person:
    """One author: Unix seconds of work, ascending. The name is a number."""

    name: str
    times: tuple[int, ...]

    @property
    def tuning(self) -> bool:
        return half(self.name)


def people(data: Path, repositories: Sequence[str] = COMMITS) -> list[Person]:
    """Return authors with work on at least LEAST_DAYS days; robots, and commits rebased by the dozen, left out."""
    times: dict[str, set[int]] = defaultdict(set)
    for name in repositories:
        for line in git(clone(data, name), "log", "--no-merges", "--format=%ae %at", "HEAD").splitlines():
            who, _, second = line.rpartition(" ")
            if second.isdigit() and "bot" not in who.lower():
                times[who.lower()].add(int(second))
    made = []
    for who, seconds in times.items():
        if len({second // 86_400 for second in seconds}) >= LEAST_DAYS:
            made.append(Person(hashlib.sha256(who.encode()).hexdigest()[:12], tuple(sorted(seconds))))
    return sorted(made, key=lambda person: person.name)


def guesses(data: Path) -> list[tuple[int, str, str]]:
    """Return (second, name, source) of every failed password in the OpenSSH sample of loghub."""
    made = []
    for line in git(clone(data, LOGS), "show", "HEAD:OpenSSH/OpenSSH_2k.log").splitlines():
        found = _FAILED.search(line)
        if found:
            hour, minute, second = (int(part) for part in line.split()[2].split(":"))
            made.append((hour * 3600 + minute * 60 + second, found[1], found[2]))
    return made
