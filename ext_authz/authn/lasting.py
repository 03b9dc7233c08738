"""What outlives a snapshot: memories that a reload must not forget.

Law: nothing here decides anything; each part is safe for several threads. Non-goal: files (server/ keeps them).
"""

from dataclasses import dataclass, field

from ext_authz.authn.asked import Answers
from ext_authz.authn.once import MemoryOnce, Once


@dataclass(frozen=True, slots=True)
class Lasting:
    """`once` remembers one-time values, `answers` what issuers said, `used` when (Unix seconds) an API key, by id."""

    once: Once = field(default_factory=MemoryOnce)
    answers: Answers = field(default_factory=Answers)
    used: dict[str, int] = field(default_factory=dict)
