"""Ollama's own API and its OpenAI- and Anthropic-compatible paths.

Law: names that Ollama reads as one are one (letter case, default registry,
`library/`, `:latest`), a tag that only some servers cut off (`:local`) is
none; the body is JSON whatever its content type says, and
keys in other letters are refused, for Go reads them. Non-goal: OpenAI servers.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from ext_authz.mappers.adapter import Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import case_variant, refuse
from ext_authz.mappers.limits import KEYS, generation
from ext_authz.mappers.multipart import form_fields
from ext_authz.mappers.places import PATH, SERVER, Attributes, body_with, path_meaning, told_meaning, whole_number
from ext_authz.model import AttributeValue, Reason, Refusal

_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(
    rf"(?:(?:(?P<host>{_PART}(?::[0-9]+)?)/)?(?P<space>{_PART})/)?(?P<model>{_PART})(?::(?P<tag>{_PART}))?\Z"
)
_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_SPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"
_OPTIONS: Final = frozenset({"num_predict"})
# What newer servers cut off before they look for the model; older ones take it for a tag.
_LOCAL: Final = "local"
_LATEST_OF_CLOUD: Final = "latest-cloud"


def canonical_name(name: str) -> str | None:
    """Return the one spelling of a model's name (`LLaMA3:latest` is `llama3`), or None where it is no name."""
    found = _NAME.match(name)
    if found is None or len(name) > 512:  # noqa: PLR2004  far beyond Ollama's own bound
        return None
    host, space, model, tag = found.group("host", "space", "model", "tag")
    if tag and tag.lower() in (_LOCAL, _LATEST_OF_CLOUD):
        return None
    parts = [model.lower()]
    if (space and space.lower() != _DEFAULT_SPACE) or (host and host.lower() != _DEFAULT_HOST):
        parts.insert(0, (space or _DEFAULT_SPACE).lower())
    if host and host.lower() != _DEFAULT_HOST:
        parts.insert(0, host.lower())
    text = "/".join(parts)
    return f"{text}:{tag.lower()}" if tag and tag.lower() != _DEFAULT_TAG else text


def _named(content: Mapping[str, Any], key: str, older: str = "") -> str | Refusal:
    """Return the canonical name under `key`, or under the deprecated key `older`; both must agree."""
    given = [content[each] for each in (key, older) if each and content.get(each) not in (None, "")]
    names = {canonical_name(name) if isinstance(name, str) else None for name in given}
    if len(names) != 1:
        return refuse(f"has no `{key}`, or two")
    name = names.pop()
    return refuse(f"has a `{key}` that is no name") if name is None else name


def _limits(content: Mapping[str, Any]) -> Attributes:
    """Ollama streams unless told otherwise, and limits tokens under `options`."""
    found: dict[str, AttributeValue] = {"stream": content.get("stream") is not False}
    options = content.get("options")
    if isinstance(options, dict) and not case_variant(options, _OPTIONS):
        tokens = whole_number(options.get("num_predict"))
        if tokens is not None:
            found["max_tokens"] = tokens
    return found


_WANTED: Final = KEYS | {"model", "name", "options", "source", "destination", "from"}


def _native(call: Call) -> Meaning | Refusal:
    content = body_with(call, _WANTED, typed=False)
    if isinstance(content, Refusal):
        return content
    name = _named(content, "model", "name")
    if isinstance(name, Refusal):
        return name
    return Meaning((Named("model", name, "", call.row.action),), _limits(content))


def _compatible(call: Call) -> Meaning | Refusal:
    content = body_with(call, _WANTED, typed=False)
    if isinstance(content, Refusal):
        return content
    name = _named(content, "model")
    if isinstance(name, Refusal):
        return name
    return Meaning((Named("model", name, "", call.row.action),), generation(content))


def _form(call: Call) -> Meaning | Refusal:
    """Read a form's `model`. Go takes a query's `model` before the form's, so there may be no query."""
    if call.query:
        return refuse("is a form beside a query")
    fields = form_fields(call.facts, call.max_request_bytes, frozenset({"model"}))
    if isinstance(fields, Refusal):
        return fields
    name = _named(fields, "model")
    return name if isinstance(name, Refusal) else Meaning((Named("model", name, "", call.row.action),))


