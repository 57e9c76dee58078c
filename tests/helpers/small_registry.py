"""A schema registry that gives what a test says, or misbehaves."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SmallRegistry:
    """A registry that gives what a test says, or misbehaves."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}
        self.status = 0  # in place of all answers
        self.free = threading.Event()  # not set: it hangs
        self.free.set()
        self.asked: list[tuple[str, str]] = []
        me = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                me.asked.append((self.path, self.headers.get("Authorization", "")))
                me.free.wait(60.0)
                found = me.answers.get(self.path)
                status = me.status or (200 if found is not None else 404)
                body = json.dumps(found if status == 200 else {"error_code": 40403, "message": "no"}).encode()
                with contextlib.suppress(OSError):  # a client that has given up
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def put(self, number: int, schema: object, kind: str = "AVRO", references: object = ()) -> None:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        form = "?format=serialized" if kind == "PROTOBUF" else ""
        self.answers[f"/schemas/ids/{number}{form}"] = {
            "schema": text, "schemaType": kind, "references": list(references),
        }  # fmt: skip


@contextlib.contextmanager
def small_registry() -> Iterator[SmallRegistry]:
    """A registry that is stopped at the end."""
    registry = SmallRegistry()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
