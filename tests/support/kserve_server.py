"""A real KServe model server: `python kserve_server.py HTTP GRPC`. Each model answers with its own name."""

import sys

from kserve import Model, ModelServer


class Named(Model):
    def load(self):
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": [self.name]}


if __name__ == "__main__":
    http, grpc = map(int, sys.argv[1:])
    models = [Named(name) for name in ("fraud", "secret")]
    for model in models:
        model.load()
    ModelServer(http_port=http, grpc_port=grpc, workers=1).start(models)
