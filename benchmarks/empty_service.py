"""An Authorization service on grpcio that answers a constant: what the transport alone costs."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/envoy.service.auth.v3.Authorization/Check"


def main(address: str) -> None:
    answer = b"\x0a\x02\x08\x07"  # CheckResponse{status: {code: 7}}

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method != METHOD:
                return None
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer)

    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
