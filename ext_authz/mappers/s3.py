"""S3-style object stores: `s3` with the bucket in the path, `s3-virtual-host` with the bucket in the host.

Law: a parameter or header that changes what a request does is read; one that
is not known here is `admin`. A copy reads its source. Keys that proxies would
rewrite (`//`, dot segments, a `/` at the end) are refused. Non-goal: signatures.
"""

from collections.abc import Mapping
from typing import Final

from ext_authz.mappers.adapter import Adapter, Call, HostStyle, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import refuse, whole
from ext_authz.mappers.path import canonicalise
from ext_authz.mappers.places import EVERYTHING, name_problem, version_problem
from ext_authz.mappers.query import every_parameter
from ext_authz.mappers.s3_delete import doomed
from ext_authz.model import AttributeValue, Reason, Refusal

_COPY: Final = "x-amz-copy-source"
_ACL: Final = "x-amz-acl"
_PRIVATE: Final = ("private", "bucket-owner-full-control", "bucket-owner-read")
_GRANTS: Final = (
    *(f"x-amz-grant-{right}" for right in ("read", "write", "read-acp", "write-acp", "full-control")),
    "x-amz-bypass-governance-retention",
)
# Parameters that change no meaning: paging, presigned signatures, what SDKs add.
_PLAIN: Final = frozenset({
    "list-type", "prefix", "delimiter", "marker", "max-keys", "continuation-token", "start-after", "encoding-type",
    "fetch-owner", "key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "max-parts",
    "part-number-marker", "partNumber", "uploadId", "versionId", "x-id", "response-content-type",
    "response-content-language", "response-expires", "response-cache-control", "response-content-disposition",
    "response-content-encoding", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires",
    "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Content-Sha256", "X-Amz-Checksum-Mode",
    "X-Amz-Sdk-Checksum-Algorithm", "AWSAccessKeyId", "Signature", "Expires",
})  # fmt: skip
# What a call is with a further parameter: (method, "bucket" or "object", parameter) to action.
_SPECIAL: Final[Mapping[tuple[str, str, str], str]] = {
    ("GET", "bucket", "versions"): "list_data",
    ("GET", "bucket", "uploads"): "list_data",
    ("GET", "bucket", "location"): "read_metadata",
    ("POST", "bucket", "delete"): "delete_data",
    ("POST", "object", "uploads"): "write_data",
    ("POST", "object", "restore"): "write_data",
    ("POST", "object", "select"): "read_data",
    ("GET", "object", "attributes"): "read_data",
}
_SELECT_TYPE: Final = "select-type"
_PREFIX_ID: Final = "/*"


def _read(call: Call) -> Meaning | Refusal:
    found = every_parameter(call.query)
    if isinstance(found, Refusal):
        return found
    bucket, key = call.captured.get("bucket") or call.host_part, call.captured.get("key", "")
    if not bucket or name_problem(bucket) or (key and name_problem(key)):
        return refuse("names no resource")
    action = _action(call, found)
    kind, name = ("object", f"{bucket}/{key}") if key else ("bucket", bucket)
    if action in ("delete_data", "write_data") and not key:
        # The keys are in the body: an XML list, or a browser's form.
        kind, name = "object", bucket + _PREFIX_ID
    version = found.get("versionId", "")
    if version_problem(version):
        return refuse("names a version with several readings")
    named = [Named(kind, name, version, action)]
    if action != "admin" and _opens(call):
        named.append(Named(kind, name, version, "admin"))
    source = _source(call)
    if isinstance(source, Refusal):
        return source
    known: dict[str, AttributeValue] = (
        {"prefix": found["prefix"]} if action == "list_data" and "prefix" in found else {}
    )
    return Meaning((*named, *source), known)


def _action(call: Call, found: Mapping[str, str]) -> str:
    level = "object" if "key" in call.captured else "bucket"
    special = [name for name in found if name not in _PLAIN]
    if not special:
        finished = call.facts.method == "POST" and level == "object" and "uploadId" in found
        return "write_data" if finished else call.row.action
    if set(special) == {"select", _SELECT_TYPE}:
        special = ["select"]
    return _SPECIAL.get((call.facts.method, level, special[0]), "admin") if len(special) == 1 else "admin"


