"""Who may open the teleoperation page: files for everybody, control for who has the key, a stop for anyone at the page itself.

A browser says where a page that connects is from; only a page of this very address may. A name that some other site
chose for this machine is not answered, so that site's scripts never become pages of this address.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from real.page_guard import key_cookie, shows_key

SOCKET = "/socket"
_WEB = Path(__file__).with_name("web")
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?")


class Gate:
    """Answers the requests of browsers.

    Args:
        key: What lets a browser take the controls.
        secure: Whether the page is served by HTTPS.
    """

    def __init__(self, key: str, secure: bool) -> None:
        self._key, self._secure = key, secure
        self._files = {f"/{path.name}": (path.read_bytes(), _TYPES[path.suffix]) for path in sorted(_WEB.iterdir()) if path.suffix in _TYPES}
        name = socket.gethostname().lower()
        self._names = {"localhost", name, f"{name.partition('.')[0]}.local"}

    def process_request(self, connection: Any, request: Any) -> Any:
        """Answer one request; None: it goes on as a WebSocket, and ``connection.trusted`` says whether the key was shown."""
        hosts = request.headers.get_all("Host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self.own_host(host):
            return self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"This page has another address.\n")
        path = urlsplit(request.path).path
        trusted = shows_key(request, self._key)
        if path == SOCKET:
            if not self.own_origin(request.headers.get_all("Origin"), host):
                return self._answer(HTTPStatus.FORBIDDEN, b"Only this page's own scripts connect here.\n")
            connection.trusted = trusted
            return None
        if path == "/":
            path = "/page.html" if trusted else "/stop.html"
        found = self._files.get(path)
        if found is None or (path == "/page.html" and not trusted):
            return self._answer(HTTPStatus.NOT_FOUND, b"There is no such file.\n")
        answer = self._answer(HTTPStatus.OK, *found, policy=_policy(host))
        if trusted:
            answer.headers["Set-Cookie"] = key_cookie(self._key) + ("; Secure" if self._secure else "")
        return answer

    def own_host(self, host: str) -> bool:
        """Whether ``host`` (name or address, with or without a port) is one that this machine itself is called."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def own_origin(self, origins: list[str], host: str) -> bool:
        """Whether a connection is of a page that was served from ``host``."""
        return len(origins) == 1 and origins[0].lower() == f"{'https' if self._secure else 'http'}://{host}".lower()

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8", policy: str = "default-src 'none'") -> Any:
        from websockets.datastructures import Headers
        from websockets.http11 import Response

        headers = Headers(
            {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Content-Security-Policy": policy,
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",  # nobody lays another page over the buttons
                "Referrer-Policy": "no-referrer",
                "Connection": "close",
            }
        )
        return Response(status.value, status.phrase, headers, body)


def _policy(host: str) -> str:
    own = f"script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws://{host} wss://{host}"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
