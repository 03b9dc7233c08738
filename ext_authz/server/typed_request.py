"""A request as a person types it into the page's form, as the CheckRequest that Envoy would send.

Law: nothing is guessed that decides: what was not typed is not there. Non-goal: deciding.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ext_authz.request import from_json

MAX_HEADERS: Final = 100


def check_request(typed: Mapping[str, str]) -> bytes:
    """Return the wire form. `check_request` (proto JSON) goes before the single fields. Raises ValueError."""
    whole = typed.get("check_request", "").strip()
    if whole:
        return from_json(whole)
    method, host, path = (typed.get(name, "").strip() for name in ("method", "host", "path"))
    if not (host and path):
        raise ValueError("a host and a path are needed")
    headers: dict[str, str] = {":method": method or "GET", ":authority": host, ":path": path}
    for number, line in enumerate(typed.get("headers", "").splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name or len(headers) >= MAX_HEADERS:
            raise ValueError(f"line {number} of the headers is no `name: value`")
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    body = typed.get("body", "").replace("\r\n", "\n").encode()
    http: dict[str, Any] = {
        "method": headers[":method"],
        "host": host,
        "path": path,
        "scheme": "https",
        "protocol": "HTTP/2",
        "headers": headers,
        "size": str(len(body)),
    }
    if body:
        headers.setdefault("content-length", str(len(body)))
        headers["x-envoy-auth-partial-body"] = "false"  # as Envoy says with every body that is whole
        http["rawBody"] = base64.b64encode(body).decode()
    source: dict[str, Any] = {}
    if typed.get("principal", "").strip():
        source["principal"] = typed["principal"].strip()
    if typed.get("source", "").strip():
        source["address"] = {"socketAddress": {"address": typed["source"].strip(), "portValue": 1}}
    return from_json(orjson.dumps({"attributes": {"source": source, "request": {"http": http}}}).decode())
