"""The admin token as it is read at every request, also after its file was replaced without a reload."""

import pytest

from ext_authz.config.listeners import MIN_TOKEN, admin_token

GOOD = b"t" * MIN_TOKEN


@pytest.mark.parametrize("written", [GOOD, GOOD + b"\n", b" " + GOOD + b"\r\n"])
def test_a_token_is_taken_without_blanks_at_its_ends(written):
    assert admin_token(written) == GOOD.decode()


@pytest.mark.parametrize("written", [b"", b"\n", b"t" * (MIN_TOKEN - 1), GOOD + b" x", GOOD + b"\xff", GOOD + b"\nx"])
def test_what_could_be_guessed_or_sent_by_nobody_opens_nothing(written):
    assert admin_token(written) == ""
