"""Forms: one reading, or none."""

import pytest
from mapping_support import LIMIT, facts

from ext_authz.mappers.multipart import MAX_PARTS, form_fields
from ext_authz.model import Reason, Refusal

WANTED = frozenset({"model", "n"})
KIND = "multipart/form-data; boundary=XX"


def part(name=b"model", value=b"m", head=b"", more=b""):
    return (
        b'--XX\r\nContent-Disposition: form-data; name="'
        + name
        + b'"'
        + more
        + b"\r\n"
        + head
        + b"\r\n"
        + value
        + b"\r\n"
    )


END = b"--XX--\r\n"
MODEL = part()
FILE = part(b"file", b"\x00\xff\r\n--X\r\n\r\n", b"Content-Type: audio/wav\r\n", b'; filename="a b.wav"')


def read(body, kind=KIND):
    return form_fields(facts("POST", body=body, headers={"content-type": kind}), LIMIT, WANTED)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (MODEL + END, {"model": "m"}),
        (MODEL + b"--XX--", {"model": "m"}),
        (FILE + MODEL + part(b"n", b"2") + part(b"other", b"x") + part(b"other", b"y") + END, {"model": "m", "n": "2"}),
        (part(value="é/x".encode()) + END, {"model": "é/x"}),
        (part(value=b"a\r\nb") + END, {"model": "a\r\nb"}),
        (part(value=b"") + END, {"model": ""}),
        (part(head=b"Content-Type: text/plain; charset=utf-8\r\n") + END, {"model": "m"}),
        (part(head=b"Content-Length: 1\r\n") + END, {"model": "m"}),
        (part(head=b"content-transfer-encoding: binary\r\n") + END, {"model": "m"}),
        (FILE + END, {}),
        (END, {}),
    ],
)
def test_a_plain_form_is_read(body, expected):
    assert read(body) == expected


def test_the_boundary_may_be_quoted():
    assert read(MODEL + END, 'multipart/form-data; boundary="XX"') == {"model": "m"}


@pytest.mark.parametrize(
    "body",
    [
        MODEL + MODEL + END,
        MODEL + part(value=b"secret") + END,
        MODEL + part(b"Model", b"secret") + END,
        MODEL + part(b" model", b"secret") + END,
        MODEL + part(b"model[]", b"secret") + END,
        MODEL + part(b"model[0]", b"secret") + END,
        MODEL + part(b"model.name", b"secret") + END,
        part(more=b'; filename="x"') + END,
        part(more=b"; name=secret") + END,
        part(more=b'; name="secret"') + END,
        part(more=b"; name*=utf-8''secret") + END,
        MODEL + part(b"x", more=b"; filename*=utf-8''y") + END,
        MODEL + part(b'x\\"; name=\\"model') + END,
        MODEL + part(b"mod%65l", b"secret") + END,
        MODEL + part(b"x;y") + END,
        MODEL + part(b"\xff") + END,
        part(value=b"\xff") + END,
        part(value=b"x" * 2000) + END,
        MODEL,
        MODEL + b"--XX\r\n",
        MODEL + b"--XX-",
        MODEL + END + b"epilogue",
        MODEL + END + MODEL + END,
        b"preamble\r\n" + MODEL + END,
        b"\r\n" + MODEL + END,
        b"",
        (MODEL + END).replace(b"\r\n", b"\n"),
        MODEL.replace(b"--XX\r\n", b"--XX \r\n") + END,
        MODEL.replace(b"--XX\r\n", b"--XXY\r\n") + END,
        part(b"file", b'x\n--XX\nContent-Disposition: form-data; name="model"\n\nsecret') + MODEL + END,
        part(b"file", b"x--XX") + MODEL + END,
        part(b"file", b"x\r\n--XXY") + MODEL + END,
        part(head=b'Content-Disposition: form-data; name="secret"\r\n') + END,
        part(b"file", more=b'; filename="x; name=model"') + MODEL + END,
        part(head=b" folded\r\n") + END,
        part(head=b"Content-Type: text/plain\r\nContent-Type: text/html\r\n") + END,
        part(head=b"Content-Type: multipart/mixed; boundary=YY\r\n") + END,
        part(head=b"Content-Type: multipart/mixed\r\n") + END,
        part(head=b"Content-Type: text/plain; charset=utf-16\r\n") + END,
        part(head=b"Content-Transfer-Encoding: base64\r\n") + END,
        part(head=b"Content-Length: 2\r\n") + END,
        part(head=b"X-Other: 1\r\n") + END,
        b"--XX\r\n\r\nm\r\n--XX--\r\n",
        b'--XX\r\nContent-Disposition: attachment; name="model"\r\n\r\nm\r\n--XX--\r\n',
        b"--XX\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n--XX--\r\n",
        b'--XX\r\nContent-Disposition:form-data; name="model"\r\n\r\nm\r\n--XX--\r\n',
        b'--XX\r\nContent-Disposition: form-data; name="model"\r\n--XX--\r\n',
        MODEL + part(b"x") * MAX_PARTS + END,
    ],
)  # fmt: skip
def test_a_form_that_parsers_read_differently_is_refused(body):
    result = read(body)
    assert isinstance(result, Refusal)
    assert result.reason is Reason.AMBIGUOUS_BODY


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=XX; boundary=YY",
        "multipart/form-data; boundary=YY; boundary=XX",
        "multipart/form-data; charset=utf-8; boundary=XX",
        "multipart/form-data; boundary=XX; charset=utf-8",
        "multipart/form-data; BOUNDARY=XX",
        "multipart/form-data; boundary*=utf-8''XX",
        'multipart/form-data; boundary="X\\X"',
        'multipart/form-data; boundary="XX',
        "multipart/mixed; boundary=XX",
        "Multipart/Form-Data; boundary=XX",
        "application/x-www-form-urlencoded",
        (KIND, KIND),
    ],
)
def test_a_content_type_of_several_readings_is_refused(kind):
    assert isinstance(read(MODEL + END, kind), Refusal)
