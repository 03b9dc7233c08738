"""What failed, in words for people.

Law: no text of an unknown exception is shown: it may hold URLs with secrets, or events. Non-goal: what follows from it.
"""

import re
from typing import Final

_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def failure(error: BaseException) -> str:
    """Return the system's words for what is beneath an error, else the kind of error: `connection refused`."""
    seen: BaseException | None = error
    for _ in range(5):
        if isinstance(seen, OSError) and seen.strerror:
            return str(seen.strerror).lower()
        seen = seen and (seen.__cause__ or seen.__context__)
    return _CAPITAL.sub(" ", type(error).__name__.removesuffix("Error")).lower() or "failed"
