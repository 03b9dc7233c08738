"""One line on stderr for each noteworthy thing, as text or as JSON; never one per check.

Law: a message is one line whatever it holds, so that nothing in it can look like another one.
"""

import datetime as dt
import json
import sys
from typing import Literal

from ext_authz.documents import printable

Format = Literal["text", "json"]

_as_json = False


def use(form: Format) -> None:
    """Write in this form from now on, in this process."""
    global _as_json  # noqa: PLW0603  one stderr, one form
    _as_json = form == "json"


def line(process: str, message: str, *, level: Literal["info", "warning", "error"] = "info") -> None:
    """Write a line in one write.

    As text `TIME ext-authz[PROCESS] MESSAGE`, newlines in the message indented, what cannot be printed escaped; as
    JSON an object of `time`, `level`, `process` and `message`.
    """
    stamp = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if _as_json:
        written = json.dumps({"time": stamp, "level": level, "process": process, "message": message})
    else:
        text = "\n  ".join(printable(each) for each in message.split("\n"))
        written = f"{stamp} ext-authz[{process}] {text}"
    try:
        sys.stderr.write(f"{written}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # whoever read stderr has gone; decisions go on
