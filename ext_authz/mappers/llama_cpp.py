"""llama.cpp's server, with one model or as a router of several.

Law: the body's `model` decides; without one the server's own model answers, which has the route's name. LoRA adapters
that a body picks are resources of their own. Slots hold other callers' prompts. Non-goal: the paths that
AIP_PREDICT_ROUTE adds.
"""

from typing import Final

from ext_authz.mappers.adapter import EVERY, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import refuse
from ext_authz.mappers.limits import KEYS, generation
from ext_authz.mappers.places import EVERYTHING, PATH, SERVER, body_with, json_key, name_in
from ext_authz.model import Refusal

MAX_ADAPTERS: Final = 64
_WANTED: Final = KEYS | {"model", "lora", "n_predict"}


def _in_body(call: Call) -> Meaning | Refusal:
    # It reads JSON under any content type.
    content = body_with(call, _WANTED, typed=False)
    if isinstance(content, Refusal):
        return content
    model = call.route if content.get("model") in (None, "") else name_in(content, "model")
    if isinstance(model, Refusal):
        return model
    listed = content.get("lora", [])
    if not isinstance(listed, list) or len(listed) > MAX_ADAPTERS:
        return refuse("has `lora` that is no list")
    adapters: dict[str, None] = {}
    for each in listed:
        number = each.get("id") if isinstance(each, dict) else None
        if type(number) is not int or number < 0:
            return refuse("has `lora` without plain numbers")
        adapters[f"{model}/{number}"] = None
    named = [Named("model", model, "", call.row.action)]
    named += [Named("adapter", each, "", call.row.action) for each in adapters]
    limits = dict(generation(content))
    tokens = content.get("n_predict")
    if tokens is not None:
        # Both names are read, so only a plain number is a limit.
        limits.pop("max_tokens", None)
        if type(tokens) is int and tokens > 0 and "max_tokens" not in content:
            limits["max_tokens"] = tokens
    return Meaning(tuple(named), limits)


def _unread(call: Call) -> Meaning:
    return Meaning(tuple(Named(kind, EVERY, "", call.row.action) for kind in ("model", "adapter")))


_BODY = Place("body `model` (absent: the route's name) and `lora[].id`", _in_body, Reads.MEANING)
_NAMED = json_key("model")
_CALLS: Final = {
    "generate": ("/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions",
                 "/infill", "/responses", "/v1/responses", "/v1/messages"),
    "embed": ("/embedding", "/embeddings", "/v1/embeddings"),
    "rerank": ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking"),
    "tokenize": ("/tokenize", "/detokenize", "/apply-template", "/v1/messages/count_tokens"),
}  # fmt: skip
_UNREAD = Place("any (`*`), and any adapter", _unread)
_READS: Final = ("/", "/props", "/lora-adapters")

ADAPTER: Final = Adapter(
    "llama-cpp",
    (
        *(
            Row("POST", path, action, _BODY, also=(("adapter", action),))
            for action, paths in _CALLS.items()
            for path in paths
        ),
        # A form, which is not read: any model, by any adapter.
        *(
            Row("POST", path, "generate", _UNREAD, also=(("adapter", "generate"),))
            for path in ("/audio/transcriptions", "/v1/audio/transcriptions")
        ),
        *(Row("GET", path, "health", SERVER, "server") for path in ("/health", "/v1/health")),
        *(Row("GET", path, "list_models", SERVER, "server") for path in ("/models", "/v1/models")),
        *(Row("GET", path, "read_metadata", SERVER, "server") for path in _READS),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
        Row("POST", "/models", "register_model", _NAMED),
        Row("DELETE", "/models", "delete_model", EVERYTHING),
        Row("POST", "/models/load", "deploy_model", _NAMED),
        Row("POST", "/models/unload", "undeploy_model", _NAMED),
        Row("GET", "/v1/stream/{id}", "read_data", PATH, "response"),
        Row("POST", "/v1/chat/completions/control", "admin", SERVER, "server"),
        Row("POST", "/props", "admin", SERVER, "server"),
        Row("POST", "/lora-adapters", "admin", SERVER, "server"),
        *(Row(EVERY, path, "admin", SERVER, "server") for path in ("/slots", "/slots/{id}", "/tools", "/cors-proxy")),
    ),
    error_shape="openai",
)
