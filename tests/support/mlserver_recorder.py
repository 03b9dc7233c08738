"""MLServer's own router and servicer in process, with a data plane that only writes down whom it was asked for."""

import logging
import sys
import warnings
from collections import Counter
from typing import NamedTuple
from unittest import mock

from asgi_asking import Loop
from google.protobuf import descriptor_pool

# MLServer and tritonclient each bring messages of the same names: here these, and no others, live in a pool of their own.
_POOL = descriptor_pool.DescriptorPool()
_default = descriptor_pool.Default


def _pool() -> descriptor_pool.DescriptorPool:
    return _POOL if sys._getframe(1).f_globals.get("__name__", "").startswith("mlserver.grpc") else _default()


with warnings.catch_warnings(), mock.patch.object(descriptor_pool, "Default", _pool):
    warnings.simplefilter("ignore")
    from mlserver.errors import ModelNotFound
    from mlserver.grpc import dataplane_pb2 as pb
    from mlserver.grpc.servicers import InferenceServicer
    from mlserver.rest.app import create_app
    from mlserver.settings import Settings

logging.getLogger("mlserver").setLevel(logging.CRITICAL + 1)

MESSAGES = {
    "ServerLive": pb.ServerLiveRequest,
    "ServerReady": pb.ServerReadyRequest,
    "ServerMetadata": pb.ServerMetadataRequest,
    "ModelReady": pb.ModelReadyRequest,
    "ModelMetadata": pb.ModelMetadataRequest,
    "ModelInfer": pb.ModelInferRequest,
    "RepositoryIndex": pb.RepositoryIndexRequest,
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest,
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest,
}


class Act(NamedTuple):
    """What the server set out to do; no model for what concerns the whole server."""

    verb: str
    model: str = ""
    version: str = ""


class _Plane:
    def __init__(self) -> None:
        self.acts: list[Act] = []

    def _act(self, verb: str, model: str = "", version: str | None = None) -> None:
        self.acts.append(Act(verb, model, version or ""))
        raise ModelNotFound(model)

    async def live(self):
        self._act("live")

    async def ready(self):
        self._act("ready")

    async def metadata(self):
        self._act("metadata")

    async def model_ready(self, name, version=None):
        self._act("model_ready", name, version)

    async def model_metadata(self, name, version=None):
        self._act("model_metadata", name, version)

    async def infer(self, payload, name, version=None):
        self._act("infer", name, version)

    def infer_stream(self, payloads, name, version=None):
        self._act("infer", name, version)

    async def index(self, payload):
        self._act("index")

    async def load(self, name):
        self._act("load", name)

    async def unload(self, name):
        self._act("unload", name)


class _Context:
    def invocation_metadata(self):
        return ()

    def trailing_metadata(self):
        return ()

    def set_trailing_metadata(self, metadata):
        pass

    async def abort(self, code, details):
        raise ConnectionAbortedError(details)


class Recorder:
    """`rest` and `grpc` return what the server would have done with a request, and count."""

    def __init__(self) -> None:
        self._plane = _Plane()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = Settings(metrics_endpoint=None, cors_settings=None)
            self._app = create_app(settings, self._plane, self._plane)
        self._servicer = InferenceServicer(self._plane, self._plane)
        self._loop = Loop()
        self.counted: Counter[str] = Counter()

    def close(self) -> None:
        self._loop.close()

    def rest(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> list[Act]:
        """Hand the request to the FastAPI application."""
        self.counted["requests"] += 1
        self._plane.acts = []
        self._loop.ask(self._app, method, target, headers, body)
        return self._acts()

    def grpc(self, method: str, message: bytes) -> list[Act]:
        """Hand the message to the servicer after the runtime that MLServer has parsed it."""
        self.counted["requests"] += 1
        try:
            request = MESSAGES[method].FromString(message)
        except Exception:  # noqa: BLE001  DecodeError is the runtime's own class
            return []
        self._plane.acts = []
        self._loop.run(getattr(self._servicer, method)(request, _Context()))
        return self._acts()

    def _acts(self) -> list[Act]:
        if self._plane.acts:
            self.counted["acted on"] += 1
        return self._plane.acts
