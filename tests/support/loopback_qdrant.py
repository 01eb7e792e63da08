"""A server on this machine that speaks as much of Qdrant's REST interface as the project uses.

No package registry carries Qdrant's server, so that tests cannot start one. Here the real
qdrant-client sends real requests to this server, which reads them with the client's own models and
answers out of an engine: Qdrant's own, one shard of it as a library (``shards.py``), or the
embedded mode of the client, which does the same in Python. What this cannot show is what the server
itself adds: its limits, its clustering, and how fast it is.
"""

from __future__ import annotations

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qdrant_client import models
from qdrant_client.http.models import ChangeAliasesOperation, PointRequest


class LoopbackQdrant:
    """``engine`` holds everything; ``key`` is what callers must bring, None for nothing.

    ``faults`` are statuses of the next answers to requests that write points, None to let one
    through, 0 to cut the connection; ``hooks`` are called before the next search. ``seen`` lists
    method, path and body size.
    """

    def __init__(self, engine):
        self.engine = engine
        self.key = None
        self.faults = []
        self.hooks = []
        self.seen = []
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def address(self):
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, collection="models", options=""):
        return f"qdrant://{self.address}/{collection}{options}"

    @property
    def collections(self):
        return sorted(it.name for it in self.engine.get_collections().collections)

    def written(self):
        """How many requests wrote points."""
        return sum(method == "PUT" and path.endswith("/points") for method, path, _ in self.seen)

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, path, body):
        """The result of one request. Raises ValueError for a collection that is not there."""
        match method, path.strip("/").split("/"):
            case "GET", ["collections"]:
                return self.engine.get_collections()
            case "GET", ["aliases"]:
                return self.engine.get_aliases()
            case "POST", ["collections", "aliases"]:
                operations = ChangeAliasesOperation.model_validate(body).actions
                return self.engine.update_collection_aliases(operations)
            case "PUT", ["collections", name]:
                wanted = models.CreateCollection.model_validate(body)
                return self.engine.create_collection(name, vectors_config=wanted.vectors)
            case "DELETE", ["collections", name]:
                return self.engine.delete_collection(name)
            case "PUT", ["collections", name, "index"]:
                return self.engine.create_payload_index(
                    name, body["field_name"], field_schema=body["field_schema"]
                )
            case "PUT", ["collections", name, "points"]:
                points = models.PointsList.model_validate(body).points
                return self.engine.upsert(name, points)
            case "POST", ["collections", name, "points"]:
                wanted = PointRequest.model_validate(body)
                return self.engine.retrieve(
                    name,
                    wanted.ids,
                    with_payload=wanted.with_payload,
                    with_vectors=wanted.with_vector,
                )
            case "POST", ["collections", name, "points", "scroll"]:
                wanted = models.ScrollRequest.model_validate(body)
                points, following = self.engine.scroll(
                    name,
                    limit=wanted.limit,
                    offset=wanted.offset,
                    with_payload=wanted.with_payload,
                    with_vectors=wanted.with_vector,
                )
                return models.ScrollResult(points=points, next_page_offset=following)
            case "POST", ["collections", name, "points", "count"]:
                wanted = models.CountRequest.model_validate(body)
                return self.engine.count(name, count_filter=wanted.filter, exact=wanted.exact)
            case "POST", ["collections", name, "points", "query"]:
                while self.hooks:
                    self.hooks.pop(0)()
                wanted = models.QueryRequest.model_validate(body)
                return self.engine.query_points(
                    name,
                    query=wanted.query,
                    using=wanted.using,
                    query_filter=wanted.filter,
                    limit=wanted.limit,
                    offset=wanted.offset or 0,
                    with_payload=wanted.with_payload,
                    search_params=wanted.params,
                )
        raise AssertionError(f"{method} {path} is not spoken here")


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *arguments):
            pass

        def _work(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            with hub.lock:
                hub.seen.append((self.command, path, len(body)))
                status, reply = self._reply(path, body)
            if status == 0:
                self.close_connection = True
                return
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(data)

        def _reply(self, path, body):
            given = self.headers.get("api-key")
            if hub.key is not None and given != hub.key:
                words = "Must provide an API key" if given is None else f"Invalid API key {given}"
                return 401, _refusal(words)
            if self.command == "PUT" and path.endswith("/points") and hub.faults:
                status = hub.faults.pop(0)
                if status is not None:
                    return status, _refusal(f"fault {status} with {given}")
            try:
                with warnings.catch_warnings():
                    # The embedded mode says which of the options it has no use for.
                    warnings.simplefilter("ignore", UserWarning)
                    result = hub.answer(self.command, path, json.loads(body) if body else None)
            except ValueError as error:
                return 404 if "not found" in str(error) else 400, _refusal(str(error))
            return 200, {"result": _plain(result), "status": "ok", "time": 0.0}

        do_GET = do_POST = do_PUT = do_DELETE = _work  # noqa: N815

    return Handler


def _refusal(words):
    return {"status": {"error": words}, "time": 0.0}


def _plain(result):
    if isinstance(result, list):
        return [_plain(item) for item in result]
    return result.model_dump(mode="json") if hasattr(result, "model_dump") else result
