"""An HTTP server that answers with given bytes, in place of TensorFlow Serving's REST API."""

import collections
import contextlib
import dataclasses
import http.server
import socket
import ssl
import threading

SLOWEST = 30


@dataclasses.dataclass
class Reply:
    """An answer.

    Attributes:
        body: Its bytes, or an iterable of parts that are sent one by one.
        status: HTTP's status; 0 resets the connection.
        content_type: None for no such header.
        headers: Others.
        length: The number of bytes that the header promises; None for that of `body`, and for an
            answer that ends with the connection if `body` comes in parts.
    """

    body: object = b"{}"
    status: int = 200
    content_type: str | None = "application/json"
    headers: dict = dataclasses.field(default_factory=dict)
    length: int | None = None


Request = collections.namedtuple("Request", "method path headers body")


class RestServer:
    """Answers each request with what `replies` has for its path, and the last reply for ever.

    Attributes:
        replies: Replies by path.
        requests: Those received.
        left: Set when a client leaves before its answer has ended.
    """

    def __init__(self):
        self.replies = {}
        self.requests = []
        self.left = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def encrypt(self, certificate, key, authority=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if authority is not None:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.address = self.address.replace("http:", "https:")

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bodies(self, path):
        return [request.body for request in self.requests if request.path == path]

    def reply(self, path):
        replies = self.replies[path]
        if isinstance(replies, Reply):
            return replies
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def _handler(outer):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append(Request(self.command, self.path, dict(self.headers), body))
                try:
                    self.answer(outer.reply(self.path))
                except (BrokenPipeError, ConnectionResetError):
                    outer.left.set()
                    self.close_connection = True

            do_POST = do_GET

            def answer(self, reply):
                if not reply.status:
                    self.close_connection = True
                    # Closing without waiting sends a reset.
                    self.connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                    )
                    return
                self.send_response(reply.status)
                if reply.content_type is not None:
                    self.send_header("Content-Type", reply.content_type)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                whole = isinstance(reply.body, bytes)
                length = len(reply.body) if whole and reply.length is None else reply.length
                if length is not None:
                    self.send_header("Content-Length", str(length))
                if length is None or length != len(reply.body):
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                for part in [reply.body] if whole else reply.body:
                    self.wfile.write(part)

            def log_message(self, *arguments):
                pass

        return Handler


@contextlib.contextmanager
def rest_server(replies=()):
    with RestServer() as server:
        server.replies.update(replies)
        yield server
