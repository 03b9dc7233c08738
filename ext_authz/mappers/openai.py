"""The OpenAI HTTP API as OpenAI, vLLM and gateways serve it, with vLLM's extras.

Law: the `model` of the JSON body or form decides, wherever it stands; a call
whose models are elsewhere (uploads, batches) needs a grant on any.
Non-goal: prompts.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from ext_authz.mappers.adapter import EVERY, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import case_variant, refuse
from ext_authz.mappers.limits import KEYS, generation
from ext_authz.mappers.multipart import form_fields
from ext_authz.mappers.places import (
    EVERYTHING,
    PATH,
    SERVER,
    body_with,
    every_meaning,
    name_in,
    name_problem,
    path_meaning,
    told_meaning,
    visible_json,
)
from ext_authz.mappers.query import parameters
from ext_authz.model import AttributeValue, Reason, Refusal

MAX_MODELS: Final = 32
# Headers by which AI gateways route; they fill them from the body, callers must not differ.
_ROUTING: Final = ("x-ai-eg-model", "x-gateway-model-name")
_FORM_FIELDS: Final = frozenset({"model", "n", "stream"})
_COUNT = re.compile(r"[1-9][0-9]{0,8}\Z")
_WANTED: Final = KEYS | {"model", "models", "fallbacks"}


def _alternatives(content: Mapping[str, Any]) -> list[str] | Refusal:
    """Return the models that gateways fall back to (`fallbacks`, `models`), as long as they are plain names."""
    names: list[str] = []
    for key in ("fallbacks", "models"):
        listed = content.get(key)
        if listed is None:
            continue
        if not isinstance(listed, list) or len(listed) > MAX_MODELS:
            return refuse(f"has `{key}` that are not a list of names")
        for name in listed:
            if not isinstance(name, str) or name_problem(name):
                return refuse(f"has `{key}` that are not a list of names")
            names.append(name)
    return names


def _agreed(call: Call, model: str) -> Refusal | None:
    for header in _ROUTING:
        values = call.facts.headers.get(header)
        if values is not None and values != (model,):
            return Refusal(Reason.AMBIGUOUS_BODY, f"the header {header} does not name the model of the call")
    return None


def _in_body(call: Call) -> Meaning | Refusal:
    content = body_with(call, _WANTED)
    if isinstance(content, Refusal):
        return content
    model = name_in(content, "model")
    if isinstance(model, Refusal):
        return model
    others = _alternatives(content)
    problem = others if isinstance(others, Refusal) else _agreed(call, model)
    if problem is not None or isinstance(others, Refusal):
        return problem or refuse("names other models")
    if not others and not call.row.also:
        return Meaning((Named("model", model, "", call.row.action),), generation(content))
    names = dict.fromkeys((model, *others))
    actions = dict.fromkeys((call.row.action, *(action for _, action in call.row.also)))
    named = tuple([Named("model", name, "", action) for name in names for action in actions])
    return Meaning(named, generation(content))


def _told(call: Call, name: str, version: str) -> Meaning | Refusal:
    return _agreed(call, name) or told_meaning(call, name, version)


def _in_path(call: Call) -> Meaning | Refusal:
    """Azure deployments and LiteLLM engines: the path decides; a body that is visible may not differ."""
    meaning = path_meaning(call)
    model = meaning.named[0].id
    problem = _agreed(call, model)
    if problem is not None:
        return problem
    content = visible_json(call)
    if content is None:
        return meaning
    if content.get("model", model) != model or case_variant(content, _WANTED):
        return refuse("names another model than the path")
    others = _alternatives(content)
    if isinstance(others, Refusal):
        return others
    further = tuple(meaning.named[0]._replace(id=name) for name in dict.fromkeys(others) if name != model)
    return Meaning((*meaning.named, *further), generation(content))


def _form(call: Call) -> Meaning | Refusal:
    """Read the form's `model`; of a body that we were not shown it may be any."""
    facts = call.facts
    problem = _beside_query(call)
    if problem is not None:
        return problem
    if not facts.body.data:
        return every_meaning(call)
    if (facts.header("content-type") or "").lower().startswith("application/json"):
        return _in_body(call)
    fields = form_fields(facts, call.max_request_bytes, _FORM_FIELDS)
    if isinstance(fields, Refusal):
        return fields
    model = name_in(fields, "model")
    if isinstance(model, Refusal):
        return model
    known: dict[str, AttributeValue] = {}
    if _COUNT.match(choices := fields.get("n", "1")):
        known["n"] = int(choices)
    if (stream := fields.get("stream", "false")) in ("true", "false"):
        known["stream"] = stream == "true"
    return _agreed(call, model) or Meaning((Named("model", model, "", call.row.action),), known)


