"""MLflow: tracking, registry, artifacts and scoring, below all four API prefixes.

Law: GET is read from the query, everything else from the JSON body, as the
server does; what stands in the other place, or under protobuf's second
spelling of a field, is refused. Non-goal: what is inside runs and traces.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from ext_authz.mappers.adapter import EVERY, Adapter, Call, Meaning, Named, Place, Reader, Reads, Row
from ext_authz.mappers.body import refuse
from ext_authz.mappers.limits import instances
from ext_authz.mappers.places import (
    EVERYTHING,
    PATH,
    SERVER,
    body_with,
    every_meaning,
    json_key,
    name_in,
    visible_json,
)
from ext_authz.mappers.query import parameters
from ext_authz.model import Reason, Refusal

MAX_LISTED: Final = 100
WORKSPACE: Final = "x-mlflow-workspace"
# int() takes "1_0", " 1" and digits of other scripts for numbers.
_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z")

_FIELD: Final = "field"
_BY_ITS_NAME: Final = "name:"
_API: Final = "/api/2.0/"
_PREFIXES: Final = ("/api/3.0/", "/ajax-api/2.0/", "/ajax-api/3.0/")


def _elsewhere(call: Call, meaning: Meaning | Refusal) -> Meaning | Refusal:
    """Refuse the header that picks another workspace, where every name means something else."""
    if WORKSPACE in call.facts.headers:
        return Refusal(Reason.AMBIGUOUS_BODY, f"the header {WORKSPACE} picks what names mean")
    return meaning


def _place(where: str, read: Reader, reads: Reads = Reads.NOTHING) -> Place:
    return Place(where, lambda call: _elsewhere(call, read(call)), reads)


def _fields(call: Call, wanted: tuple[str, ...]) -> Mapping[str, Any] | Refusal:
    """Return what the server reads: of a GET the query, else the JSON body."""
    found = parameters(call.query, frozenset(wanted))
    if isinstance(found, Refusal):
        return found
    if call.facts.method == "GET":
        return refuse("of a GET has a meaning to this server") if call.facts.body.data else found
    if found:
        return Refusal(Reason.AMBIGUOUS_BODY, f"the query names `{next(iter(found))}`, which is read from the body")
    content = body_with(call, frozenset(wanted))
    if isinstance(content, Refusal):
        return content
    # protobuf's JSON takes run_id and runId for one field.
    joined = {name.replace("_", "") for name in wanted}
    for key in content:
        if key not in wanted and key.replace("_", "").casefold() in joined:
            return refuse(f"names `{key[:64]}` in another spelling")
    return content


def _texts(call: Call, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, str] | Refusal:
    """Return the names that the call gives; an optional one that is empty counts as absent."""
    content = _fields(call, (*required, *optional))
    if isinstance(content, Refusal):
        return content
    found: dict[str, str] = {}
    for key in (*required, *optional):
        if key in optional and content.get(key) in (None, ""):
            continue
        name = name_in(content, key)
        if isinstance(name, Refusal):
            return name
        found[key] = name
    return found


def _by(*keys: str, prefix: str = "") -> Place:
    """Return the place "field `keys`": one name, also under older keys, which must agree.

    `prefix` keeps names apart from ids of the same type.
    """

    def read(call: Call) -> Meaning | Refusal:
        found = _texts(call, (), keys)
        if isinstance(found, Refusal):
            return found
        names = set(found.values())
        if len(names) != 1:
            return refuse(f"has no `{keys[0]}`, or two")
        name = prefix + names.pop()
        actions = (call.row.action, *(action for _, action in call.row.also))
        return Meaning(tuple(Named(call.row.type, name, "", action) for action in actions))

    older = f" (or the older `{keys[1]}`)" if len(keys) > 1 else ""
    return _place(f"{_FIELD} `{keys[0]}`{older}" + (f", as `{prefix}…`" if prefix else ""), read)


def _listed(call: Call) -> Meaning | Refusal:
    content = _fields(call, ("experiment_ids",))
    if isinstance(content, Refusal):
        return content
    listed = content.get("experiment_ids")
    if not listed:
        return every_meaning(call)
    if not isinstance(listed, list) or len(listed) > MAX_LISTED:
        return refuse("has `experiment_ids` that are not a list of names")
    named: dict[str, None] = {}
    for each in listed:
        name = name_in({"experiment_ids": each}, "experiment_ids")
        if isinstance(name, Refusal):
            return name
        named[name] = None
    return Meaning(tuple(Named(call.row.type, name, "", call.row.action) for name in named))


def _versioned(call: Call) -> Meaning | Refusal:
    found = _texts(call, ("name", "version"))
    if isinstance(found, Refusal):
        return found
    if not _VERSION.match(found["version"]):
        return refuse("has a `version` that is no plain number")
    return Meaning((Named("model", found["name"], found["version"], call.row.action),))


def _created(call: Call) -> Meaning | Refusal:
    """Read a registration: from a place the caller names (`source`), perhaps out of a run."""
    found = _texts(call, ("name",), ("source", "run_id", "model_id"))
    if isinstance(found, Refusal):
        return found
    named = [Named("model", found["name"], "", call.row.action)]
    named += [Named(kind, found[key], "", "read_data") for key, kind in _ORIGINS if key in found]
    return Meaning(tuple(named), {"source": found["source"]} if "source" in found else {})


_ORIGINS: Final = (("run_id", "run"), ("model_id", "logged_model"))


def _updated(call: Call) -> Meaning | Refusal:
    """Read an experiment's update: its new name is another's id where experiments are asked for by name."""
    found = _texts(call, ("experiment_id",), ("new_name",))
    if isinstance(found, Refusal):
        return found
    named = [Named(call.row.type, found["experiment_id"], "", call.row.action)]
    if "new_name" in found:
        named.append(Named(call.row.type, _BY_ITS_NAME + found["new_name"], "", call.row.action))
    return Meaning(tuple(named))


def _renamed(call: Call) -> Meaning | Refusal:
    found = _texts(call, ("name", "new_name"))
    if isinstance(found, Refusal):
        return found
    return Meaning(
        (Named("model", found["name"], "", call.row.action), Named("model", found["new_name"], "", "register_model"))
    )


def _scored(call: Call) -> Meaning:
    content = visible_json(call)
    return Meaning((Named("model", call.route, "", call.row.action),), {} if content is None else instances(content))


def _wrapped(place: Place) -> Place:
    return _place(place.where, place.read, place.reads)


_SERVER, _EVERY, _PATH = _wrapped(SERVER), _wrapped(EVERYTHING), _wrapped(PATH)
_EXPERIMENT, _RUNS = _by("experiment_id"), _by("run_id", "run_uuid")
_NAMED, _BY_NAME = _by("name", prefix=_BY_ITS_NAME), _by("experiment_name", prefix=_BY_ITS_NAME)
_MODEL, _TRACE = _by("name"), _by("trace_id", "request_id")
_LISTED = _place("field `experiment_ids`, each (none: any)", _listed)
_VERSIONED = _place("field `name` and `version`", _versioned)
_CREATED = _place("field `name`; `run_id` and `model_id` are read", _created)
_UPDATED = _place(f"{_FIELD} `experiment_id`, and `new_name` as `{_BY_ITS_NAME}…`", _updated)
_RENAMED = _place("field `name` and `new_name`", _renamed)
_SCORED = Place("the route's name", _scored, Reads.LIMITS)


_TRACKING: Final = f"{_API}mlflow/"


def _row(  # noqa: PLR0917  a table row
    method: str,
    template: str,
    action: str,
    place: Place,
    kind: str = "model",
    also: tuple[tuple[str, str], ...] = (),
    lists: str = "",
) -> Row:
    if place.where.startswith(_FIELD):
        rest = place.where.removeprefix(_FIELD)
        place = (
            Place(f"query{rest}", place.read) if method == "GET" else Place(f"body{rest}", place.read, Reads.MEANING)
        )
    return Row(method, template, action, place, kind, also, lists)


def _tracking() -> list[Row]:
    """Return the rows of experiments and runs."""
    table = (
        ("POST", "experiments/create", "write_data", _NAMED, "experiment"),
        ("GET", "experiments/get", "read_metadata", _EXPERIMENT, "experiment"),
        ("GET", "experiments/get-by-name", "read_metadata", _BY_NAME, "experiment"),
        ("GET", "experiments/search", "list_data", _EVERY, "experiment"),
        ("POST", "experiments/search", "list_data", _EVERY, "experiment"),
        ("POST", "experiments/search-datasets", "list_data", _LISTED, "experiment"),
        ("POST", "experiments/update", "write_data", _UPDATED, "experiment"),
        ("POST", "experiments/set-experiment-tag", "write_data", _EXPERIMENT, "experiment"),
        ("POST", "experiments/delete-experiment-tag", "write_data", _EXPERIMENT, "experiment"),
        ("POST", "experiments/delete", "delete_data", _EXPERIMENT, "experiment"),
        ("POST", "experiments/restore", "write_data", _EXPERIMENT, "experiment"),
        ("POST", "runs/create", "write_data", _EXPERIMENT, "experiment"),
        ("POST", "runs/create-promptlab-run", "write_data", _EXPERIMENT, "experiment"),
        ("POST", "runs/search", "list_data", _LISTED, "experiment"),
        ("GET", "runs/get", "read_data", _RUNS, "run"),
        *(("POST", f"runs/{verb}", "write_data", _RUNS, "run") for verb in _RUN_WRITES),
        ("POST", "runs/delete", "delete_data", _RUNS, "run"),
        ("GET", "metrics/get-history", "read_data", _RUNS, "run"),
        ("GET", "metrics/get-history-bulk", "read_data", _EVERY, "run"),
        ("GET", "metrics/get-history-bulk-interval", "read_data", _EVERY, "run"),
        ("GET", "artifacts/list", "list_data", _RUNS, "run"),
        ("POST", "artifacts/presigned-download-url", "read_data", _RUNS, "run"),
        ("POST", "artifacts/presigned-upload-url", "write_data", _RUNS, "run"),
    )
    return [
        _row(method, _TRACKING + path, action, place, kind, lists=kind if path == "experiments/search" else "")
        for method, path, action, place, kind in table
    ]


_RUN_WRITES: Final = (
    "update",
    "restore",
    "log-metric",
    "log-parameter",
    "log-batch",
    "log-model",
    "log-inputs",
    "outputs",
    "set-tag",
    "delete-tag",
)


def _registry() -> list[Row]:
    models, versions = f"{_TRACKING}registered-models/", f"{_TRACKING}model-versions/"
    return [
        _row("POST", f"{models}create", "register_model", _MODEL),
        _row("GET", f"{models}get", "read_metadata", _MODEL),
        _row("GET", f"{models}search", "list_models", _EVERY),
        _row("PATCH", f"{models}update", "update_model", _MODEL),
        _row("POST", f"{models}rename", "update_model", _RENAMED, also=(("model", "register_model"),)),
        _row("DELETE", f"{models}delete", "delete_model", _MODEL),
        _row("POST", f"{models}set-tag", "update_model", _MODEL),
        _row("DELETE", f"{models}delete-tag", "update_model", _MODEL),
        _row("GET", f"{models}get-latest-versions", "read_metadata", _MODEL),
        _row("POST", f"{models}get-latest-versions", "read_metadata", _MODEL),
        _row("GET", f"{models}alias", "read_metadata", _MODEL),
        _row("POST", f"{models}alias", "deploy_model", _VERSIONED),
        _row("DELETE", f"{models}alias", "undeploy_model", _MODEL),
        _row("POST", f"{versions}create", "register_model", _CREATED,
            also=(("run", "read_data"), ("logged_model", "read_data"))),
        _row("GET", f"{versions}get", "read_metadata", _VERSIONED),
        _row("GET", f"{versions}search", "list_models", _EVERY),
        _row("PATCH", f"{versions}update", "update_model", _VERSIONED),
        _row("DELETE", f"{versions}delete", "delete_model", _VERSIONED),
        _row("POST", f"{versions}transition-stage", "deploy_model", _VERSIONED),
        _row("GET", f"{versions}get-download-uri", "read_data", _VERSIONED),
        _row("POST", f"{versions}set-tag", "update_model", _VERSIONED),
        _row("DELETE", f"{versions}delete-tag", "update_model", _VERSIONED),
        _row("GET", "/model-versions/get-artifact", "read_data", _VERSIONED),
    ]  # fmt: skip


def _artifacts() -> list[Row]:
    base = f"{_API}mlflow-artifacts"
    return [
        _row("GET", f"{base}/artifacts", "list_data", _EVERY, "artifact"),
        _row("GET", f"{base}/artifacts/{{path**}}", "read_data", _PATH, "artifact"),
        _row("PUT", f"{base}/artifacts/{{path**}}", "write_data", _PATH, "artifact"),
        _row("DELETE", f"{base}/artifacts/{{path**}}", "delete_data", _PATH, "artifact"),
        *(_row("POST", f"{base}/mpu/{verb}/{{path**}}", "write_data", _PATH, "artifact") for verb in _UPLOADS),
        _row("GET", f"{base}/presigned/{{path**}}", "read_data", _PATH, "artifact"),
        _row("GET", "/get-artifact", "read_data", _RUNS, "run"),
        _row("POST", f"{_TRACKING}upload-artifact", "write_data", _EVERY, "run"),
    ]


_UPLOADS: Final = ("create", "complete", "abort")


def _things() -> list[Row]:
    """Return the rows of logged models, traces and evaluation datasets, which paths name."""
    model, trace, dataset = (f"{_TRACKING}{each}" for each in ("logged-models", "traces", "datasets"))
    table = (
        ("POST", model, "write_data", _EXPERIMENT, "experiment"),
        ("POST", f"{model}/search", "list_data", _LISTED, "experiment"),
        ("GET", f"{model}/{{id}}", "read_metadata", _PATH, "logged_model"),
        ("PATCH", f"{model}/{{id}}", "write_data", _PATH, "logged_model"),
        ("DELETE", f"{model}/{{id}}", "delete_data", _PATH, "logged_model"),
        ("POST", f"{model}/{{id}}/params", "write_data", _PATH, "logged_model"),
        ("PATCH", f"{model}/{{id}}/tags", "write_data", _PATH, "logged_model"),
        ("DELETE", f"{model}/{{id}}/tags/{{key}}", "write_data", _PATH, "logged_model"),
        ("GET", f"{model}/{{id}}/artifacts/directories", "list_data", _PATH, "logged_model"),
        ("GET", f"{model}/{{id}}/artifacts/files", "read_data", _PATH, "logged_model"),
        ("GET", trace, "list_data", _EVERY, "trace"),
        ("POST", trace, "write_data", _EVERY, "trace"),
        ("POST", "/v1/traces", "write_data", _EVERY, "trace"),
        ("GET", f"{trace}/get", "read_data", _TRACE, "trace"),
        ("GET", f"{trace}/batchGet", "read_data", _EVERY, "trace"),
        ("POST", f"{trace}/batchGetInfos", "read_data", _EVERY, "trace"),
        ("POST", f"{trace}/search", "list_data", _EVERY, "trace"),
        ("POST", f"{trace}/metrics", "read_data", _EVERY, "trace"),
        ("POST", f"{trace}/calculate-filter-correlation", "read_data", _EVERY, "trace"),
        ("POST", f"{trace}/delete-traces", "delete_data", _EVERY, "trace"),
        ("POST", f"{trace}/link-prompts", "write_data", _TRACE, "trace"),
        ("POST", f"{trace}/link-to-run", "write_data", _EVERY, "trace"),
        ("GET", f"{trace}/{{id}}", "read_data", _PATH, "trace"),
        ("PATCH", f"{trace}/{{id}}", "write_data", _PATH, "trace"),
        ("GET", f"{trace}/{{id}}/info", "read_data", _PATH, "trace"),
        ("PATCH", f"{trace}/{{id}}/tags", "write_data", _PATH, "trace"),
        ("DELETE", f"{trace}/{{id}}/tags", "write_data", _PATH, "trace"),
        ("POST", f"{trace}/{{id}}/assessments", "write_data", _PATH, "trace"),
        ("GET", f"{trace}/{{id}}/assessments/{{key}}", "read_data", _PATH, "trace"),
        ("PATCH", f"{trace}/{{id}}/assessments/{{key}}", "write_data", _PATH, "trace"),
        ("DELETE", f"{trace}/{{id}}/assessments/{{key}}", "write_data", _PATH, "trace"),
        ("GET", f"{_TRACKING}get-trace-artifact", "read_data", _EVERY, "trace"),
        ("GET", f"{_TRACKING}unified-traces", "list_data", _EVERY, "trace"),
        ("GET", f"{_TRACKING}get-online-trace-details", "read_data", _EVERY, "trace"),
        ("POST", f"{dataset}/create", "write_data", _EVERY, "dataset"),
        ("GET", f"{dataset}/search", "list_data", _EVERY, "dataset"),
        ("POST", f"{dataset}/search", "list_data", _EVERY, "dataset"),
        ("GET", f"{dataset}/{{id}}", "read_metadata", _PATH, "dataset"),
        ("DELETE", f"{dataset}/{{id}}", "delete_data", _PATH, "dataset"),
        ("GET", f"{dataset}/{{id}}/records", "read_data", _PATH, "dataset"),
        ("POST", f"{dataset}/{{id}}/records", "write_data", _PATH, "dataset"),
        ("DELETE", f"{dataset}/{{id}}/records", "delete_data", _PATH, "dataset"),
        ("GET", f"{dataset}/{{id}}/experiment-ids", "read_metadata", _PATH, "dataset"),
        ("POST", f"{dataset}/{{id}}/add-experiments", "write_data", _PATH, "dataset"),
        ("POST", f"{dataset}/{{id}}/remove-experiments", "write_data", _PATH, "dataset"),
        ("PATCH", f"{dataset}/{{id}}/tags", "write_data", _PATH, "dataset"),
        ("DELETE", f"{dataset}/{{id}}/tags/{{key}}", "write_data", _PATH, "dataset"),
    )
    return [_row(*row) for row in table]


# Secrets, webhooks (which post what they see elsewhere), code that the server runs, and what is new every month.
_ADMIN: Final = (
    "gateway",
    "webhooks",
    "workspaces",
    "scorers",
    "scorer",
    "genai",
    "issues",
    "label-schemas",
    "review-queues",
    "prompt-optimization",
    "jobs",
    "demo",
)


def _administration() -> list[Row]:
    rows = [_row(EVERY, f"{_TRACKING}{name}/{{rest**}}", "admin", _SERVER, "server") for name in _ADMIN]
    rows += [
        _row(EVERY, f"{_TRACKING}{name}", "admin", _SERVER, "server")
        for name in ("webhooks", "workspaces", "issues", "gateway-proxy", "ui-telemetry")
    ]
    return [
        *rows,
        _row("GET", f"{_TRACKING}server-info", "read_metadata", _SERVER, "server"),
        _row("GET", "/graphql", "admin", _SERVER, "server"),
        _row("POST", "/graphql", "admin", _SERVER, "server"),
        _row("GET", "/", "read_metadata", _SERVER, "server"),
        _row("GET", "/static-files/{path**}", "read_metadata", _SERVER, "server"),
        _row("GET", "/health", "health", _SERVER, "server"),
        _row("GET", "/ping", "health", _SERVER, "server"),
        _row("GET", "/version", "read_metadata", _SERVER, "server"),
        _row("POST", "/gateway/{model}/mlflow/invocations", "generate", _PATH),
        _row("POST", "/gateway/mlflow/v1/chat/completions", "generate", _wrapped(json_key("model"))),
        _row("POST", "/invocations", "infer", _SCORED),
    ]


ADAPTER: Final = Adapter(
    "mlflow",
    (*_tracking(), *_registry(), *_artifacts(), *_things(), *_administration()),
    error_shape="mlflow",
    header_names=(WORKSPACE,),
    aliases={_API: _PREFIXES},
)
