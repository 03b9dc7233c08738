"""Holds the cyclic garbage collector while many long-lived values are made.

Law: the collector is as it was found afterwards. Non-goal: tuning it elsewhere.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold the collector: walking millions of young nodes again and again takes more time than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
