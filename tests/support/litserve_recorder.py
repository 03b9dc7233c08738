"""LitServe's own FastAPI application with its OpenAI specs in process; the endpoints only write down what they got."""

import warnings
from collections import Counter
from typing import Any, NamedTuple

from asgi_asking import Loop

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litserve as ls
    from fastapi import BackgroundTasks
    from litserve.specs.openai import ChatCompletionRequest
    from litserve.specs.openai_embedding import EmbeddingRequest


class Act(NamedTuple):
    """What the server set out to do, with the numbers it would have gone by."""

    action: str
    model: str | None
    n: int | None = None
    max_tokens: int | None = None
    stream: bool = False


class _Chat(ls.LitAPI):
    def setup(self, device):
        pass

    def predict(self, prompt):
        yield "x"


class _Embedding(ls.LitAPI):
    def setup(self, device):
        pass

    def predict(self, inputs):
        return [[0.5]]

    def encode_response(self, output):
        return {"embeddings": output}


class Recorder:
    """`rest` returns what LitServe would have done with a request, and counts."""

    def __init__(self) -> None:
        acts: list[Act] = []

        class Chats(ls.OpenAISpec):
            async def chat_completion(self, request: ChatCompletionRequest, background_tasks: BackgroundTasks):
                largest = max(
                    [each for each in (request.max_tokens, request.max_completion_tokens) if each is not None],
                    default=None,
                )
                acts.append(Act("generate", request.model, request.n, largest, bool(request.stream)))

        class Embeddings(ls.OpenAIEmbeddingSpec):
            async def embeddings_endpoint(self, request: EmbeddingRequest):
                acts.append(Act("embed", request.model))

        self._acts = acts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            apis = [_Chat(spec=Chats()), _Embedding(spec=Embeddings())]
            server = ls.LitServer(apis, accelerator="cpu", workers_per_device=1)
            for api in apis:
                api.pre_setup(api.spec) if not api.spec.endpoints else None
                server._register_spec_endpoints(api)
        self._app: Any = server.app
        self._loop = Loop()
        self.counted: Counter[str] = Counter()

    def close(self) -> None:
        self._loop.close()

    def rest(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> list[Act]:
        """Hand the request to the application."""
        self.counted["requests"] += 1
        self._acts.clear()
        self._loop.ask(self._app, method, target, headers, body)
        self.counted["acted on"] += bool(self._acts)
        return list(self._acts)
