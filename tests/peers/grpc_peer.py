"""gRPC from elsewhere: a server and a client on grpcio, with bytes as messages, so that nothing is generated.

    grpc_peer.py server            prints `port N`, serves until it is killed
    grpc_peer.py client ADDRESS CASE...   runs the cases; says `CASE: ok` for each, or fails with a traceback

The end-to-end suite starts both around the proxy (tests/suite/grpc.rs).
"""

import sys
import threading
import time
from concurrent import futures

import grpc

# Larger than any message here; the default for received ones is 4 MiB.
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.use_local_subchannel_pool", 1),
]

SERVICE = "ringway.Test"


class Peer:
    """The service. What it learns of cancelled calls is asked for by Notes."""

    def __init__(self):
        self.notes = []
        self.changed = threading.Condition()

    def note(self, text):
        with self.changed:
            self.notes.append(text)
            self.changed.notify_all()

    def echo(self, request, context):
        context.send_initial_metadata([m for m in context.invocation_metadata() if m.key.startswith("x-echo")])
        context.set_trailing_metadata([(m.key.replace("x-trail", "x-back"), m.value)
                                       for m in context.invocation_metadata() if m.key.startswith("x-trail")])
        return request

    def fail(self, request, context):
        code, details = request.decode().split(":", 1)
        context.set_trailing_metadata((("x-why", "because"), ("x-why-bin", bytes(range(256)))))
        context.abort(getattr(grpc.StatusCode, code), details)

    def fail_late(self, request, context):
        for number in range(3):
            yield b"%d" % number
        context.abort(grpc.StatusCode.DATA_LOSS, "after three")

    def wait(self, request, context):
        """Answers when the call is over, one way or another."""
        over = threading.Event()
        started = time.monotonic()
        if not context.add_callback(over.set):
            over.set()
        self.note("waiting %s %d" % (request.decode(), context.time_remaining() is not None))
        over.wait(10)
        self.note("over %s %.1f" % (request.decode(), time.monotonic() - started))
        return b""

    def notes_until(self, request, context):
        """All notes, once one begins with the request."""
        wanted = request.decode()
        with self.changed:
            self.changed.wait_for(lambda: any(note.startswith(wanted) for note in self.notes), timeout=8)
            return "\n".join(self.notes).encode()

    def join(self, requests, context):
        count = total = 0
        for request in requests:
            count += 1
            total += len(request)
        return b"%d %d" % (count, total)

    def count(self, request, context):
        size, number = (int(part) for part in request.split())
        for index in range(number):
            yield (b"%08d" % index).ljust(size, b"x")

    def endless(self, request, context):
        context.add_callback(lambda: self.note("endless over"))
        index = 0
        while context.is_active():
            yield b"%d" % index
            index += 1

    def chat(self, requests, context):
        for request in requests:
            if request == b"leave":
                context.abort(grpc.StatusCode.ABORTED, "as you wish")
            yield b"re: " + request

    def handlers(self):
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(SERVICE, {
            "Echo": unary(self.echo),
            "Fail": unary(self.fail),
            "FailLate": stream(self.fail_late),
            "Wait": unary(self.wait),
            "Notes": unary(self.notes_until),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
            "Count": stream(self.count),
            "Endless": stream(self.endless),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        })


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=OPTIONS)
    server.add_generic_rpc_handlers((Peer().handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("port %d" % port, flush=True)
    server.wait_for_termination()


class Client:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=OPTIONS)

    def unary(self, name):
        return self.channel.unary_unary("/%s/%s" % (SERVICE, name))

    def stream(self, name):
        return self.channel.unary_stream("/%s/%s" % (SERVICE, name))

    def error(self, call, *arguments, **more):
        """The error that a call must end with."""
        try:
            answer = call(*arguments, **more)
            if not isinstance(answer, (bytes, tuple)):
                answer = list(answer)
        except grpc.RpcError as error:
            return error
        raise AssertionError("no error, but %r" % (answer,))

    def unary_calls(self):
        for size in (0, 1, 1000, 16384, 65536, 1 << 20, 8 << 20):
            message = bytes(index % 251 for index in range(997)) * (size // 997 + 1)
            assert self.unary("Echo")(message[:size], timeout=10) == message[:size], size

    def compression(self):
        message = b"compress me " * 10000
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert self.unary("Echo")(message, timeout=10, compression=compression) == message

    def parallel_calls(self):
        calls = [self.unary("Echo").future(b"%d" % index, timeout=10) for index in range(300)]
        for index, call in enumerate(calls):
            assert call.result() == b"%d" % index

    def metadata(self):
        sent = [("x-echo-a", "1"), ("x-echo-a", "2"), ("x-echo-bin", bytes(range(256))),
                ("x-trail-b", "3"), ("x-trail-bin", b"\x00\xff\x0d\x0a")]
        answer, call = self.unary("Echo").with_call(b"", metadata=sent, timeout=10)
        first = [(m.key, m.value) for m in call.initial_metadata() if m.key.startswith("x-echo")]
        last = [(m.key, m.value) for m in call.trailing_metadata() if m.key.startswith("x-back")]
        assert sorted(first) == sorted(sent[:3]), first
        assert sorted(last) == [("x-back-b", "3"), ("x-back-bin", b"\x00\xff\x0d\x0a")], last

    def large_metadata(self):
        large = "v" * 7000
        sent = [("x-echo-large", large), ("x-trail-large", large)]
        answer, call = self.unary("Echo").with_call(b"", metadata=sent, timeout=10)
        assert dict(call.initial_metadata())["x-echo-large"] == large
        assert dict(call.trailing_metadata())["x-back-large"] == large

    def trailers_only_errors(self):
        for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED):
            # What is not ASCII is percent-encoded by both ends, and not to be touched in between.
            error = self.error(self.unary("Fail"), ("%s:not here, 100 %% sure: \u00fc \u4e16\n" % code.name).encode(), timeout=10)
            assert error.code() == code, error
            assert error.details() == "not here, 100 % sure: \u00fc \u4e16\n", error.details()
            trailers = dict(error.trailing_metadata())
            assert trailers["x-why"] == "because" and trailers["x-why-bin"] == bytes(range(256)), trailers
        error = self.error(self.unary("Nowhere"), b"", timeout=10)
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

    def late_errors(self):
        call = self.stream("FailLate")(b"", timeout=10)
        got = []
        try:
            for message in call:
                got.append(message)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DATA_LOSS and error.details() == "after three", error
        assert got == [b"0", b"1", b"2"], got
        assert call.code() == grpc.StatusCode.DATA_LOSS

    def client_streaming(self):
        join = self.channel.stream_unary("/%s/Join" % SERVICE)
        assert join(iter([]), timeout=10) == b"0 0"
        assert join((b"x" * 100 for _ in range(2000)), timeout=10) == b"2000 200000"
        assert join((b"x" * (1 << 20) for _ in range(16)), timeout=10) == b"16 %d" % (16 << 20)

    def server_streaming(self):
        for size, number in ((8, 0), (8, 2000), (100000, 100)):
            got = list(self.stream("Count")(b"%d %d" % (size, number), timeout=10))
            assert len(got) == number, (size, number, len(got))
            assert all(message == (b"%08d" % index).ljust(size, b"x") for index, message in enumerate(got))

    def bidirectional_streaming(self):
        """In lockstep: each answer is awaited before the next message is sent, so nothing may be held back."""
        answered = threading.Semaphore(0)

        def requests():
            for index in range(300):
                yield b"%d" % index
                assert answered.acquire(timeout=5), "no answer to %d" % index

        chat = self.channel.stream_stream("/%s/Chat" % SERVICE)
        index = 0
        for answer in chat(requests(), timeout=20):
            assert answer == b"re: %d" % index, answer
            index += 1
            answered.release()
        assert index == 300, index

    def a_server_that_ends_the_chat(self):
        stay = threading.Event()

        def requests():
            yield b"hello"
            yield b"leave"
            stay.wait(5)

        chat = self.channel.stream_stream("/%s/Chat" % SERVICE)
        got = []
        try:
            for answer in chat(requests(), timeout=10):
                got.append(answer)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ABORTED and error.details() == "as you wish", error
        finally:
            stay.set()
        assert got == [b"re: hello"], got

    def deadlines(self):
        started = time.monotonic()
        error = self.error(self.unary("Wait"), b"deadline", timeout=0.3)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.monotonic() - started < 3
        notes = self.unary("Notes")(b"over deadline", timeout=10).decode().split("\n")
        assert "waiting deadline 1" in notes, ("the server knows of the deadline", notes)
        over = [note for note in notes if note.startswith("over deadline")]
        assert over and float(over[0].split()[2]) < 5, notes

    def cancelled_by_the_client(self):
        call = self.unary("Wait").future(b"cancelled")
        self.unary("Notes")(b"waiting cancelled", timeout=10)
        call.cancel()
        notes = self.unary("Notes")(b"over cancelled", timeout=10).decode()
        assert "over cancelled" in notes, notes
        stream = self.stream("Endless")(b"")
        assert [next(stream) for _ in range(3)] == [b"0", b"1", b"2"]
        stream.cancel()
        notes = self.unary("Notes")(b"endless over", timeout=10).decode()
        assert "endless over" in notes, notes

    def refused(self, call, code, reason):
        error = self.error(call, b"x", timeout=10)
        assert (error.code(), error.details()) == (code, reason), error

    def nobody_there(self):
        for call in (self.unary("Echo"), self.stream("Count")):
            self.refused(call, grpc.StatusCode.UNAVAILABLE, "upstream_connect_failed")

    def no_route(self):
        for call in (self.unary("Echo"), self.stream("Count")):
            self.refused(call, grpc.StatusCode.UNIMPLEMENTED, "no_route")

    def too_slow(self):
        """The proxy's own time-out, which is shorter than the client's. The server knows of it, and may be first."""
        error = self.error(self.unary("Wait"), b"x", timeout=10)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert error.details() in ("request_timeout", "Deadline Exceeded"), error
        notes = self.unary("Notes")(b"over x", timeout=10).decode()
        assert "over x" in notes, ("the server is told", notes)

    def cut_in_the_middle(self):
        """A stream that the proxy has to cut must not look as if it had ended well."""
        call = self.stream("Endless")(b"", timeout=10)
        try:
            for _ in call:
                pass
            raise AssertionError("a cut stream ended well")
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE), error

    def connections_that_age(self):
        """The proxy lets go of its connections now and then; no call may notice."""
        for index in range(500):
            assert self.unary("Echo")(b"%d" % index, timeout=10) == b"%d" % index


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve()
    else:
        for case in sys.argv[3:]:
            getattr(Client(sys.argv[2]), case)()
            print("%s: ok" % case, flush=True)
