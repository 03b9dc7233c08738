"""What a condition may know of the policy it stands in.

Law: an approval is bound to the policy's id and digest. Non-goal: the policy itself.
"""

from typing import Protocol

from ext_authz.model import Query

Remedy = tuple[str, Query]
"""Words for a change ("with MFA") and the query so changed."""


class Grant(Protocol):
    """Identity of a compiled policy, and how many people each of its approvals needs."""

    @property
    def id(self) -> str:
        """The policy's id."""
        ...

    @property
    def digest(self) -> str:
        """The policy's digest (document.digest)."""
        ...

    @property
    def approvals(self) -> int:
        """Distinct approvers that each `approval` needs."""
        ...
