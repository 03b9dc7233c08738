"""The fake beside the shelf in Redis: rows of hosts in a dict, by a clock that stands still unless moved."""

from ext_authz.state import StoreError


class MemoryShelf:
    """One for all hosts. `fail` makes every call raise, as an outage does."""

    def __init__(self) -> None:
        self.refused = 0
        self.fail = ""
        self.seconds = 0.0
        self.rows: dict[str, tuple[float, int, bytes]] = {}

    def give(self, host: str, at_ns: int, payload: bytes, seconds: int) -> None:
        self._check()
        self.rows.pop(host, None)
        self.rows[host] = (self.seconds + seconds, at_ns, payload)

    def take(self, most: int) -> list[tuple[str, int, bytes]]:
        self._check()
        there = [(host, at_ns, payload) for host, (end, at_ns, payload) in self.rows.items() if end > self.seconds]
        return there[::-1][:most]

    def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.fail:
            raise StoreError(self.fail)