def _create(call: Call) -> Meaning | Refusal:
    content = body_with(call, _WANTED, typed=False)
    if isinstance(content, Refusal):
        return content
    name = _named(content, "model", "name")
    if isinstance(name, Refusal):
        return name
    named = [Named("model", name, "", call.row.action)]
    if content.get("from") not in (None, ""):
        base = _named(content, "from")
        if isinstance(base, Refusal):
            return base
        named.append(Named("model", base, "", "read_data"))
    return Meaning(tuple(named))


def _copy(call: Call) -> Meaning | Refusal:
    content = body_with(call, _WANTED, typed=False)
    if isinstance(content, Refusal):
        return content
    source, destination = _named(content, "source"), _named(content, "destination")
    if isinstance(source, Refusal):
        return source
    if isinstance(destination, Refusal):
        return destination
    return Meaning((Named("model", destination, "", call.row.action), Named("model", source, "", "read_data")))


def _in_path(call: Call) -> Meaning | Refusal:
    name = canonical_name(path_meaning(call).named[0].id)
    if name is None:
        return Refusal(Reason.NO_ROUTE, "the path holds no model name")
    return Meaning((Named("model", name, "", call.row.action),))


def _told(call: Call, name: str, version: str) -> Meaning | Refusal:
    spelled = canonical_name(name)
    return refuse("has a model that is no name") if spelled is None else told_meaning(call, spelled, version)


_NATIVE = Place("body `model` (or the older `name`)", _native, Reads.MEANING, _told)
_COMPATIBLE = Place("body `model`", _compatible, Reads.MEANING, _told)
_FORM = Place("form field `model`, and no query", _form, Reads.MEANING)
_CREATE = Place("body `model`; `from` is read", _create, Reads.MEANING)
_COPY = Place("body `destination`; `source` is read", _copy, Reads.MEANING)
_PATH = Place("path", _in_path)
_READS_MODEL: Final = (("model", "read_data"),)

ADAPTER: Final = Adapter(
    "ollama",
    (
        Row("GET", "/", "health", SERVER, "server"),
        Row("HEAD", "/", "health", SERVER, "server"),
        *(Row(method, "/api/version", "read_metadata", SERVER, "server") for method in ("GET", "HEAD")),
        Row("GET", "/api/status", "read_metadata", SERVER, "server"),
        *(Row(method, "/api/tags", "list_models", SERVER, "server") for method in ("GET", "HEAD")),
        Row("GET", "/api/ps", "list_models", SERVER, "server"),
        Row("POST", "/api/generate", "generate", _NATIVE),
        Row("POST", "/api/chat", "generate", _NATIVE),
        Row("POST", "/api/embed", "embed", _NATIVE),
        Row("POST", "/api/embeddings", "embed", _NATIVE),
        Row("POST", "/api/show", "read_metadata", _NATIVE),
        Row("POST", "/api/pull", "register_model", _NATIVE),
        Row("POST", "/api/push", "read_data", _NATIVE),
        Row("POST", "/api/create", "register_model", _CREATE, also=_READS_MODEL),
        Row("POST", "/api/copy", "register_model", _COPY, also=_READS_MODEL),
        Row("DELETE", "/api/delete", "delete_model", _NATIVE),
        Row("HEAD", "/api/blobs/{digest}", "read_metadata", PATH, "blob"),
        Row("POST", "/api/blobs/{digest}", "write_data", PATH, "blob"),
        Row("GET", "/v1/models", "list_models", SERVER, "server"),
        Row("GET", "/v1/models/{model}", "read_metadata", _PATH),
        Row("POST", "/v1/chat/completions", "generate", _COMPATIBLE),
        Row("POST", "/v1/completions", "generate", _COMPATIBLE),
        Row("POST", "/v1/responses", "generate", _COMPATIBLE),
        Row("POST", "/v1/messages", "generate", _COMPATIBLE),
        Row("POST", "/v1/images/generations", "generate", _COMPATIBLE),
        Row("POST", "/v1/images/edits", "generate", _COMPATIBLE),
        Row("POST", "/v1/audio/transcriptions", "generate", _FORM),
        Row("POST", "/v1/embeddings", "embed", _COMPATIBLE),
        # They act in the account by which the server is known to its registry.
        Row("POST", "/api/me", "admin", SERVER, "server"),
        Row("POST", "/api/signout", "admin", SERVER, "server"),
        Row("DELETE", "/api/user/keys/{key}", "admin", SERVER, "server"),
        Row("POST", "/api/experimental/web_search", "admin", SERVER, "server"),
        Row("POST", "/api/experimental/web_fetch", "admin", SERVER, "server"),
    ),
    error_shape="ollama",
)
