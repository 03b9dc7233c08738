"""Ray's job, package and Serve APIs.

Law: a submitted job is any command on the cluster, so it is the cluster that
is acted on, whatever the job is called; a Serve configuration replaces every
application. Non-goal: what applications serve under their own paths.
"""

from typing import Final

from ext_authz.mappers.adapter import EVERY, Adapter, Row
from ext_authz.mappers.places import EVERYTHING, PATH, ROUTE, SERVER, path_of

_PACKAGE = path_of("{protocol}/{name}")
_CHANGES: Final = (("model", "register_model"), ("model", "undeploy_model"))


def _jobs(base: str) -> list[Row]:
    return [
        *(Row("POST", base + end, "submit_training_job", ROUTE, "training_cluster") for end in ("", "/")),
        *(Row("GET", base + end, "read_job", EVERYTHING, "job") for end in ("", "/")),
        Row("GET", f"{base}/{{id}}", "read_job", PATH, "job"),
        Row("DELETE", f"{base}/{{id}}", "delete_data", PATH, "job"),
        Row("POST", f"{base}/{{id}}/stop", "cancel_job", PATH, "job"),
        Row("GET", f"{base}/{{id}}/logs", "read_job", PATH, "job"),
        Row("GET", f"{base}/{{id}}/logs/tail", "read_job", PATH, "job"),
    ]


# What the dashboard shows of the cluster; logs are the jobs' own words.
_SHOWN: Final = ("/", "/api/version", "/api/cluster_status", "/nodes", "/logical/actors", "/timezone")
_ADMIN: Final = (
    "/api/task_events",
    "/api/v0/delay/{seconds}",
    "/report_events",
    "/worker/traceback",
    "/worker/cpu_profile",
    "/worker/gpu_profile",
    "/memory_profile",
    "/task/traceback",
    "/task/cpu_profile",
    "/logical/kill_actor",
    "/logical/actor_kill",
)

ADAPTER: Final = Adapter(
    "ray",
    (
        *_jobs("/api/jobs"),
        *_jobs("/api/job_agent/jobs"),
        Row("GET", "/api/packages/{protocol}/{name}", "read_data", _PACKAGE, "package"),
        Row("PUT", "/api/packages/{protocol}/{name}", "write_data", _PACKAGE, "package"),
        *(
            row
            for end in ("", "/")
            for row in (
                Row("GET", f"/api/serve/applications{end}", "list_models", SERVER, "server"),
                Row("PUT", f"/api/serve/applications{end}", "deploy_model", EVERYTHING, also=_CHANGES),
                Row("DELETE", f"/api/serve/applications{end}", "undeploy_model", EVERYTHING),
            )
        ),
        *(Row("GET", path, "read_metadata", SERVER, "server") for path in _SHOWN),
        Row("GET", "/nodes/{node}", "read_metadata", SERVER, "server"),
        Row("GET", "/logical/actors/{actor}", "read_metadata", SERVER, "server"),
        Row("GET", "/static/{path**}", "read_metadata", SERVER, "server"),
        Row("GET", "/api/v0/logs", "read_job", EVERYTHING, "job"),
        Row("GET", "/api/v0/logs/{media}", "read_job", EVERYTHING, "job"),
        Row("GET", "/api/v0/{what}", "read_metadata", SERVER, "server"),
        Row("GET", "/api/v0/{what}/summarize", "read_metadata", SERVER, "server"),
        *(Row(EVERY, path, "admin", SERVER, "server") for path in _ADMIN),
        Row("GET", "/api/gcs_healthz", "health", SERVER, "server"),
        Row("GET", "/api/local_raylet_healthz", "health", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
    ),
)
