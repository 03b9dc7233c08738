"""Hugging Face's Text Generation Inference.

Law: one model, which has the route's name; what the body names is a LoRA adapter on top of it, a resource of its own
(`ROUTE/ADAPTER`). Non-goal: Hugging Face's hub.
"""

from typing import Any, Final

from ext_authz.mappers.adapter import Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import case_variant, refuse
from ext_authz.mappers.limits import KEYS, generation
from ext_authz.mappers.places import ROUTE, SERVER, body_with, name_in, whole_number
from ext_authz.model import AttributeValue, Refusal

_OWN: Final = "tgi"
_PARAMETERS: Final = frozenset({"adapter_id", "max_new_tokens", "best_of"})


def _meaning(call: Call, adapter: str, limits: dict[str, AttributeValue]) -> Meaning:
    named = [Named("model", call.route, "", call.row.action)]
    if adapter:
        named.append(Named("adapter", f"{call.route}/{adapter}", "", call.row.action))
    return Meaning(tuple(named), limits)


def _compatible(call: Call) -> Meaning | Refusal:
    content = body_with(call, KEYS | {"model", "adapter_id"})
    if isinstance(content, Refusal):
        return content
    adapter = _text(content, "model")
    if isinstance(adapter, Refusal):
        return adapter
    return _meaning(call, "" if adapter == _OWN else adapter, dict(generation(content)))


def _native(call: Call) -> Meaning | Refusal:
    content = body_with(call, KEYS | {"parameters", "inputs", "messages", "instances", "model"})
    if isinstance(content, Refusal):
        return content
    if "messages" in content or "instances" in content:
        # /invocations and /vertex take chats and lists of requests too.
        if "instances" in content:
            return refuse("holds several requests")
        return _compatible(call)
    parameters = content.get("parameters")
    if parameters is None:
        return _meaning(call, "", {})
    if not isinstance(parameters, dict) or case_variant(parameters, _PARAMETERS):
        return refuse("has `parameters` of several readings")
    adapter = _text(parameters, "adapter_id")
    if isinstance(adapter, Refusal):
        return adapter
    limits: dict[str, AttributeValue] = {"stream": True} if content.get("stream") is True else {}
    for key, attribute in (("max_new_tokens", "max_tokens"), ("best_of", "n")):
        number = whole_number(parameters.get(key))
        if number is not None:
            limits[attribute] = number
    return _meaning(call, adapter, limits)


def _text(content: dict[str, Any], key: str) -> str | Refusal:
    return "" if content.get(key) in (None, "") else name_in(content, key)


_COMPATIBLE = Place("the route's name; an adapter in body `model` (but `tgi`)", _compatible, Reads.MEANING)
_NATIVE = Place("the route's name; an adapter in body `parameters.adapter_id`", _native, Reads.MEANING)
_ADAPTED: Final = (("adapter", "generate"),)

ADAPTER: Final = Adapter(
    "tgi",
    (
        *(
            Row("POST", path, "generate", _NATIVE, also=_ADAPTED)
            for path in ("/", "/generate", "/generate_stream", "/invocations", "/vertex")
        ),
        *(
            Row("POST", path, "generate", _COMPATIBLE, also=_ADAPTED)
            for path in ("/v1/chat/completions", "/v1/completions")
        ),
        *(Row("POST", path, "tokenize", ROUTE) for path in ("/tokenize", "/chat_tokenize")),
        Row("GET", "/v1/models", "list_models", SERVER, "server"),
        *(Row("GET", path, "health", SERVER, "server") for path in ("/", "/health", "/ping")),
        *(Row("GET", path, "read_metadata", SERVER, "server") for path in ("/info", "/docs")),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
    ),
    error_shape="openai",
)
