"""The Anthropic Messages API.

Law: the JSON body's `model` decides, wherever it stands (the client sends it
after the prompt); every request of a batch counts. Non-goal: prompts.
"""

from typing import Final

from ext_authz.mappers.adapter import Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import case_variant, refuse
from ext_authz.mappers.limits import KEYS, generation
from ext_authz.mappers.places import EVERYTHING, PATH, SERVER, body_with, json_key, name_in
from ext_authz.model import Refusal

MAX_MODELS: Final = 64
MAX_REQUESTS: Final = 100_000


def _batch(call: Call) -> Meaning | Refusal:
    content = body_with(call, frozenset({"requests"}))
    if isinstance(content, Refusal):
        return content
    requests = content.get("requests")
    if not isinstance(requests, list) or not 0 < len(requests) <= MAX_REQUESTS:
        return refuse("has no `requests`")
    models: dict[str, None] = {}
    for request in requests:
        params = request.get("params") if isinstance(request, dict) else None
        if not isinstance(params, dict) or case_variant(request, _PARAMS) or case_variant(params, _MODEL):
            return refuse("has a request without plain `params`")
        model = name_in(params, "model")
        if isinstance(model, Refusal):
            return model
        models[model] = None
        if len(models) > MAX_MODELS:
            return refuse(f"names more than {MAX_MODELS} models")
    return Meaning(tuple(Named("model", model, "", call.row.action) for model in models), {"batch_size": len(requests)})


_PARAMS: Final = frozenset({"params"})
_MODEL: Final = frozenset({"model"})
_BODY = json_key("model", limits=generation, wanted=KEYS)
_BATCH = Place("body `requests[].params.model`, each", _batch, Reads.MEANING)

ADAPTER: Final = Adapter(
    "anthropic",
    (
        Row("POST", "/v1/messages", "generate", _BODY),
        Row("POST", "/v1/complete", "generate", _BODY),
        Row("POST", "/v1/messages/count_tokens", "tokenize", _BODY),
        Row("POST", "/v1/messages/batches", "generate", _BATCH),
        Row("GET", "/v1/messages/batches", "read_job", EVERYTHING, "job"),
        Row("GET", "/v1/messages/batches/{id}", "read_job", PATH, "job"),
        Row("GET", "/v1/messages/batches/{id}/results", "read_data", PATH, "job"),
        Row("POST", "/v1/messages/batches/{id}/cancel", "cancel_job", PATH, "job"),
        Row("DELETE", "/v1/messages/batches/{id}", "delete_data", PATH, "job"),
        Row("GET", "/v1/models", "list_models", SERVER, "server"),
        Row("GET", "/v1/models/{model}", "read_metadata", PATH),
        Row("GET", "/v1/files", "list_data", EVERYTHING, "file"),
        Row("POST", "/v1/files", "write_data", EVERYTHING, "file"),
        Row("GET", "/v1/files/{id}", "read_data", PATH, "file"),
        Row("GET", "/v1/files/{id}/content", "read_data", PATH, "file"),
        Row("DELETE", "/v1/files/{id}", "delete_data", PATH, "file"),
    ),
    error_shape="anthropic",
)
