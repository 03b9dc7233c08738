"""A flood of strangers is one event for each source and second, and every one of them is counted."""

from ext_authz.audit.coalesce import Coalescer

SECOND = 10**9


def test_denials_of_one_source_within_a_second_are_one_event_with_their_number():
    written = []
    made = Coalescer(lambda last, count: written.append((last, count)) or True)
    for number in range(100):
        made.add("a" if number % 4 else "b", number, 5 * SECOND + number)
    assert written == []
    assert made.waiting == 100
    made.flush(5 * SECOND + 999)
    assert written == []
    made.flush(6 * SECOND)
    assert written == [(96, 25), (99, 75)]
    assert made.waiting == 0


def test_sources_beyond_the_limit_are_one_source_together():
    written = []
    made = Coalescer(lambda last, count: written.append(count) or True, max_sources=3)
    for number in range(10_000):
        made.add(f"source-{number}", number, SECOND)
    made.flush(2 * SECOND)
    assert written == [1, 1, 1, 9997]


def test_what_cannot_be_recorded_is_kept_and_goes_on_counting():
    open_now, written = [False], []
    made = Coalescer(lambda last, count: open_now[0] and (written.append((last, count)) or True))
    made.add("a", 1, SECOND)
    made.add("a", 2, 2 * SECOND)
    made.add("b", 3, 3 * SECOND)
    assert (written, made.waiting) == ([], 3)
    open_now[0] = True
    made.flush(4 * SECOND)
    assert sorted(written) == [(2, 2), (3, 1)]
