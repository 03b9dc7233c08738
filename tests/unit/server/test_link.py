import os

from ext_authz.server.link import Kind, adopt, pair


def test_messages_arrive_whole_and_in_order():
    ours, descriptor = pair()
    theirs = adopt(descriptor)
    ours.post(Kind.SNAPSHOT, b"x" * 100_000)
    ours.post(Kind.DRAIN)
    assert theirs.receive() == (Kind.SNAPSHOT, b"x" * 100_000)
    assert theirs.receive() == (Kind.DRAIN, b"")
    ours.close()
    theirs.close()


def test_a_closed_link_is_an_end_and_not_an_error():
    ours, descriptor = pair()
    os.close(descriptor)
    assert ours.receive() is None
    assert not ours.send(Kind.READY, b"listening")
    ours.close()


def test_posting_to_a_process_that_does_not_read_holds_up_nobody():
    ours, descriptor = pair()
    for _ in range(50):
        ours.post(Kind.SNAPSHOT, b"x" * 1_000_000)
    os.close(descriptor)
    ours.close()
