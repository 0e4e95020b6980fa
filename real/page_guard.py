"""Who may open the operator's page: whoever has its key, from a page of its own making.

The page can let the robot move, so it must not be open to every user of the machine, nor to every web site that the
operator's browser visits: a browser connects to 127.0.0.1 for any site, and merely says where that site is from. viser
asks for neither; its web server takes the two checks from here. The key is part of the address that is told to the
operator, and becomes a cookie that lasts as long as the browser.
"""

from __future__ import annotations

import hmac
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from io import StringIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from policies.spec import InputError

_OWN = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")


def guarded_server(port: int) -> tuple[Any, str]:
    """Return a viser server on 127.0.0.1 and the address, key included, at which it is opened.

    A ``port`` that is taken is said, and the next free one is had instead; 0 is any.

    Raises:
        InputError: if viser is not installed.
    """
    try:
        import viser
        import websockets.asyncio.server as websocket
    except ImportError as error:
        raise InputError(f"the operator's page needs {error.name}: pip install 'robopolicy[teleop]'") from error
    key, unguarded = secrets.token_urlsafe(16), websocket.serve

    def serve(*arguments: Any, **options: Any) -> Any:
        return unguarded(*arguments, **{**options, "origins": [_OWN], "process_request": admission(key, options["process_request"])})

    websocket.serve = serve
    try:
        with redirect_stdout(StringIO()):  # what it prints is an address without the key
            server = viser.ViserServer(host="127.0.0.1", port=port, label="robopolicy", verbose=False)
    finally:
        websocket.serve = unguarded
    if port not in (0, server.get_port()):
        print(f"port {port} is taken: the page is at port {server.get_port()}", file=sys.stderr)
    return server, f"http://127.0.0.1:{server.get_port()}/?key={key}"


def admission(key: str, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a ``process_request`` of the websockets library that lets ``answer`` speak to those who have ``key`` only."""

    def process_request(connection: Any, request: Any) -> Any:
        if not shows_key(request, key):
            return connection.respond(HTTPStatus.FORBIDDEN, "This page is opened with the key in its address, which `robopolicy page` prints.\n")
        response = answer(connection, request)
        if response is not None:
            response.headers["Set-Cookie"] = key_cookie(key)
            response.headers["X-Frame-Options"] = "DENY"  # nobody lays another page over the buttons
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return process_request


def shows_key(request: Any, key: str) -> bool:
    """Whether a request of the websockets library has ``key`` in its address or in the cookie of :func:`key_cookie`."""
    given = parse_qs(urlsplit(request.path).query).get("key", [""])[0]
    return _same(given, key) or _same(_cookie(request.headers.get_all("Cookie"), _name(key)), key)


def key_cookie(key: str) -> str:
    """Return the header ``Set-Cookie`` that lets a browser keep ``key`` until it is closed."""
    return f"{_name(key)}={key}; HttpOnly; SameSite=Strict; Path=/"


def _name(key: str) -> str:
    return f"robopolicy-{key[:6]}"


def _cookie(headers: list[str], name: str) -> str:
    try:
        found = SimpleCookie("; ".join(headers)).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(errors="replace"), b.encode())
