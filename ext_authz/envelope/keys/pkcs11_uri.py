"""A key in a PKCS#11 token, as a user names it: an RFC 7512 URI with what is needed to find key, module and PIN.

Law: one way to say each thing; the PIN itself is never taken, and no message repeats a URI that may hold one.
Non-goal: asking the token (pkcs11_key.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ext_authz.documents import did_you_mean

_PATH: Final = ("token", "serial", "manufacturer", "model", "object", "id", "type")
_QUERY: Final = ("module-path", "pin-source")
# RFC 7512 2.3: pchar without what delimits.
_VALUE = re.compile(r"(?:[A-Za-z0-9._~\-:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*\Z")
_MAX_ID: Final = 32
_EXAMPLE: Final = "`pkcs11:token=TOKEN;object=KEY?module-path=/PATH/TO/MODULE.so&pin-source=file:/PATH/TO/PIN`"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Where a key is: labels are text, `id` is CKA_ID in lower-case hexadecimal or None for any, paths are absolute."""

    token: str
    object: str
    module: str
    pin: str
    id: str | None = None
    serial: str = ""
    manufacturer: str = ""
    model: str = ""

    @property
    def name(self) -> str:
        """What a wrapped key carries: token and object, and nothing of this machine."""
        return f"{quote(self.token, safe='')}/{quote(self.object, safe='')}"

    @property
    def rest(self) -> str:
        """The URI after `pkcs11:`, the same for the same key."""
        parts = {"token": self.token, "serial": self.serial, "manufacturer": self.manufacturer, "model": self.model}
        path = [f"{name}={quote(value, safe='')}" for name, value in {**parts, "object": self.object}.items() if value]
        if self.id is not None:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in bytes.fromhex(self.id)))
        return f"{';'.join(path)}?module-path={quote(self.module)}&pin-source=file:{quote(self.pin)}"


def parse_token_key(rest: str, base: Path | None = None) -> TokenKey:
    """Read what stands after `pkcs11:`; a relative path of the PIN is taken from `base`.

    Raises ValueError, the text for the user.
    """
    path, question, query = rest.partition("?")
    named = _attributes(path, ";", _PATH)
    asked = _attributes(query, "&", _QUERY) if question else {}
    texts = {name: _text(name, value) for name, value in named.items() if name != "id"}
    texts.update({name: _text(name, value) for name, value in asked.items()})
    for name in ("token", "object", "module-path", "pin-source"):
        if not texts.get(name):
            raise ValueError(f"a key in a token needs `{name}`: {_EXAMPLE}")
    if texts.get("type", "secret-key") != "secret-key":
        raise ValueError("a key in a token is an AES key: `type=secret-key`, or none")
    if not texts["module-path"].startswith("/"):
        raise ValueError("`module-path` is not an absolute path")
    if named.get("id") is not None and not 0 < len(named["id"]) <= _MAX_ID:
        raise ValueError(f"`id` is not from 1 to {_MAX_ID} bytes")
    return TokenKey(
        token=texts["token"],
        object=texts["object"],
        module=texts["module-path"],
        pin=_pin_path(texts["pin-source"], base),
        id=named["id"].hex() if "id" in named else None,
        serial=texts.get("serial", ""),
        manufacturer=texts.get("manufacturer", ""),
        model=texts.get("model", ""),
    )


def _attributes(text: str, between: str, known: tuple[str, ...]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(between):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise ValueError("`pin-value` puts the PIN where everybody reads it: say `pin-source=file:PATH` instead")
        if not equals or name not in known:
            if not equals or not re.fullmatch(r"[a-z-]{1,32}", name):
                raise ValueError(f"a part of the `pkcs11:` URI is not `NAME=VALUE`, as in {_EXAMPLE}")
            said = " or ".join(f"`{each}`" for each in known)
            raise ValueError(f"`{name}` is not {said}{did_you_mean(name, known)}")
        if name in found:
            raise ValueError(f"`{name}` is there twice")
        if not _VALUE.match(value):
            raise ValueError(f"`{name}` holds a character that must be written `%XX` (RFC 7512)")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"`{name}` is not UTF-8 text") from None
    if not text.isprintable():
        raise ValueError(f"`{name}` holds a character that cannot be printed")
    return text


def _pin_path(source: str, base: Path | None) -> str:
    scheme, colon, rest = source.partition(":")
    if not colon or scheme != "file":
        raise ValueError("`pin-source` is not `file:PATH`: a PIN comes from a file, not from a command or an address")
    rest = rest.removeprefix("//") if rest.startswith("///") else rest
    if not rest or rest.startswith("//"):
        raise ValueError("`pin-source` names no file on this machine")
    return str(base / rest if base is not None else Path(rest).absolute())
