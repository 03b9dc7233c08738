"""The frame round every page: head, style, script, and the policy that allows nothing else.

Law: no page of ours loads or sends anything to anywhere but here. Non-goal: what a page says.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

from ext_authz.server.page.html import Child, Markup, tag

_HERE: Final = Path(__file__).parent
STYLE: Final = (_HERE / "style.css").read_text(encoding="utf-8")
SCRIPT: Final = (_HERE / "script.js").read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_digest(SCRIPT)}",
        f"style-src {_digest(STYLE)}",
        "connect-src 'self'",
        "form-action 'self'",
        "img-src data:",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of the pages (CSP Level 3)."""


def document(title: str, *body: Child, refresh: int = 0) -> bytes:
    """Return a whole page. `refresh`: seconds after which a browser without scripts loads it again, 0 never."""
    again = tag("noscript", tag("meta", http_equiv="refresh", content=refresh)) if refresh else None
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(STYLE)),
        again,
    )
    page = tag("html", head, tag("body", *body, tag("script", Markup(SCRIPT))), lang="en")
    return b"<!doctype html>\n" + page.encode("utf-8", "backslashreplace")


def login_page(status: int) -> bytes:
    """Return the page that asks for the token; `status` says what came of the last try."""
    said = {403: "That is not the token.", 429: "Too many wrong tokens: wait some seconds and try again."}.get(status)
    form = tag(
        "form",
        tag(
            "label",
            "Admin token (of admin.token_file)",
            tag("input", type="password", name="token", autocomplete="current-password", required=True, autofocus=True),
        ),
        tag("p", tag("button", "Sign in", type="submit")),
        method="post",
        action="/login",
    )
    notice = tag("p", said, class_="notice bad", role="alert") if said else None
    return document(
        "ext-authz: sign in", tag("main", tag("section", tag("h1", "ext-authz"), notice, form, class_="narrow"))
    )
