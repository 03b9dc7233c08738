"""The reference shows every row there is."""

from mapping_docs import FILE, updated

from ext_authz.mappers.entries import KEYS


def test_the_tables_of_the_reference_are_those_of_the_code():
    text = FILE.read_text()
    assert updated(text) == text, "run `python tests/support/mapping_docs.py`"


def test_the_reference_names_every_key_of_a_route():
    text = FILE.read_text()
    assert [key for key in KEYS if f"| `{key}`" not in text and f", `{key}`" not in text] == []
