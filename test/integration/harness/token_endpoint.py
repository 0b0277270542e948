"""An OpenID Connect token endpoint on loopback, for OAUTHBEARER: client credentials in, a token that is not signed out.
Kafka takes such tokens where it was not told to look at signatures."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from harness import ports


def _part(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


class TokenEndpoint:
    """Serves until it is closed. `clients` may be changed meanwhile."""

    def __init__(self, clients: dict[str, str], *, valid_for: float = 3600.0) -> None:
        """clients: secrets by id. valid_for: seconds, of a token."""
        self.clients = dict(clients)
        self.valid_for = valid_for
        self.n_tokens = 0
        self.n_refused = 0
        self.scopes: list[str] = []  # that were asked for
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
                code, answer = endpoint._answer(self.headers.get("Authorization", ""), form)
                body = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        port = ports.free_port()
        self.url = f"http://127.0.0.1:{port}/token"
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="token-endpoint", daemon=True)
        self._thread.start()

    def __enter__(self) -> TokenEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _answer(self, authorization: str, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        try:
            client, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        except ValueError:
            client = secret = ""
        if form.get("grant_type") != ["client_credentials"] or self.clients.get(client) != secret:
            self.n_refused += 1
            return 401, {"error": "invalid_client", "error_description": "no such client"}
        now = time.time()
        self.n_tokens += 1
        self.scopes += form.get("scope", [])
        claims = {"sub": client, "iat": int(now), "exp": int(now + self.valid_for), "scope": form.get("scope", [""])[0]}
        token = f"{_part({'alg': 'none'})}.{_part(claims)}."
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": int(self.valid_for)}
