"""The cases of gRPC's interop suite that are about deadlines and cancellation, by a client that is not ours.

usage: client.py CASE ADDRESS METHOD [REQUEST]

REQUEST is a message in hex: what is sent and received stays bytes, so nothing has to be generated. Prints one JSON
object: the status that the caller sees, and what came before it. The cases are those of
https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md, by streaming calls of our own.
"""

import json
import queue
import sys

import grpc

# For whatever is expected to happen, however slow the machine.
PATIENCE_S = 50
# Of a call that is meant to run into its deadline.
SHORT_S = 0.5
RETRY_INFO = b"google.rpc.RetryInfo"


class Requests:
    """A request stream that stays open until the call is over."""

    def __init__(self, *requests):
        self._requests = queue.Queue()
        for request in requests:
            self._requests.put(request)

    def __iter__(self):
        return self

    def __next__(self):
        request = self._requests.get()
        if request is None:
            raise StopIteration
        return request

    def close(self):
        self._requests.put(None)


def outcome(call, received=0):
    """What the caller of `call`, which is over, sees."""
    details = dict(call.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return {
        "code": call.code().name,
        "message": call.details(),
        "received": received,
        "retry_info": RETRY_INFO in details,
    }


def read(call):
    """Reads a call to its end."""
    received = 0
    try:
        for _ in call:
            received += 1
    except grpc.RpcError:
        pass
    return outcome(call, received)


def timeout_on_sleeping_server(channel, method, request):
    """The client's deadline passes on a stream on which nothing happens."""
    requests = Requests(*request)
    call = channel.stream_stream(method)(requests, timeout=SHORT_S)
    seen = read(call)
    requests.close()
    return seen


def timeout_by_the_server(channel, method, request):
    """The same when only the server knows of the deadline: the client's own timer cannot be what ends the call."""
    requests = Requests(*request)
    metadata = (("grpc-timeout", f"{int(SHORT_S * 1000)}m"),)
    call = channel.stream_stream(method)(requests, timeout=None, metadata=metadata)
    seen = read(call)
    requests.close()
    return seen


def cancel_after_begin(channel, method, request):
    """The call is cancelled before anything is sent."""
    requests = Requests()
    call = channel.stream_stream(method)(requests, timeout=PATIENCE_S)
    call.cancel()
    seen = read(call)
    requests.close()
    return seen


def cancel_after_first_response(channel, method, request):
    """The call is cancelled once the first answer is there; the stream of requests is still open."""
    requests = Requests(*request)
    call = channel.stream_stream(method)(requests, timeout=PATIENCE_S)
    next(call)
    call.cancel()
    seen = read(call)
    requests.close()
    return {**seen, "received": seen["received"] + 1}


def cancel_unary(channel, method, request):
    """A unary call is cancelled when a line comes on standard input."""
    call = channel.unary_unary(method).future(request[0], timeout=PATIENCE_S)
    sys.stdin.readline()
    call.cancel()
    return outcome(call)


def unary(channel, method, request):
    """A unary call to its end."""
    call = channel.unary_unary(method).future(request[0], timeout=PATIENCE_S)
    failed = call.exception() is not None
    return outcome(call, received=0 if failed else 1)


CASES = {
    case.__name__: case
    for case in (
        timeout_on_sleeping_server,
        timeout_by_the_server,
        cancel_after_begin,
        cancel_after_first_response,
        cancel_unary,
        unary,
    )
}


def main(case, address, method, *request):
    # A retry of grpcio's own would hide what the server said.
    options = (("grpc.enable_retries", 0),)
    with grpc.insecure_channel(address, options) as channel:
        print(json.dumps(CASES[case](channel, method, [bytes.fromhex(part) for part in request])))


if __name__ == "__main__":
    main(*sys.argv[1:])
