"""The Kubernetes API server's paths of training, pipeline and serving resources, and Kubeflow Pipelines' own API.

Law: the path's grammar says what is acted on, `NAMESPACE/NAME`; a creation or
a list names no object, so it is of all in the namespace, `NAMESPACE/*`. Kinds
that are not listed here are not routed. Non-goal: what objects contain.
"""

from collections.abc import Mapping
from typing import Final

from ext_authz.mappers.adapter import EVERY, Adapter, Call, Meaning, Named, Place, Row
from ext_authz.mappers.places import EVERYTHING, PATH, SERVER

# API group to the kinds (plural) that are training jobs, or serve models.
JOBS: Final = {
    "kubeflow.org": ("pytorchjobs", "tfjobs", "mpijobs", "xgboostjobs", "paddlejobs", "jaxjobs", "notebooks"),
    "trainer.kubeflow.org": ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
    "batch": ("jobs", "cronjobs"),
    "batch.volcano.sh": ("jobs",),
    "argoproj.io": ("workflows", "cronworkflows", "workflowtemplates", "clusterworkflowtemplates"),
    "ray.io": ("rayjobs", "rayclusters"),
    "kueue.x-k8s.io": ("workloads",),
}
MODELS: Final = {
    "serving.kserve.io": (
        "inferenceservices",
        "trainedmodels",
        "inferencegraphs",
        "servingruntimes",
        "clusterservingruntimes",
        "llminferenceservices",
    ),
    "mlops.seldon.io": ("models", "pipelines", "experiments", "servers"),
    "machinelearning.seldon.io": ("seldondeployments",),
    "ray.io": ("rayservices",),
}
_VERBS: Final = {
    "job": ("submit_training_job", "read_job", "read_job", "cancel_job"),
    "model": ("deploy_model", "list_models", "read_metadata", "undeploy_model"),
}


def _named(call: Call) -> Meaning:
    # A selector narrows a list, `?watch` draws it out: it stays a list.
    scope = f"{call.captured['namespace']}/" if "namespace" in call.captured else ""
    return Meaning((Named(call.row.type, scope + call.captured.get("name", EVERY), "", call.row.action),))


_OBJECT = Place("path, `namespace/name`", _named)
_COLLECTION = Place("path, `namespace/*`", _named)


def _paths(kinds: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the path of each kind's collection, namespaced and not."""
    return [
        f"/apis/{group}/{{version}}{scope}/{plural}"
        for group, plurals in kinds.items()
        for plural in plurals
        for scope in ("/namespaces/{namespace}", "")
    ]


def _rows(base: str, kind: str) -> list[Row]:
    change, several, one, end = _VERBS[kind]
    rows = [
        Row("GET", base, several, _COLLECTION, kind),
        Row("POST", base, change, _COLLECTION, kind),
        Row("DELETE", base, end, _COLLECTION, kind),
    ]
    for template in (f"{base}/{{name}}", f"{base}/{{name}}/status", f"{base}/{{name}}/scale"):
        rows += [
            Row("GET", template, one, _OBJECT, kind),
            Row("PUT", template, change, _OBJECT, kind),
            Row("PATCH", template, change, _OBJECT, kind),
        ]
    return [*rows, Row("DELETE", f"{base}/{{name}}", end, _OBJECT, kind)]


_JOB_PATHS, _MODEL_PATHS = _paths(JOBS), _paths(MODELS)

ADAPTER: Final = Adapter(
    "kubernetes",
    (
        *_rows(_JOB_PATHS[0], "job"),
        *_rows(_MODEL_PATHS[0], "model"),
        *(Row("GET", path, "health", SERVER, "server") for path in ("/livez", "/readyz", "/healthz")),
        *(Row("GET", path, "read_metadata", SERVER, "server") for path in ("/api", "/apis", "/version", "/openapi/v2")),
        Row("GET", "/apis/{group}", "read_metadata", SERVER, "server"),
        Row("GET", "/apis/{group}/{version}", "read_metadata", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
    ),
    slash_slots=(),
    aliases={paths[0]: tuple(paths[1:]) for paths in (_JOB_PATHS, _MODEL_PATHS)},
)


def _pipelines() -> list[Row]:
    base = "/apis/v2beta1"
    rows: list[Row] = []
    for plural, kind in (("experiments", "experiment"), ("runs", "job"), ("recurringruns", "job")):
        submit = "submit_training_job" if kind == "job" else "write_data"
        read, several = ("read_job", "read_job") if kind == "job" else ("read_data", "list_data")
        end = "cancel_job" if kind == "job" else "delete_data"
        rows += [
            Row("GET", f"{base}/{plural}", several, EVERYTHING, kind),
            Row("POST", f"{base}/{plural}", submit, EVERYTHING, kind),
            Row("GET", f"{base}/{plural}/{{id}}", read, PATH, kind),
            Row("DELETE", f"{base}/{plural}/{{id}}", end, PATH, kind),
            *(Row("POST", f"{base}/{plural}/{{id}}:{verb}", end, PATH, kind) for verb in ("archive", "unarchive")),
        ]
    rows += [Row("POST", f"{base}/runs/{{id}}:terminate", "cancel_job", PATH, "job"),
             Row("POST", f"{base}/runs/{{id}}:retry", "submit_training_job", PATH, "job"),
             Row("GET", f"{base}/runs/{{id}}/nodes/{{node}}/artifacts/{{artifact}}:read", "read_data", PATH, "job"),
             Row("POST", f"{base}/recurringruns/{{id}}:enable", "submit_training_job", PATH, "job"),
             Row("POST", f"{base}/recurringruns/{{id}}:disable", "cancel_job", PATH, "job")]  # fmt: skip
    pipelines = f"{base}/pipelines"
    rows += [
        Row("GET", pipelines, "list_data", EVERYTHING, "pipeline"),
        *(Row("POST", f"{pipelines}{path}", "write_data", EVERYTHING, "pipeline")
          for path in ("", "/upload", "/upload_version", "/create")),
        Row("GET", f"{pipelines}/names/{{name}}", "read_data", EVERYTHING, "pipeline"),
        Row("GET", f"{pipelines}/{{id}}", "read_data", PATH, "pipeline"),
        Row("PATCH", f"{pipelines}/{{id}}", "write_data", PATH, "pipeline"),
        Row("DELETE", f"{pipelines}/{{id}}", "delete_data", PATH, "pipeline"),
        Row("GET", f"{pipelines}/{{id}}/versions", "list_data", PATH, "pipeline"),
        Row("POST", f"{pipelines}/{{id}}/versions", "write_data", PATH, "pipeline"),
        Row("GET", f"{pipelines}/{{id}}/versions/{{version}}", "read_data", PATH, "pipeline"),
        Row("DELETE", f"{pipelines}/{{id}}/versions/{{version}}", "delete_data", PATH, "pipeline"),
        # Runs the caller's Python.
        Row("POST", f"{base}/visualizations/{{namespace}}", "admin", SERVER, "server"),
        Row("GET", f"{base}/healthz", "health", SERVER, "server"),
    ]  # fmt: skip
    return rows


PIPELINES: Final = Adapter("kubeflow-pipelines", _pipelines(), slash_slots=())
