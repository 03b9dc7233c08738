"""A real LitServe with its OpenAI specs: `python llm_server.py PORT`. What it serves answers with the model's name.

`python llm_server.py PORT predict` serves LitServe's own `/predict` instead.
"""

import sys

import litserve as ls


class Chat(ls.LitAPI):
    def setup(self, device):
        pass

    def predict(self, prompt, context):
        yield from ("this", " is ", str(context.get("model")))


class Embedding(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request.ensure_list()

    def predict(self, inputs):
        return [[0.5, 0.25] for _ in inputs]

    def encode_response(self, output):
        return {"embeddings": output}


class Square(ls.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["input"]

    def predict(self, value):
        return value * value

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    apis = [Chat(spec=ls.OpenAISpec()), Embedding(spec=ls.OpenAIEmbeddingSpec())]
    if sys.argv[2:] == ["predict"]:
        apis = [Square()]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, num_api_servers=1, log_level="warning"
    )
