"""What a textbook and a library make of the same traffic and the same attack: z-scores, and river's detectors."""

import math

STEPS = (3, 4, 6, 8, 12, 16, 24, 32)


def zscore(logarithm):
    """Return a scorer: deviations from an exponentially weighted mean and variance of hourly counts."""

    class Scorer:
        def __init__(self):
            self.mean, self.variance = 0.0, 0.0

        def score(self, count):
            value = math.log1p(count) if logarithm else count
            return (value - self.mean) / max(math.sqrt(self.variance), 0.1 if logarithm else 1.0)

        def learn(self, count):
            value = math.log1p(count) if logarithm else count
            off = value - self.mean
            self.mean += 0.02 * off
            self.variance = 0.98 * (self.variance + 0.02 * off * off)

    return Scorer


def river_scorer(make, features):
    class Scorer:
        def __init__(self):
            self.model, self.hour = make(), 0

        def score(self, count):
            return self.model.score_one(features(count, self.hour))

        def learn(self, count):
            self.model.learn_one(features(count, self.hour))
            self.hour += 1

    return Scorer


def rivals(trace, subjects, warm, test, attacks):
    """Return a table: false alerts on the reporting half, and recall of `bulk_read`, at thresholds tuned on the other."""
    rows = [("z-score of hourly counts", zscore(False)), ("z-score of their logarithms", zscore(True))]
    try:
        from river import anomaly

        rows.append(("river HalfSpaceTrees(10, 8), log count and hour", river_scorer(lambda: anomaly.HalfSpaceTrees(
            n_trees=10, height=8, window_size=168, seed=1, limits={"count": (0, 14), "hour": (0, 23)}),
            lambda count, hour: {"count": math.log1p(count), "hour": hour % 24})))  # fmt: skip
    except ImportError:
        rows.append(("river is not installed", None))
    lines = ["| rule | threshold | false alerts per 1,000 subject-days | recall: bulk_read |", "|---|---|---|---|"]
    rate = attacks["unusual_volume"]["bulk_read"]["requests_per_second"] * 3600
    for name, scorer in rows:
        if scorer is None:
            lines.append(f"| {name} | | | |")
            continue
        tune, report = (run(scorer, subjects(trace, half), warm, test, rate) for half in (True, False))
        textbook = (("as in textbooks", 3.0),) if "z-score" in name else ()
        for what, threshold in (
            *textbook,
            *((f"≤ {target} on the other half", cut(tune, target)) for target in (5, 20)),
        ):
            false, recall = measure(report, threshold)
            lines.append(f"| {name} | {what}: {threshold:.3g} | {1000 * false:.1f} | {recall:.3f} |")
    return "\n".join(lines)


def run(scorer, crowd, warm, test, rate):
    """Return the highest score of each benign test day, and the score of each attacked hour."""
    days, attacked = [], []
    for subject in crowd:
        model = scorer()
        day_of, hour_of = subject.attacks["bulk_read"]
        for day in range(warm + test):
            best = -math.inf
            for hour, count in enumerate(subject.days[day]):
                if day >= warm:
                    if (day, hour) == (day_of, hour_of):
                        attacked.append(model.score(count + rate))
                    best = max(best, model.score(count))
                model.learn(count)
            if day >= warm and sum(subject.days[day]):
                days.append(best)
    return days, attacked


def cut(result, target):
    """Return the threshold that `target` in 1,000 benign days exceed."""
    days = sorted(result[0], reverse=True)
    return days[min(int(len(days) * target / 1000), len(days) - 1)]


def measure(result, threshold):
    days, attacked = result
    return sum(s > threshold for s in days) / len(days), sum(s > threshold for s in attacked) / len(attacked)


__all__ = ["rivals"]
