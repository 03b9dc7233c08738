"""Puts tests/support on the path and bounds Hypothesis."""

import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

# Whoever starts the tests in the background has SIGINT ignored, and so would every program started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
# `make laws`: the same examples in every run, so that what passed once passes; plain runs look for new ones.
settings.register_profile(
    "thorough", parent=settings.get_profile("default"), max_examples=2000, print_blob=True, derandomize=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