def _beside_query(call: Call) -> Refusal | None:
    query = parameters(call.query, frozenset({"model"}))
    if isinstance(query, Refusal):
        return query
    return refuse("is a form beside a query that names a model: servers in Go take the query's") if query else None


def _told_form(call: Call, name: str, version: str) -> Meaning | Refusal:
    return _beside_query(call) or _told(call, name, version)


def _training(call: Call) -> Meaning | Refusal:
    content = body_with(call, frozenset({"model", "training_file", "validation_file"}))
    if isinstance(content, Refusal):
        return content
    model = name_in(content, "model")
    if isinstance(model, Refusal):
        return model
    named = [Named("model", model, "", call.row.action)]
    for key in ("training_file", "validation_file"):
        if key == "validation_file" and content.get(key) is None:
            continue
        file = name_in(content, key)
        if isinstance(file, Refusal):
            return file
        named.append(Named("file", file, "", "read_data"))
    return Meaning(tuple(named))


_BATCH_ACTIONS: Final = {"/v1/embeddings": "embed", "/v1/moderations": "classify"}


def _batch(call: Call) -> Meaning | Refusal:
    content = body_with(call, frozenset({"endpoint", "input_file_id"}))
    if isinstance(content, Refusal):
        return content
    endpoint, file = name_in(content, "endpoint"), name_in(content, "input_file_id")
    if isinstance(endpoint, Refusal):
        return endpoint
    if isinstance(file, Refusal):
        return file
    action = _BATCH_ACTIONS.get(endpoint, "generate")
    return Meaning((Named("model", EVERY, "", action), Named("file", file, "", "read_data")))


def _realtime(call: Call) -> Meaning | Refusal:
    found = parameters(call.query, frozenset({"model"}))
    if isinstance(found, Refusal):
        return found
    model = name_in(found, "model")
    if isinstance(model, Refusal):
        return model
    return _agreed(call, model) or Meaning((Named("model", model, "", call.row.action),), {"stream": True})


def _adapter(call: Call) -> Meaning | Refusal:
    content = body_with(call, frozenset({"lora_name"}))
    if isinstance(content, Refusal):
        return content
    name = name_in(content, "lora_name")
    if isinstance(name, Refusal):
        return name
    actions = (call.row.action, *(action for _, action in call.row.also))
    return Meaning(tuple(Named("model", name, "", action) for action in actions))


def _run(call: Call) -> Meaning:
    """Let a call that continues what is stored use any model: which one, the stored assistant or video says."""
    kind, action = call.row.also[0]
    stored = Named(kind, call.captured.get("id", EVERY), "", action)
    return Meaning((Named("model", EVERY, "", call.row.action), stored))


_BODY = Place("body `model` (and `fallbacks`, `models`)", _in_body, Reads.MEANING, _told)
_FORM = Place("form field `model` (a body not passed on: any)", _form, Reads.MEANING, _told_form)
_DEPLOYMENT = Place("path", _in_path, Reads.LIMITS)
_TRAINING = Place("body `model`, `training_file`, `validation_file`", _training, Reads.MEANING)
_BATCH = Place("any (`*`), and the file `input_file_id`", _batch, Reads.MEANING)
_QUERY = Place("query `model`", _realtime)
_LORA = Place("body `lora_name`", _adapter, Reads.MEANING)
_RUN = Place("any (`*`), and what is continued: path", _run)
_IN_THREAD: Final = (("thread", "write_data"),)


def _model_rows() -> list[Row]:
    generate = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/compact",
                "/v1/audio/speech", "/v1/images/generations", "/inference/v1/generate",
                "/v1/chat/completions/batch")  # fmt: skip
    multipart = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations",
                 "/v1/videos")  # fmt: skip
    actions = {
        "embed": ("/v1/embeddings", "/v2/embed", "/pooling"),
        "classify": ("/v1/moderations", "/classify", "/generative_scoring"),
        "rerank": ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"),
        "tokenize": (
            "/tokenize",
            "/detokenize",
            "/v1/responses/input_tokens",
            "/v1/chat/completions/render",
            "/v1/completions/render",
        ),
        "generate": generate,
    }
    rows = [Row("POST", path, action, _BODY) for action, paths in actions.items() for path in paths]
    rows += [Row("POST", path, "generate", _FORM) for path in multipart]
    # The body decides which of these it is, by a server's own order of trying.
    kinds = tuple(("model", action) for action in ("embed", "classify", "rerank"))
    rows.append(Row("POST", "/invocations", "generate", _BODY, also=kinds))
    for prefix in ("/openai/deployments/{model}", "/engines/{model}"):
        rows += [
            Row("POST", f"{prefix}/chat/completions", "generate", _DEPLOYMENT),
            Row("POST", f"{prefix}/completions", "generate", _DEPLOYMENT),
            Row("POST", f"{prefix}/embeddings", "embed", _DEPLOYMENT),
        ]
    azure = ("images/generations", "audio/speech", "audio/transcriptions", "audio/translations")
    rows += [Row("POST", f"/openai/deployments/{{model}}/{path}", "generate", _DEPLOYMENT) for path in azure]
    return [
        *rows,
        Row("GET", "/v1/realtime", "generate", _QUERY),
        Row("GET", "/v1/models", "list_models", SERVER, "server"),
        Row("GET", "/v1/models/{model}", "read_metadata", PATH),
        Row("DELETE", "/v1/models/{model}", "delete_model", PATH),
        Row("POST", "/v1/load_lora_adapter", "deploy_model", _LORA, also=(("model", "register_model"),)),
        Row("POST", "/v1/unload_lora_adapter", "undeploy_model", _LORA),
    ]


