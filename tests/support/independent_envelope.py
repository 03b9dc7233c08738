"""The envelope format a second time, from docs/encryption.md alone: nothing of `ext_authz` is imported here."""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PAGE = 4096


class RefusedError(Exception):
    """The second implementation does not open this."""


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    pseudorandom = hmac.digest(salt, key, "sha256")
    out, block = b"", b""
    while len(out) < length:
        block = hmac.digest(pseudorandom, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


def context(data_type: str, data_id: str) -> bytes:
    out = b""
    for text in ("app", "ext-authz", "data_id", data_id, "data_type", data_type):
        out += len(text.encode()).to_bytes(4, "big") + text.encode()
    return out


def slot(page: bytes, number: int) -> dict | None:
    if hashlib.sha256(page[:4064]).digest() != page[4064:] or page[:4] != b"SLOT":
        return None
    generation = int.from_bytes(page[4:8], "big")
    if generation % 2 != number % 2:
        return None
    at, fields = 14, {}
    lengths = (page[8], page[9], int.from_bytes(page[10:12], "big"), int.from_bytes(page[12:14], "big"))
    for name, length in zip(("provider", "version", "key_id", "wrapped"), lengths, strict=True):
        fields[name] = page[at : at + length]
        at += length
    return {"generation": generation, "mac": page[4032:4064], "signed": page[:4032], **fields}


def unwrap(found: dict, keyring: dict, about: bytes) -> bytes:
    assert found["provider"] == b"file"
    assert found["key_id"].decode() == keyring["id"]
    version = int(found["version"])
    (key,) = [base64.b64decode(each["key"]) for each in keyring["keys"] if each["version"] == version]
    label = b"ext-authz keyring 1\0" + bytes.fromhex(keyring["id"]) + version.to_bytes(4, "big")
    return AESGCM(key).decrypt(found["wrapped"][:12], found["wrapped"][12:], label + about)


def open_envelope(sealed: bytes, keyring_text: str, data_type: str, data_id: str) -> bytes:
    """Return the plain text, or raise something."""
    page, body = sealed[:PAGE], sealed[3 * PAGE :]
    if page[:12] != b"EXTAZENV\0\1\0\1":
        raise RefusedError("magic, version, algorithm")
    chunk, salt, prefix, commitment = int.from_bytes(page[12:16], "big"), page[16:48], page[48:55], page[56:88]
    kind, name = data_type.encode(), data_id.encode()
    lengths = len(kind).to_bytes(2, "big") + len(name).to_bytes(2, "big")
    if page[88:] != (lengths + kind + name).ljust(PAGE - 88, b"\0") or page[55]:
        raise RefusedError("name")
    slots = [slot(sealed[PAGE : 2 * PAGE], 1), slot(sealed[2 * PAGE : 3 * PAGE], 2)]
    found = max((each for each in slots if each), key=lambda each: each["generation"])
    keys = hkdf(unwrap(found, json.loads(keyring_text), context(data_type, data_id)), salt, b"ext-authz envelope 1", 96)
    about = hashlib.sha256(page).digest()
    if keys[32:64] != commitment or hmac.digest(keys[64:], about + found["signed"], "sha256") != found["mac"]:
        raise RefusedError("header")
    pieces = [body[at : at + chunk + 16] for at in range(0, len(body), chunk + 16)]
    plain = b""
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        nonce = prefix + number.to_bytes(4, "big") + bytes([last])
        plain += AESGCM(keys[:32]).decrypt(nonce, piece, about)
    if not pieces or (len(pieces) > 1 and len(pieces[-1]) == 16):
        raise RefusedError("chunks")
    return plain


def seal_envelope(plain: bytes, keyring_text: str, data_type: str, data_id: str, *, chunk: int, random: bytes) -> bytes:
    """Return an envelope; `random` gives data key (32), salt (32), prefix (7) and wrapping nonce (12), in this order."""
    keyring = json.loads(keyring_text)
    data_key, salt, prefix, nonce = random[:32], random[32:64], random[64:71], random[71:83]
    keys = hkdf(data_key, salt, b"ext-authz envelope 1", 96)
    kind, name = data_type.encode(), data_id.encode()
    page = b"EXTAZENV\0\1\0\1" + chunk.to_bytes(4, "big") + salt + prefix + b"\0" + keys[32:64]
    page += len(kind).to_bytes(2, "big") + len(name).to_bytes(2, "big") + kind + name
    page = page.ljust(PAGE, b"\0")
    about = hashlib.sha256(page).digest()
    (current,) = [each for each in keyring["keys"] if each["version"] == keyring["current"]]
    label = b"ext-authz keyring 1\0" + bytes.fromhex(keyring["id"]) + current["version"].to_bytes(4, "big")
    key = base64.b64decode(current["key"])
    wrapped = nonce + AESGCM(key).encrypt(nonce, data_key, label + context(data_type, data_id))
    version, key_id = str(current["version"]).encode(), keyring["id"].encode()
    signed = b"SLOT" + (1).to_bytes(4, "big") + bytes([4, len(version)])
    signed += len(key_id).to_bytes(2, "big") + len(wrapped).to_bytes(2, "big") + b"file" + version + key_id + wrapped
    signed = signed.ljust(4032, b"\0")
    checked = signed + hmac.digest(keys[64:], about + signed, "sha256")
    out = page + checked + hashlib.sha256(checked).digest() + bytes(PAGE)
    pieces = [plain[at : at + chunk] for at in range(0, len(plain), chunk)] or [b""]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        out += AESGCM(keys[:32]).encrypt(prefix + number.to_bytes(4, "big") + bytes([last]), piece, about)
    return out
