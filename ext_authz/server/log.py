"""One line on stderr for each noteworthy thing; never one per check."""

import datetime as dt
import sys


def line(process: str, message: str) -> None:
    """Write `TIME ext-authz[PROCESS] MESSAGE` in one write; newlines in the message are indented."""
    stamp = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = message.replace("\n", "\n  ")
    try:
        sys.stderr.write(f"{stamp} ext-authz[{process}] {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # whoever read stderr has gone; decisions go on
