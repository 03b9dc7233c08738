"""What an operator reads of a receiver that is down."""

import socket

import pytest

from ext_authz.audit.sinks import Retry
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.http_client import Http


class NewConnectionError(Exception):
    pass


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def beneath(outer, inner):
    try:
        try:
            raise inner
        except type(inner):
            raise outer  # noqa: B904  as libraries do it
    except type(outer) as error:
        return failure(error)


def test_the_systems_words_are_found_beneath_a_librarys_exception():
    refused = ConnectionRefusedError(111, "Connection refused")
    assert failure(refused) == "connection refused"
    assert beneath(NewConnectionError("https://user:secret@host/"), refused) == "connection refused"
    assert beneath(OSError("no words"), socket.gaierror(-2, "Name or service not known")) == "name or service not known"


def test_where_there_are_none_the_kind_of_error_is_words_and_its_text_stays_out():
    assert failure(NewConnectionError("https://user:secret@host/")) == "new connection"
    assert failure(TimeoutError()) == "timeout"
    assert failure(Exception("secret")) == "exception"


def test_a_receiver_that_nobody_runs_refuses_connections():
    with pytest.raises(Retry, match=r"^connection refused$"):
        Http(f"http://127.0.0.1:{closed_port()}/in/SECRET", seconds=5).post(b"{}", "application/json")