def _opens(call: Call) -> bool:
    """Whether a header grants others access, or lifts a lock."""
    headers = call.facts.headers
    canned = headers.get(_ACL)
    open_to_others = canned is not None and (len(canned) != 1 or canned[0] not in _PRIVATE)
    return open_to_others or any(name in headers for name in _GRANTS)


def _source(call: Call) -> tuple[Named, ...] | Refusal:
    """Return the object that a copy reads: `bucket/key`, percent-encoded once, perhaps with `?versionId=`."""
    values = call.facts.headers.get(_COPY)
    if values is None:
        return ()
    problem = Refusal(Reason.AMBIGUOUS_BODY, f"the header {_COPY} names no object, or two")
    # Servers differ on whether `+` is a space here.
    if len(values) != 1 or "+" in values[0]:
        return problem
    path = canonicalise("/" + values[0].removeprefix("/"))
    if isinstance(path, Refusal) or path.slashed or len(path.segments) < 2 or path.segments[-1] == "":  # noqa: PLR2004
        return problem
    found = every_parameter(path.query)
    if isinstance(found, Refusal) or not found.keys() <= {"versionId"} or name_problem(path.text[1:]):
        return problem
    version = found.get("versionId", "")
    return problem if version_problem(version) else (Named("object", path.text[1:], version, "read_data"),)


def _posted(call: Call) -> Meaning | Refusal:
    """Read a POST on a bucket: of a deletion the keys in the body, where they are all plain to see."""
    meaning = _read(call)
    if isinstance(meaning, Refusal) or not call.facts.body.data:
        return meaning
    first = meaning.named[0]
    if first.action != "delete_data" or not first.id.endswith(_PREFIX_ID):
        return meaning
    data = whole(call.facts, call.max_request_bytes)
    found = None if isinstance(data, Refusal) else doomed(data)
    if found is None or any(name_problem(each.key) or version_problem(each.version) for each in found):
        return meaning
    bucket = first.id.removesuffix(_PREFIX_ID)
    named = tuple(first._replace(id=f"{bucket}/{each.key}", version=each.version) for each in found)
    return meaning._replace(named=(*named, *meaning.named[1:]))


_POSTED = Place(
    "path; query; keys in the body, each (not shown, not plain, over 100: `bucket/*`)", _posted, Reads.MEANING
)
_PLACE = Place("path; query, and the headers copy-source, acl, grant-*", _read)
_ON_BUCKET: Final = (("bucket", "admin"), ("bucket", "list_data"), ("bucket", "read_metadata"), ("object", "admin"),
                     ("object", "delete_data"), ("object", "write_data"), ("object", "read_data"))  # fmt: skip
_ON_OBJECT: Final = (("object", "admin"), ("object", "read_data"), ("object", "write_data"))


def _rows(bucket: str, end: str) -> tuple[Row, ...]:
    keys = f"{bucket}/{{key**}}"
    return (
        *(
            Row(method, at, action, _POSTED if method == "POST" else _PLACE, "bucket", _ON_BUCKET)
            for at in dict.fromkeys((bucket + end, bucket + "/"))
            for method, action in (
                ("GET", "list_data"),
                ("HEAD", "list_data"),
                ("PUT", "admin"),
                ("DELETE", "admin"),
                ("POST", "write_data"),
            )
        ),
        Row("GET", keys, "read_data", _PLACE, "object", _ON_OBJECT),
        Row("HEAD", keys, "read_data", _PLACE, "object", _ON_OBJECT),
        Row("PUT", keys, "write_data", _PLACE, "object", _ON_OBJECT),
        Row("DELETE", keys, "delete_data", _PLACE, "object", _ON_OBJECT),
        Row("POST", keys, "admin", _PLACE, "object", _ON_OBJECT),
    )


_HEADERS: Final = (_COPY, _ACL, *_GRANTS)

ADAPTER: Final = Adapter(
    "s3",
    (Row("GET", "/", "list_data", EVERYTHING, "bucket"), *_rows("/{bucket}", "")),
    error_shape="s3",
    header_names=_HEADERS,
    slash_slots=(),
    host_style=HostStyle.EXACT,
)
VIRTUAL_HOST: Final = Adapter(
    "s3-virtual-host",
    _rows("", "/"),
    error_shape="s3",
    header_names=_HEADERS,
    slash_slots=(),
    host_style=HostStyle.WILD,
)