def _stored(kind: str, base: str, *, created: bool) -> list[Row]:
    """Return the rows of things that are stored under an id of their own; creating one names no id yet."""
    item = f"{base}/{{id}}"
    rows = [Row("GET", base, "list_data", EVERYTHING, kind), Row("GET", item, "read_data", PATH, kind)]
    rows += [Row("DELETE", item, "delete_data", PATH, kind)]
    return [*rows, Row("POST", base, "write_data", EVERYTHING, kind)] if created else rows


def _assistant_rows() -> list[Row]:
    """Return what gateways still serve of assistants, and the videos and containers of newer ones."""
    thread, video, files = "/v1/threads/{id}", "/v1/videos/{id}", "/v1/containers/{id}/files"
    run = f"{thread}/runs/{{run}}"
    stored = [
        *_stored("assistant", "/v1/assistants", created=True),
        Row("POST", "/v1/assistants/{id}", "write_data", PATH, "assistant"),
        *_stored("thread", "/v1/threads", created=True)[1:],
        Row("POST", thread, "write_data", PATH, "thread"),
        *_stored("video", "/v1/videos", created=False),
        Row("GET", f"{video}/content", "read_data", PATH, "video"),
        *_stored("container", "/v1/containers", created=True),
        Row("GET", files, "list_data", PATH, "container"),
        Row("POST", files, "write_data", PATH, "container"),
        Row("GET", f"{files}/{{file}}", "read_data", PATH, "container"),
        Row("DELETE", f"{files}/{{file}}", "delete_data", PATH, "container"),
        Row("GET", f"{files}/{{file}}/content", "read_data", PATH, "container"),
    ]
    for part, reads in ((f"{thread}/messages", "list_data"), (f"{thread}/messages/{{message}}", "read_data")):
        stored += [Row("GET", part, reads, PATH, "thread"), Row("POST", part, "write_data", PATH, "thread")]
    return [
        *stored,
        Row("DELETE", f"{thread}/messages/{{message}}", "delete_data", PATH, "thread"),
        Row("GET", f"{thread}/runs", "list_data", PATH, "thread"),
        Row("GET", run, "read_data", PATH, "thread"),
        Row("POST", run, "write_data", PATH, "thread"),
        Row("GET", f"{run}/steps", "list_data", PATH, "thread"),
        Row("GET", f"{run}/steps/{{step}}", "read_data", PATH, "thread"),
        Row("POST", f"{run}/cancel", "cancel_job", PATH, "thread"),
        *(Row("POST", path, "generate", _RUN, also=_IN_THREAD)
          for path in ("/v1/threads/runs", f"{thread}/runs", f"{run}/submit_tool_outputs")),
        Row("POST", f"{video}/remix", "generate", _RUN, also=(("video", "read_data"),)),
    ]  # fmt: skip


