"""Keys in a PKCS#11 token, against SoftHSM: versions, PINs, tokens that go and come, keys that are none, processes."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import softhsm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from envelopes import NAME
from sidecar_process import wait_until

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys import open_key, parse_reference, pkcs11_key, pkcs11_process

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
DATA_KEY = bytes(range(32))
GOOD = "pkcs11:token=t;object=k?module-path=/m.so&pin-source=file:/pin"


@pytest.fixture
def token(tmp_path, monkeypatch):
    monkeypatch.setattr(pkcs11_key, "_wrong_pins", {})
    made = softhsm.Token(tmp_path)
    made.key("kek")
    return made


def opened(token, name="kek", more="", **options):
    return open_key(parse_reference(token.uri(name, more, **options)), token.environment)


def process_of(key):
    return key._agent._process.pid


def test_a_wrapped_key_names_token_key_and_version_and_nothing_of_this_machine(token):
    wrapped = opened(token).wrap(DATA_KEY, NAME.context)
    assert str(wrapped) == "pkcs11:audit%20token/kek version 01"
    assert len(wrapped.blob) == 12 + 32 + 16


def test_it_is_aes_gcm_that_another_implementation_opens(token):
    raw = os.urandom(32)
    script = (
        "import sys, pkcs11\n"
        "from pkcs11 import Attribute as A\n"
        "with pkcs11.lib(sys.argv[1]).get_token().open(rw=True, user_pin=sys.argv[2]) as session:\n"
        "    session.create_object({A.CLASS: pkcs11.ObjectClass.SECRET_KEY, A.KEY_TYPE: pkcs11.KeyType.AES,\n"
        "        A.VALUE: bytes.fromhex(sys.argv[3]), A.LABEL: 'known', A.ID: b'\\x07', A.TOKEN: True,\n"
        "        A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False, A.ENCRYPT: True, A.DECRYPT: True})\n"
    ).replace("get_token()", f"get_token(token_label={token.label!r})")
    token.run(sys.executable, "-c", script, token.module, softhsm.PIN, raw.hex())
    blob = opened(token, "known").wrap(DATA_KEY, {"a": "b"}).blob
    # docs/encryption.md, by hand
    about = b"ext-authz pkcs11 1\0" + b"\0\x13audit%20token/known" + b"\0\x0207" + b"\0\0\0\1a\0\0\0\1b"
    assert AESGCM(raw).decrypt(blob[:12], blob[12:], about) == DATA_KEY


def test_a_version_that_no_token_has_is_refused_before_it_is_asked(token):
    key = opened(token)
    wrapped = key.wrap(DATA_KEY, NAME.context)
    with pytest.raises(AlteredError):
        key.unwrap(replace(wrapped, key_version="0" * 70_000), NAME.context)
    for version in ("", "1", "01\n", "zz", "0a"):
        with pytest.raises(KeyUnavailableError, match="no key of this name with the id"):
            key.unwrap(replace(wrapped, key_version=version), NAME.context)


def test_no_nonce_comes_twice(token):
    key = opened(token)
    nonces = {key.wrap(DATA_KEY, NAME.context).blob[:12] for _ in range(50)}
    assert len(nonces) == 50


def test_the_key_with_the_highest_id_wraps_and_older_ones_open(token):
    key = opened(token)
    old = key.wrap(DATA_KEY, NAME.context)
    token.key("kek", "0a")
    token.key("kek", "09")
    token.key("other", "ff")
    again = opened(token)
    new = again.wrap(DATA_KEY, NAME.context)
    assert (old.key_version, new.key_version) == ("01", "0a")
    assert again.unwrap(old, NAME.context) == again.unwrap(new, NAME.context) == DATA_KEY
    with pytest.raises(AlteredError):
        again.unwrap(replace(old, key_version="09"), NAME.context)


def test_an_id_in_the_uri_holds_wrapping_and_opening_to_it(token):
    token.key("kek", "02")
    first = opened(token, more=";id=%01")
    wrapped = first.wrap(DATA_KEY, NAME.context)
    assert wrapped.key_version == "01"
    with pytest.raises(KeyUnavailableError, match="no key of this name with the id `02`"):
        first.unwrap(replace(wrapped, key_version="02"), NAME.context)
    with pytest.raises(KeyUnavailableError, match="no AES key `kek` and this `id` for this PIN"):
        opened(token, more=";id=%77").wrap(DATA_KEY, NAME.context)


def test_two_keys_that_cannot_be_told_apart_are_refused(token):
    token.key("kek", "01")
    with pytest.raises(KeyUnavailableError, match="two keys of this name with the same id"):
        opened(token).wrap(DATA_KEY, NAME.context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"EXTRACTABLE": True}, "can be taken out of its token"),
        ({"SENSITIVE": False}, "can be taken out of its token"),
        ({"ENCRYPT": False}, "not for encrypting"),
        ({"bits": 128}, "of 128 bits, not of 256"),
        ({"id_": ""}, "no id of 1 to 32 bytes"),
    ],
    ids=str,
)
def test_a_key_that_is_not_fit_does_not_wrap(token, change, message):
    token.key("bad", **change)
    with pytest.raises(KeyUnavailableError, match=message):
        opened(token, "bad").wrap(DATA_KEY, NAME.context)


def test_what_was_wrapped_before_a_key_was_found_out_still_opens(token, monkeypatch):
    token.key("weak", EXTRACTABLE=True)
    place = json.loads(json.dumps({**pkcs11_key.asdict(opened(token, "weak").place)}))
    session = pkcs11_process.TokenSession(place)
    monkeypatch.setattr(pkcs11_process, "_fit_to_wrap", lambda *_: None)
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    key = opened(token, "weak")
    about = key._about(NAME.context)
    made = session.wrap(DATA_KEY, os.urandom(12), about)
    session.close()
    wrapped = pkcs11_key.WrappedKey("pkcs11", key.place.name, "01", bytes.fromhex(made["blob"]))
    assert key.unwrap(wrapped, NAME.context) == DATA_KEY


def test_a_wrong_pin_is_tried_once_until_its_file_changes(token, monkeypatch):
    asked = []
    once = pkcs11_key.Pkcs11Key._once
    monkeypatch.setattr(pkcs11_key.Pkcs11Key, "_once", lambda key, request: asked.append(1) or once(key, request))
    token.write_pin("wrong-pin")
    for _ in range(5):
        with pytest.raises(KeyUnavailableError, match="wrong") as refused:
            opened(token).wrap(DATA_KEY, NAME.context)
        assert "wrong-pin" not in str(refused.value)
    assert len(asked) == 1
    token.write_pin(softhsm.PIN)
    assert opened(token).wrap(DATA_KEY, NAME.context).key_version == "01"


def test_a_try_that_could_lock_the_token_is_not_made():
    from pkcs11 import TokenFlag

    with pytest.raises(pkcs11_process.RefusedError, match="one more wrong PIN would lock"):
        pkcs11_process.check_tries(TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.LOGIN_REQUIRED)
    with pytest.raises(pkcs11_process.RefusedError, match="is locked"):
        pkcs11_process.check_tries(TokenFlag.USER_PIN_LOCKED)
    pkcs11_process.check_tries(TokenFlag.USER_PIN_COUNT_LOW)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda pin: pin.chmod(0o640), r"can be used by others \(mode 0640\)"),
        (lambda pin: pin.unlink(), "no such file"),
        (lambda pin: (pin.unlink(), os.mkfifo(pin, 0o600)), "not a regular file"),
        (lambda pin: pin.write_text(""), "does not hold a PIN alone"),
        (lambda pin: pin.write_text("12\n34\n"), "does not hold a PIN alone"),
        (lambda pin: pin.write_text("1" * 300), "does not hold a PIN alone"),
        (lambda pin: pin.write_bytes(b"\xff\xfe"), "does not hold a PIN alone"),
    ],
)
def test_a_pin_file_that_others_can_read_or_that_holds_no_pin_is_refused_before_the_token_is_asked(
    token, prepare, message
):
    prepare(token.pin)
    with pytest.raises(KeyUnavailableError, match=message):
        opened(token).wrap(DATA_KEY, NAME.context)
    assert not token.flags & 0x10000  # CKF_USER_PIN_COUNT_LOW: no wrong PIN was given


def test_no_module_no_token_and_no_key_are_told_apart(token, tmp_path):
    for change, message in [
        (("libsofthsm2.so", "nosuch.so"), "cannot use the module .*no such file"),
        (("audit%20token", "elsewhere"), "there is no such token"),
        (("object=kek", "object=nokey"), "no AES key `nokey` for this PIN"),
        (("object=", "serial=0;object="), "there is no such token"),
    ]:
        key = open_key(parse_reference(token.uri("kek").replace(*change)), token.environment)
        with pytest.raises(KeyUnavailableError, match=message) as refused:
            key.wrap(DATA_KEY, NAME.context)
        assert str(refused.value).isprintable()
    no_module = tmp_path / "none.so"
    no_module.write_text("none")
    key = open_key(parse_reference(token.uri("kek").replace(token.module, str(no_module))), token.environment)
    with pytest.raises(KeyUnavailableError, match="cannot load the module"):
        key.wrap(DATA_KEY, NAME.context)
    no_module.chmod(0o666)
    with pytest.raises(KeyUnavailableError, match="only you or root can change"):
        key.wrap(DATA_KEY, NAME.context)


def test_two_tokens_of_one_label_are_refused_until_the_serial_is_said(token, tmp_path):
    (tmp_path / "other").mkdir()
    softhsm.Token(tmp_path / "other", like=token)
    key = opened(token)
    with pytest.raises(KeyUnavailableError, match="several tokens fit"):
        key.wrap(DATA_KEY, NAME.context)


def test_a_token_that_goes_and_comes_back_is_used_again_without_a_restart(token):
    key = opened(token)
    wrapped = key.wrap(DATA_KEY, NAME.context)
    token.away()
    for ask in (lambda: key.wrap(DATA_KEY, NAME.context), lambda: key.unwrap(wrapped, NAME.context)):
        with pytest.raises(KeyUnavailableError):
            ask()
    token.back()
    assert key.unwrap(wrapped, NAME.context) == DATA_KEY


def test_a_session_that_is_killed_is_begun_anew(token):
    key = opened(token)
    wrapped = key.wrap(DATA_KEY, NAME.context)
    os.kill(process_of(key), signal.SIGKILL)
    assert key.unwrap(wrapped, NAME.context) == DATA_KEY


def test_a_module_that_hangs_is_given_up_in_time_and_the_next_call_works(token, monkeypatch):
    key = opened(token)
    wrapped = key.wrap(DATA_KEY, NAME.context)
    monkeypatch.setattr(pkcs11_key, "_PATIENCE", 0.2)
    hanging = process_of(key)
    os.kill(hanging, signal.SIGSTOP)
    monkeypatch.setattr(pkcs11_key.Pkcs11Key, "_once", _first_only(pkcs11_key.Pkcs11Key._once))
    with pytest.raises(KeyUnavailableError, match="no answer from its module within 0 s"):
        key.unwrap(wrapped, NAME.context)
    assert not os.path.exists(f"/proc/{hanging}")
    monkeypatch.undo()
    assert key.unwrap(wrapped, NAME.context) == DATA_KEY


def _first_only(once):
    answers = []

    def asked(key, request):
        if not answers:
            answers.append(once(key, request))
        return answers[0]

    return asked


@pytest.mark.skipif(not shutil.which("cc"), reason="a module that misbehaves is made with a C compiler (package `gcc`)")
def test_a_module_that_crashes_or_never_returns_ends_only_its_own_process(token, tmp_path):
    for body, message in [("abort();", "ended"), ("for (;;) pause();", "hangs")]:
        source, module = tmp_path / "bad.c", tmp_path / f"{message}.so"
        source.write_text(
            "#include <stdlib.h>\n#include <unistd.h>\n"
            f"unsigned long C_GetFunctionList(void *list) {{ alarm(1); {body} return 5; }}\n"
        )
        subprocess.run(["cc", "-shared", "-fPIC", "-o", module, source], check=True)
        key = open_key(parse_reference(token.uri("kek").replace(token.module, str(module))), token.environment)
        with pytest.raises(KeyUnavailableError, match=message):
            key.wrap(DATA_KEY, NAME.context)


def test_a_forked_process_opens_its_own_session_and_leaves_its_parents_alone(token):
    key = opened(token)
    wrapped = key.wrap(DATA_KEY, NAME.context)
    theirs = process_of(key)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            same = key.unwrap(wrapped, NAME.context) == DATA_KEY
            os.write(writing, json.dumps([same, process_of(key)]).encode())
            key.close()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        same, own = json.loads(told.read())
    os.waitpid(pid, 0)
    assert same
    assert own != theirs
    assert key.unwrap(wrapped, NAME.context) == DATA_KEY
    assert process_of(key) == theirs


def test_threads_share_one_session_and_never_each_others_answers(token):
    key = opened(token)
    wrapped = [key.wrap(bytes([number]) * 32, NAME.context) for number in range(8)]
    wrong = []

    def ask(number):
        answers = {key.unwrap(wrapped[number], NAME.context) for _ in range(20)}
        wrong.extend(answers - {bytes([number]) * 32})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_session_that_nobody_uses_ends_and_so_does_one_whose_key_is_gone(token, monkeypatch):
    monkeypatch.setattr(pkcs11_key, "IDLE_SECONDS", 0.05)
    keys = [opened(token)]
    keys[0].wrap(DATA_KEY, NAME.context)
    wait_until(lambda: keys[0]._agent is None, what="the end of an idle session")
    monkeypatch.undo()
    keys[0].wrap(DATA_KEY, NAME.context)
    pid = process_of(keys[0])
    keys.clear()
    gc.collect()
    assert not os.path.exists(f"/proc/{pid}")


def test_neither_command_line_nor_environment_of_the_process_holds_a_secret(token):
    key = opened(token)
    key.wrap(DATA_KEY, NAME.context)
    for name in ("cmdline", "environ"):
        with open(f"/proc/{process_of(key)}/{name}", "rb") as file:
            seen = file.read()
        assert softhsm.PIN.encode() not in seen
        assert DATA_KEY.hex().encode() not in seen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkcs11:", "names no key after"),
        ("pkcs11:kek", r"not `NAME=VALUE`"),
        (GOOD.replace("token=t;", ""), "needs `token`"),
        (GOOD.replace(";object=k", ""), "needs `object`"),
        (GOOD.partition("?")[0], "needs `module-path`"),
        (GOOD.partition("&")[0], "needs `pin-source`"),
        (GOOD.replace("token=t", "token=t;token=t"), "`token` is there twice"),
        (GOOD.replace("object", "objet"), "did you mean `object`"),
        (GOOD.replace("token=t", "slot-id=0;token=t"), "`slot-id` is not `token`"),
        (GOOD.replace("module-path", "module-name"), "`module-name` is not `module-path`"),
        (GOOD.replace("/m.so", "m.so"), "not an absolute path"),
        (GOOD.replace("file:/pin", "|cat%20/pin"), "not `file:PATH`"),
        (GOOD.replace("file:/pin", "https://x/pin"), "not `file:PATH`"),
        (GOOD.replace("file:/pin", "/pin"), "not `file:PATH`"),
        (GOOD.replace("file:/pin", "file://host/pin"), "no file on this machine"),
        (GOOD.replace("object=k", "object=a%0ab"), "cannot be printed"),
        (GOOD.replace("object=k", "object=%ff"), "not UTF-8"),
        (GOOD.replace("object=k", "object=a%2"), "must be written `%XX`"),
        (GOOD.replace("object=k", "object=a b"), "must be written `%XX`"),
        (GOOD.replace("object=k", "object=k;id="), "`id` is not from 1 to 32 bytes"),
        (GOOD.replace("object=k", "object=k;id=" + "%00" * 33), "`id` is not from 1 to 32 bytes"),
        (GOOD.replace("object=k", "object=k;type=private"), "an AES key"),
    ],
)
def test_a_uri_that_names_no_key_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_reference(text)


@pytest.mark.parametrize(
    "text", [GOOD + "&pin-value=12340", GOOD.replace("?", "?pin-value=12340&"), "pkcs11:pin-value=12340"]
)
def test_a_pin_in_the_uri_is_refused_and_not_repeated(text):
    with pytest.raises(ValueError, match="say `pin-source=file:PATH`") as refused:
        parse_reference(text)
    assert "12340" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "pkcs11:token=a%20b%2F%3B;serial=1%3D;manufacturer=m;model=x;object=%C3%A9%26;id=%01%FF?module-path=/m%20n.so&pin-source=file:/a%26b",
    ],
)
def test_a_uri_reads_back_as_it_was_written(text):
    assert str(parse_reference(text)) == text
    assert str(parse_reference(str(parse_reference(text)))) == text


def test_a_relative_pin_file_is_taken_from_the_folder_that_is_given(tmp_path):
    relative = GOOD.replace("file:/pin", "file:keys/pin")
    assert str(parse_reference(relative, tmp_path)).endswith(f"pin-source=file:{tmp_path}/keys/pin")
    absolute = GOOD.replace("file:/pin", "file:///pin")
    assert str(parse_reference(absolute, tmp_path)).endswith("pin-source=file:/pin")
