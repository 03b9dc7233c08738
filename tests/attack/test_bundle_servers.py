"""What a hostile server of bundles, which holds no key, makes the sidecar do or say."""

import base64
import json
import socket
import threading

import pytest
from bundles import FILES, fresh, rebuilt

from ext_authz.bundle.archive import open_bundle
from ext_authz.bundle.keys import by_id
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.settings import BundleSettings
from ext_authz.bundle.trust import Trust
from ext_authz.server.bundles import BundleKeeper
from ext_authz.server.fetching import Document, FetchError, fetch


@pytest.fixture
def answering():
    """Serve one raw answer after the other to whoever connects; return the URL."""
    listeners = []

    def serve(*answers: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            for each in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(each)

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/b.tar.gz"

    yield serve
    for each in listeners:
        each.close()


NOWHERE = b"HTTP/1.1 302 Found\r\nlocation: //[::1\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        NOWHERE,
        b"HTTP/1.1 302 Found\r\nlocation: http://[x]/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: //127.0.0.1:99999999/\x1b[2J\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /\x1b[2J\xff\r\n\r\n",
        b"\x1b[2Jext-authz: all is well\r\n\r\n",
        b"HTTP/1.1 200 \x1b]0;x\x07\r\ntransfer-encoding: chunked\r\n\r\n\x1b[2J\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nabc",
    ],
)
def test_whatever_a_server_answers_is_one_printable_failure(answering, answer):
    with pytest.raises(FetchError) as error:
        fetch(answering(answer), seconds=5)
    assert str(error.value).isprintable()


def settings_of(url):
    return BundleSettings(url=url, name="ml-prod", public_keys=("k.pub",), poll=3600)


def came(keeper):
    end = threading.Event()
    for _ in range(500):
        if (found := keeper.taken()) is not None:
            return found
        end.wait(0.02)
    raise AssertionError("nothing came")


def test_a_redirect_to_what_is_no_url_does_not_end_the_asking_for_ever(answering, tmp_path):
    good = fresh("policies: [{id: a, effect: deny}]\n")
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(good)}\r\n\r\n".encode()
    keeper = BundleKeeper(tmp_path)
    keeper.aim(settings_of(answering(NOWHERE, head + good)))
    assert came(keeper).failure == "redirects to what is no URL"
    keeper.look()
    assert came(keeper).archive == good
    keeper.stop()


def test_a_fault_of_our_own_does_not_end_the_asking_either(tmp_path):
    answers = iter([RuntimeError("unforeseen"), Document(b"archive", None)])

    def ask(_settings, _etag):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    keeper = BundleKeeper(tmp_path, fetch=ask)
    keeper.aim(settings_of("http://127.0.0.1:1/b"))
    assert came(keeper).failure == "RuntimeError"
    keeper.look()
    assert came(keeper).archive == b"archive"
    keeper.stop()


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202e", "\ud800", "\x9b2J"])
def test_the_names_of_unknown_signers_act_on_no_terminal_and_break_no_log(name):
    row = {"key": name, "signature": base64.b64encode(bytes(64)).decode()}
    forged = json.dumps({"signatures": [row]}).encode()
    archive = rebuilt(
        fresh(FILES["policies/a.yaml"].decode()), lambda found: [found[0], (found[1][0], forged), *found[2:]]
    )
    with pytest.raises(BundleError) as error:
        open_bundle(archive, Trust(by_id([]), "ml-prod"), 0)
    assert error.value.problem is Problem.UNTRUSTED_KEY
    assert str(error.value).isprintable()
    assert str(error.value).encode("utf-8")
