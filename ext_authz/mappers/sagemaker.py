"""SageMaker: the container's own API and the runtime's endpoints.

Law: headers that pick a model, a variant or a place to read from count beside
the path. Non-goal: what models take and answer.
"""

from typing import Final

from ext_authz.mappers.adapter import Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.limits import instances
from ext_authz.mappers.path import canonicalise
from ext_authz.mappers.places import SERVER, header_name, json_key, name_problem, version_problem, visible_json
from ext_authz.model import Reason, Refusal

_PREFIX: Final = "x-amzn-sagemaker-"
_VARIANT: Final = f"{_PREFIX}target-variant"
_INPUT: Final = f"{_PREFIX}inputlocation"
# Each picks what answers, beside the endpoint or in the place of the container's own model.
_TARGETS: Final = (f"{_PREFIX}target-model", f"{_PREFIX}inference-component", f"{_PREFIX}target-container-hostname")
_S3: Final = "s3://"


def _targets(call: Call) -> tuple[Named, ...] | Refusal:
    named: list[Named] = []
    for header in _TARGETS:
        target = header_name(call.facts, header)
        if isinstance(target, Refusal):
            return target
        if target:
            named.append(Named("model", target, "", call.row.action))
    return tuple(named)


def _container(call: Call) -> Meaning | Refusal:
    targets = _targets(call)
    if isinstance(targets, Refusal):
        return targets
    content = visible_json(call)
    return Meaning(
        targets or (Named("model", call.route, "", call.row.action),), {} if content is None else instances(content)
    )


def _in_path(call: Call) -> Meaning | Refusal:
    targets = _targets(call)
    if isinstance(targets, Refusal):
        return targets
    model = call.captured["model"]
    if any(target.id != model for target in targets):
        return Refusal(Reason.AMBIGUOUS_BODY, "a header names another model than the path")
    return Meaning((Named("model", model, "", call.row.action),))


def _endpoint(call: Call) -> Meaning | Refusal:
    targets, variant = _targets(call), header_name(call.facts, _VARIANT)
    if isinstance(targets, Refusal):
        return targets
    if isinstance(variant, Refusal):
        return variant
    if version_problem(variant):
        return Refusal(Reason.AMBIGUOUS_BODY, "the header target-variant is no name")
    return Meaning((Named("endpoint", call.captured["endpoint"], variant, call.row.action), *targets))


def _async(call: Call) -> Meaning | Refusal:
    """Add the object that the endpoint reads the request from."""
    meaning, where = _endpoint(call), header_name(call.facts, _INPUT)
    if isinstance(meaning, Refusal):
        return meaning
    if isinstance(where, Refusal):
        return where
    path = canonicalise("/" + where.removeprefix(_S3))
    if not where.startswith(_S3) or "%" in where or isinstance(path, Refusal) or len(path.segments) < 2:  # noqa: PLR2004
        return Refusal(Reason.AMBIGUOUS_BODY, "the header inputlocation names no object")
    name = path.text[1:]
    if path.query or name_problem(name):
        return Refusal(Reason.AMBIGUOUS_BODY, "the header inputlocation names no object")
    return meaning._replace(named=(*meaning.named, Named("object", name, "", "read_data")))


_CONTAINER = Place("the route's name, or header target-model", _container, Reads.LIMITS)
_MODEL = Place("path", _in_path)
_ENDPOINT = Place("path, and the headers target-model, -variant, -container, inference-component", _endpoint)
_ASYNC = Place(f"{_ENDPOINT.where}; header inputlocation is read", _async)
_TARGETED: Final = (("model", "infer"),)

ADAPTER: Final = Adapter(
    "sagemaker",
    (
        Row("GET", "/ping", "health", SERVER, "server"),
        Row("POST", "/invocations", "infer", _CONTAINER),
        Row("GET", "/models", "list_models", SERVER, "server"),
        Row("POST", "/models", "deploy_model", json_key("model_name"), also=(("model", "register_model"),)),
        Row("GET", "/models/{model}", "read_metadata", _MODEL),
        Row("DELETE", "/models/{model}", "undeploy_model", _MODEL),
        Row("POST", "/models/{model}/invoke", "infer", _MODEL),
        Row("POST", "/endpoints/{endpoint}/invocations", "infer", _ENDPOINT, "endpoint", _TARGETED),
        Row("POST", "/endpoints/{endpoint}/invocations-response-stream", "infer", _ENDPOINT, "endpoint", _TARGETED),
        Row("POST", "/endpoints/{endpoint}/async-invocations", "infer", _ASYNC, "endpoint",
            (*_TARGETED, ("object", "read_data"))),
    ),
    header_names=(*_TARGETS, _VARIANT, _INPUT),
)  # fmt: skip
