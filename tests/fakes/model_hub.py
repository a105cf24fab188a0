"""A model hub on this machine: serves folders as repositories, the way the public one does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_COMMIT = "0" * 40


class ModelHub:
    """Serves repositories until closed; `sent` counts the bytes of file contents it gave out."""

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = repositories
        self.sent = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

            def _answer(self, *, with_body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                for name, folder in hub.repositories.items():
                    if path.startswith(f"/api/models/{name}/tree/"):
                        self._send_json(_tree(folder))
                    elif path.startswith(f"/api/models/{name}"):
                        siblings = [{"rfilename": entry["path"]} for entry in _tree(folder)]
                        self._send_json({"id": name, "sha": _COMMIT, "siblings": siblings})
                    elif path.startswith(f"/{name}/resolve/"):
                        self._send_file(folder / path.split("/", 5)[5], with_body=with_body)
                    else:
                        continue
                    return
                self.send_error(404)

            def _send_json(self, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _send_file(self, file: Path, *, with_body: bool) -> None:
                data = file.read_bytes()
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", _COMMIT)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if with_body:
                    hub.sent += len(data)
                    self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _tree(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": str(file.relative_to(folder)),
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
