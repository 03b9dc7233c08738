"""A process that talks to one PKCS#11 module, run as a script: a JSON line asks, a JSON line answers.

A vendor's library may hang, crash, fork badly or need one thread; here that ends nothing but this process. Law: the PIN
is read here and leaves by C_Login alone. It knows the standard library and `pkcs11`, and nothing of the program.
"""

# ruff: noqa: ANN401, BLE001  the library is imported late, and raises what its module makes it

import contextlib
import fcntl
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

NONCE: Final = 12
TAG_BITS: Final = 128
KEY_BYTES: Final = 32
SECONDS: Final = 15
"""How long one request may take; then the kernel ends this process, whatever the module is doing."""

_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_MAX_PIN: Final = 256


class RefusedError(Exception):
    """An answer that is no key: `kind` is `altered`, `pin`, `token` (worth a fresh start) or `user`."""

    def __init__(self, kind: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.answer = {"error": kind, "text": text, **more}


class TokenSession:
    """One session with one token, opened when it is first needed. `place` is a TokenKey as a mapping."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        self.place = place
        self._session: Any = None

    def wrap(self, data_key: bytes, nonce: bytes, about: Sequence[str]) -> dict[str, Any]:
        """Encrypt under the newest version; `about` is as `associated` wants it."""
        key, version = self._keys()[-1]
        _fit_to_wrap(key, version)
        aad = associated(about, version)
        try:
            sealed = _crypt(key.encrypt, data_key, nonce, aad)
            opened = _crypt(key.decrypt, sealed, nonce, aad)
        except Exception as error:
            raise RefusedError("token", f"the token does not wrap ({said(error)})") from None
        if opened != data_key or len(sealed) != KEY_BYTES + TAG_BITS // 8:
            raise RefusedError("user", "the token does not open what it wraps: not AES-GCM as SP 800-38D has it")
        return {"blob": (nonce + sealed).hex(), "version": version}

    def unwrap(self, blob: bytes, version: str, about: Sequence[str]) -> dict[str, Any]:
        """Decrypt under the key of that version."""
        keys = {found: key for key, found in self._keys()}
        if version not in keys:
            raise RefusedError("user", f"the token has no key of this name with the id `{version}`")
        key, aad = keys[version], associated(about, version)
        nonce, sealed = blob[:NONCE], blob[NONCE:]
        try:
            return {"data_key": _crypt(key.decrypt, sealed, nonce, aad).hex()}
        except Exception as error:  # CKR_GENERAL_ERROR is what SoftHSM says of a wrong tag, and of a token that is gone
            try:
                probe = os.urandom(KEY_BYTES)
                nonce = os.urandom(NONCE)
                works = _crypt(key.decrypt, _crypt(key.encrypt, probe, nonce, b""), nonce, b"") == probe
            except Exception:
                works = False
            if works:
                raise RefusedError("altered", "the wrapped data key was altered") from None
            raise RefusedError("token", f"the token does not unwrap ({said(error)})") from None

    def close(self) -> None:
        """Log out, as far as the token still listens."""
        if self._session is not None:
            with contextlib.suppress(Exception):
                self._session.close()

    def _keys(self) -> list[tuple[Any, str]]:
        """Return the keys that the URI names with their ids, the newest (the highest id) last."""
        try:
            from pkcs11 import Attribute, KeyType, ObjectClass
        except ImportError:
            raise RefusedError("user", "needs the extra `pkcs11`: `pip install 'ext-authz[pkcs11]'`") from None
        wanted = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: True,
            Attribute.LABEL: self.place["object"],
        }
        if self.place["id"] is not None:
            wanted[Attribute.ID] = bytes.fromhex(self.place["id"])
        try:
            session = self._opened()
            found = [(key, bytes(key[Attribute.ID]).hex()) for key in session.get_objects(wanted)]
        except RefusedError:
            raise
        except Exception as error:
            raise RefusedError("token", f"the token cannot be searched ({said(error)})") from None
        versions = [version for _, version in found]
        if not found:
            which = " and this `id`" if self.place["id"] is not None else ""
            raise RefusedError("user", f"the token has no AES key `{self.place['object']}`{which} for this PIN")
        if len(set(versions)) < len(versions):
            raise RefusedError("user", "the token has two keys of this name with the same id")
        return sorted(found, key=lambda each: (len(each[1]), each[1]))

    def _opened(self) -> Any:
        if self._session is None:
            token = self._token()
            with pin_of(self.place["pin"]) as (pin, identity):
                check_tries(token.flags)
                self._session = _login(token, pin, identity)
        return self._session

    def _token(self) -> Any:
        module = self.place["module"]
        _check_module(module)
        import pkcs11

        try:
            library = pkcs11.lib(module)
        except Exception as error:
            raise RefusedError("user", f"cannot load the module `{module}` ({said(error)})") from None
        fitting = []
        try:
            for slot in library.get_slots(token_present=True):
                with contextlib.suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                    token = slot.get_token()
                    if self._fits(token):
                        fitting.append((slot, token))
        except Exception as error:
            raise RefusedError("token", f"`{module}` does not list its tokens ({said(error)})") from None
        if not fitting:
            raise RefusedError("token", f"there is no such token (`{module}`)")
        if len(fitting) > 1:
            raise RefusedError("user", "several tokens fit: say its `serial` too")
        slot, token = fitting[0]
        if pkcs11.Mechanism.AES_GCM not in slot.get_mechanisms():
            raise RefusedError("user", "the token does not offer CKM_AES_GCM")
        return token

    def _fits(self, token: Any) -> bool:
        has = {
            "token": token.label,
            "serial": _plain(token.serial),
            "manufacturer": _plain(token.manufacturer_id),
            "model": _plain(token.model),
        }
        return all(not self.place[name] or self.place[name] == value for name, value in has.items())


def _plain(value: str | bytes) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).rstrip(" \0")


def associated(about: Sequence[str], version: str) -> bytes:
    """Return the associated data: of `about`, in hexadecimal, what stands before the version and what behind it.

    Which version wraps only the token knows.
    """
    before, behind = about
    return bytes.fromhex(before) + len(version).to_bytes(2, "big") + version.encode() + bytes.fromhex(behind)


def _crypt(method: Any, data: bytes, nonce: bytes, aad: bytes) -> bytes:
    from pkcs11 import Mechanism
    from pkcs11.mechanisms import GCMParams

    # The library keeps pointers into it and no reference: it lives here until the call is over.
    parameters = GCMParams(nonce, aad, TAG_BITS)
    return bytes(method(data, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))


def _fit_to_wrap(key: Any, version: str) -> None:
    """Refuse to wrap under a key that can leave its token, or is not what it should be; such a key still opens."""
    from pkcs11 import Attribute

    if not 0 < len(version) <= 2 * KEY_BYTES:
        raise RefusedError("user", "the key has no id of 1 to 32 bytes (CKA_ID)")
    try:
        extractable, sensitive = bool(key[Attribute.EXTRACTABLE]), bool(key[Attribute.SENSITIVE])
        length, usable = int(key[Attribute.VALUE_LEN]), key[Attribute.ENCRYPT] and key[Attribute.DECRYPT]
    except Exception as error:
        raise RefusedError("token", f"the token does not describe its key ({said(error)})") from None
    if extractable or not sensitive:
        text = "the key can be taken out of its token (CKA_EXTRACTABLE or not CKA_SENSITIVE)"
        raise RefusedError("user", f"{text}: nothing is wrapped under it")
    if length != KEY_BYTES:
        raise RefusedError("user", f"the key is of {length * 8} bits, not of 256")
    if not usable:
        raise RefusedError("user", "the key is not for encrypting and decrypting (CKA_ENCRYPT, CKA_DECRYPT)")


def _check_module(path: str) -> None:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise RefusedError("user", f"cannot use the module `{path}`: {(error.strerror or 'failed').lower()}") from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & _OTHERS_WRITE or not stat.S_ISREG(found.st_mode):
        raise RefusedError("user", f"the module `{path}` is not a file that only you or root can change")


@contextlib.contextmanager
def pin_of(path: str) -> Iterator[tuple[str, list[int]]]:
    """Yield the PIN in a file and what tells the file from a later one; no two logins by one file at once."""
    shown = f"the PIN's file `{path}`"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RefusedError("user", f"cannot read {shown}: {(error.strerror or 'failed').lower()}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError("user", f"{shown} is not a regular file")
        if found.st_uid not in (os.geteuid(), 0):
            raise RefusedError("user", f"{shown} belongs to another user")
        if found.st_mode & _OTHERS:
            mode = stat.S_IMODE(found.st_mode)
            raise RefusedError("user", f"{shown} can be used by others (mode {mode:04o}): `chmod 600 {path}`")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        raw = os.read(descriptor, _MAX_PIN + 2).removesuffix(b"\n")
        try:
            pin = raw.decode()
        except UnicodeDecodeError:
            pin = ""
        if not pin or len(raw) > _MAX_PIN or not pin.isprintable():
            raise RefusedError("user", f"{shown} does not hold a PIN alone, on one line")
        yield pin, identity_of(found)
    finally:
        os.close(descriptor)


def identity_of(found: os.stat_result) -> list[int]:
    """Return what changes when a file is written or replaced."""
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def check_tries(flags: int) -> None:
    """Refuse to log in where a wrong PIN would lock the token: CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED."""
    from pkcs11 import TokenFlag

    if flags & TokenFlag.USER_PIN_LOCKED:
        raise RefusedError("user", "the token's PIN is locked")
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        text = "one more wrong PIN would lock the token: log in once by its own tools, then start again"
        raise RefusedError("user", text)


def _login(token: Any, pin: str, identity: list[int]) -> Any:
    import pkcs11

    try:
        return token.open(user_pin=pin)
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
        raise RefusedError("pin", "the PIN is wrong", file=identity) from None
    except pkcs11.PinLocked:
        raise RefusedError("user", "the token's PIN is locked") from None
    except Exception as error:
        raise RefusedError("token", f"cannot log in ({said(error)})") from None


def said(error: Exception) -> str:
    """Return what a library's error says, on one line and bounded."""
    text = f"{type(error).__name__} {error}"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def answer(session: TokenSession, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request asks, once; every answer is a mapping, with `error` where it failed."""
    try:
        if request["ask"] == "wrap":
            return session.wrap(bytes.fromhex(request["data_key"]), bytes.fromhex(request["nonce"]), request["about"])
        return session.unwrap(bytes.fromhex(request["blob"]), request["version"], request["about"])
    except RefusedError as refused:
        return refused.answer


def serve(source: BinaryIO, out: BinaryIO) -> None:
    """Answer until the one who asks is gone; the first line says where the key is."""
    session = TokenSession(json.loads(source.readline() or b"{}"))
    for line in source:
        signal.alarm(SECONDS)
        made = answer(session, json.loads(line))
        signal.alarm(0)
        out.write(json.dumps(made).encode() + b"\n")
        out.flush()
    signal.alarm(1)
    session.close()


def main() -> None:
    """Serve stdin and stdout; what the module prints goes nowhere, and no core holds the PIN."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGTERM})
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # stderr is /dev/null
        with contextlib.suppress(BrokenPipeError):
            serve(sys.stdin.buffer, out)


if __name__ == "__main__":
    main()
