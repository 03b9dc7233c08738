"""A real Triton (pytriton) on CPU: `python triton_server.py HTTP GRPC METRICS`. Each model answers with its own name."""

import sys

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def named(name):
    def infer(requests):
        return [{"who": np.char.encode(np.array([[name]] * len(request["x"])), "utf-8")} for request in requests]

    return infer


if __name__ == "__main__":
    http, grpc, metrics = map(int, sys.argv[1:])
    settings = TritonConfig(
        http_address="127.0.0.1",
        http_port=http,
        grpc_address="127.0.0.1",
        grpc_port=grpc,
        metrics_port=metrics,
        exit_on_error=True,
    )
    with Triton(config=settings) as triton:
        for name in ("fraud", "secret"):
            triton.bind(
                model_name=name,
                infer_func=named(name),
                inputs=[Tensor(name="x", dtype=np.float32, shape=(1,))],
                outputs=[Tensor(name="who", dtype=bytes, shape=(1,))],
                config=ModelConfig(max_batch_size=64),
            )
        triton.serve()
