"""Seldon Core 2: the Open Inference Protocol behind its gateway, pipelines and the scheduler.

Law: the gateway's header beats the path, so one that names anything else is
refused; `x.pipeline` is a pipeline's name there, never a model's.
Non-goal: what runs behind a pipeline: a grant on it implies its models.
"""

from typing import Final

from ext_authz.mappers import open_inference
from ext_authz.mappers.adapter import GRPC, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.places import SERVER
from ext_authz.model import Reason, Refusal

HEADER: Final = "seldon-model"
ROUTE: Final = "seldon-route"
_PIPELINE: Final = ".pipeline"


def _pipeline(call: Call) -> Meaning | Refusal:
    name = call.captured["pipeline"]
    values = call.facts.headers.get(HEADER)
    if values is not None and values != (name + _PIPELINE,):
        return Refusal(Reason.AMBIGUOUS_BODY, f"the header {HEADER} does not name the pipeline of the call")
    return _unrouted(call, Meaning((Named("pipeline", name, "", call.row.action),)))


def _unrouted(call: Call, meaning: Meaning | Refusal) -> Meaning | Refusal:
    if isinstance(meaning, Refusal):
        return meaning
    if ROUTE in call.facts.headers:
        return Refusal(Reason.AMBIGUOUS_BODY, f"the header {ROUTE} picks what answers")
    if any(named.type == "model" and named.id.endswith(_PIPELINE) for named in meaning.named):
        return Refusal(Reason.AMBIGUOUS_BODY, "the model's name is a pipeline's here")
    return meaning


def _of(row: Row) -> Row:
    read = row.place.read
    place = Place(row.place.where, lambda call: _unrouted(call, read(call)), row.place.reads)
    return Row(row.method, row.template, row.action, place, row.type, row.also)


_PATH = Place("path", _pipeline, Reads.NOTHING)
_SERVICE: Final = "/seldon.mlops.scheduler.Scheduler/"

ADAPTER: Final = Adapter(
    "seldon",
    (
        *map(_of, open_inference.ADAPTER.rows),
        Row("POST", "/v2/pipelines/{pipeline}/infer", "infer", _PATH, "pipeline"),
        Row("GET", "/v2/pipelines/{pipeline}", "read_metadata", _PATH, "pipeline"),
        Row("GET", "/v2/pipelines/{pipeline}/ready", "health", _PATH, "pipeline"),
        Row(GRPC, f"{_SERVICE}{{call}}", "admin", SERVER, "server"),
    ),
    error_shape="open-inference",
    header_names=(*open_inference.ADAPTER.header_names, ROUTE),
)