def _data_rows() -> list[Row]:
    stores = "/v1/vector_stores/{id}"
    jobs = "/v1/fine_tuning/jobs"
    return [
        *_stored("response", "/v1/responses", created=False),
        Row("POST", "/v1/responses/{id}/cancel", "cancel_job", PATH, "response"),
        Row("GET", "/v1/responses/{id}/input_items", "read_data", PATH, "response"),
        *_stored("response", "/v1/chat/completions", created=False),
        Row("POST", "/v1/chat/completions/{id}", "write_data", PATH, "response"),
        Row("GET", "/v1/chat/completions/{id}/messages", "read_data", PATH, "response"),
        *_stored("conversation", "/v1/conversations", created=True),
        Row("POST", "/v1/conversations/{id}", "write_data", PATH, "conversation"),
        Row("GET", "/v1/conversations/{id}/items", "read_data", PATH, "conversation"),
        Row("POST", "/v1/conversations/{id}/items", "write_data", PATH, "conversation"),
        Row("GET", "/v1/conversations/{id}/items/{item}", "read_data", PATH, "conversation"),
        Row("DELETE", "/v1/conversations/{id}/items/{item}", "delete_data", PATH, "conversation"),
        *_stored("file", "/v1/files", created=True),
        Row("GET", "/v1/files/{id}/content", "read_data", PATH, "file"),
        Row("POST", "/v1/uploads", "write_data", EVERYTHING, "file"),
        Row("POST", "/v1/uploads/{id}/parts", "write_data", EVERYTHING, "file"),
        Row("POST", "/v1/uploads/{id}/complete", "write_data", EVERYTHING, "file"),
        Row("POST", "/v1/uploads/{id}/cancel", "write_data", EVERYTHING, "file"),
        *_stored("vector_store", "/v1/vector_stores", created=True),
        Row("POST", stores, "write_data", PATH, "vector_store"),
        Row("POST", f"{stores}/search", "read_data", PATH, "vector_store"),
        Row("GET", f"{stores}/files", "list_data", PATH, "vector_store"),
        Row("POST", f"{stores}/files", "write_data", PATH, "vector_store"),
        Row("GET", f"{stores}/files/{{file}}", "read_data", PATH, "vector_store"),
        Row("POST", f"{stores}/files/{{file}}", "write_data", PATH, "vector_store"),
        Row("DELETE", f"{stores}/files/{{file}}", "delete_data", PATH, "vector_store"),
        Row("GET", f"{stores}/files/{{file}}/content", "read_data", PATH, "vector_store"),
        Row("POST", f"{stores}/file_batches", "write_data", PATH, "vector_store"),
        Row("GET", f"{stores}/file_batches/{{batch}}", "read_data", PATH, "vector_store"),
        Row("POST", f"{stores}/file_batches/{{batch}}/cancel", "write_data", PATH, "vector_store"),
        Row("GET", f"{stores}/file_batches/{{batch}}/files", "list_data", PATH, "vector_store"),
        *_assistant_rows(),
        Row("POST", jobs, "submit_training_job", _TRAINING, also=(("file", "read_data"),)),
        Row("GET", jobs, "read_job", EVERYTHING, "job"),
        Row("GET", f"{jobs}/{{id}}", "read_job", PATH, "job"),
        Row("POST", f"{jobs}/{{id}}/cancel", "cancel_job", PATH, "job"),
        Row("POST", f"{jobs}/{{id}}/pause", "cancel_job", PATH, "job"),
        Row("POST", f"{jobs}/{{id}}/resume", "submit_training_job", PATH, "job"),
        Row("GET", f"{jobs}/{{id}}/events", "read_job", PATH, "job"),
        Row("GET", f"{jobs}/{{id}}/checkpoints", "read_job", PATH, "job"),
        Row("POST", "/v1/batches", "generate", _BATCH,
            also=(("model", "embed"), ("model", "classify"), ("file", "read_data"))),
        Row("GET", "/v1/batches", "read_job", EVERYTHING, "job"),
        Row("GET", "/v1/batches/{id}", "read_job", PATH, "job"),
        Row("POST", "/v1/batches/{id}/cancel", "cancel_job", PATH, "job"),
    ]  # fmt: skip


_ADMIN: Final = (
    "pause", "resume", "sleep", "wake_up", "scale_elastic_ep", "init_weight_transfer_engine", "update_weights",
    "abort_requests", "reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache", "start_weight_update",
    "start_draft_weight_update", "finish_weight_update", "update_weight_version", "weight_checker", "collective_rpc",
    "start_profile", "stop_profile",
)  # fmt: skip
_READS: Final = (
    "version", "load", "server_info", "tokenizer_info", "is_sleeping", "is_paused", "get_world_size", "weight_info",
    "docs", "openapi.json",
)  # fmt: skip

ADAPTER: Final = Adapter(
    "openai",
    (
        *_model_rows(),
        *_data_rows(),
        *(Row("POST", f"/{name}", "admin", SERVER, "server") for name in _ADMIN),
        *(Row("GET", f"/{name}", "read_metadata", SERVER, "server") for name in _READS),
        Row("POST", "/is_scaling_elastic_ep", "read_metadata", SERVER, "server"),
        Row("GET", "/health", "health", SERVER, "server"),
        Row("GET", "/ping", "health", SERVER, "server"),
        Row("POST", "/ping", "health", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
    ),
    error_shape="openai",
    header_names=_ROUTING,
    # KServe's prefix.
    aliases={"/v1/": ("/openai/v1/",)},
)
