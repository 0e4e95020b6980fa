"""The teleoperation page against whoever is no browser of ours: it answers or lets go, and goes on serving the others."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from http.client import HTTPConnection
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from policies.spec import InputError
from real.teleop import device_class
from real.teleop.page import PageConfig, PageSource
from real.teleop.page_input import AXES
from robopolicy.config import validate

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def source():
    made = PageSource(PageConfig(port=0))
    yield made
    made.close()


@pytest.fixture
def place(source):
    """Address and key of the page."""
    found = urlsplit(source.url)
    return found.netloc, parse_qs(found.query)["key"][0]


def get(place, path="/", **headers):
    host, port = place[0].split(":")
    link = HTTPConnection(host, int(port), timeout=LIMIT_S)
    try:
        link.request("GET", path, headers={"Host": place[0], **headers})
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        link.close()


def meet(place, key=True, **options):
    name = f"robopolicy-{place[1][:6]}"
    headers = {"Cookie": f"{name}={place[1]}"} if key else {}
    return connect(f"ws://{place[0]}/socket", **{"origin": f"http://{place[0]}", "additional_headers": headers, "open_timeout": LIMIT_S, **options})


def beat(number, echo, clutch=True):
    return json.dumps({"kind": "beat", "number": number, "echo": echo, "axes": [1.0] * AXES, "gripper": 0, "clutch": clutch, "dial": 1})


def answered(link, kind="answer"):
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        said = link.recv(timeout=LIMIT_S)
        if isinstance(said, str) and (found := json.loads(said))["kind"] == kind:
            return found
    raise AssertionError(f"no {kind}")


def follows(source, link, number=1):
    """Say beats until the source follows."""
    until, echo = time.monotonic() + LIMIT_S, 0
    while not source.poll().clutch:
        assert time.monotonic() < until
        link.send(beat(number, echo))
        echo, number = answered(link)["echo"], number + 1
    return number, echo


def test_only_the_key_opens_the_controls_and_every_answer_is_closed_to_other_sites(place):
    for path in ("/", "/?key=", "/?key=x", f"/?key={place[1][:-1]}", "/stop.html"):
        status, headers, body = get(place, path)
        assert status == 200 and "STOP" in body and "page.js" not in body and "Set-Cookie" not in headers
    assert get(place, "/page.html")[0] == 404
    status, headers, body = get(place, f"/?key={place[1]}")
    assert status == 200 and "page.js" in body and "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    assert headers["X-Frame-Options"] == "DENY" and headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert "page.js" in get(place, "/", Cookie=cookie)[2] and "page.js" not in get(place, "/", Cookie=cookie[:-1] + "?")[2]
    for path in ("/page.js", "/inputs.js", "/connection.js", "/cues.js", "/phone.js", "/page.css", "/stop.js"):
        assert get(place, path)[0] == 200, path
    for path in ("/../page.py", "/..%2fpage.py", "//etc/passwd", "/page_input.py", "/web/page.html", "/%00", "/x" * 500):
        assert get(place, path)[0] == 404, path
    assert get(place, Host="example.org")[0] == 421 and get(place, Host="127.0.0.1.example.org")[0] == 421
    assert get(place, "/socket", Origin=f"http://{place[0]}")[0] == 426


def test_no_other_site_connects_even_with_the_cookie(place):
    for origin in ("http://example.org", "null", f"https://{place[0]}", "http://127.0.0.1:1", None, f"http://{place[0]}.example.org"):
        with pytest.raises(InvalidStatus) as refused:
            meet(place, origin=origin)
        assert refused.value.response.status_code == 403, origin
    with pytest.raises(InvalidStatus):
        meet(place, additional_headers={"Host": "example.org"}, origin="http://example.org")


def test_strangers_leave_a_place_for_whoever_has_the_key(source, place):
    strangers = [meet(place, key=False) for _ in range(8)]
    try:
        for stranger in strangers:
            assert answered(stranger, "status")["trusted"] is False
        with meet(place, key=False) as one_more, pytest.raises(ConnectionClosed) as closed:
            one_more.recv(timeout=LIMIT_S)
        assert closed.value.rcvd.code == 1013
        with meet(place) as good:
            follows(source, good)
    finally:
        for stranger in strangers:
            stranger.close()


def test_malformed_messages_end_a_connection_not_the_page(source, place):
    generator = random.Random(0)
    with meet(place) as good:
        number, echo = follows(source, good)
        for message in ("x" * 3000, b"\x00" * 5000):
            with meet(place) as bad, pytest.raises(ConnectionClosed) as closed:
                bad.send(message)
                while True:
                    bad.recv(timeout=LIMIT_S)
            assert closed.value.rcvd.code == 1009  # larger than any message of ours
        with meet(place) as bad, pytest.raises(ConnectionClosed) as closed:
            template = beat(1, 0)
            for _ in range(200):
                at = generator.randrange(len(template))
                bad.send(template[:at] + chr(generator.randrange(1, 0x2FFF)) + template[at + generator.randrange(3) :])
            while True:
                bad.recv(timeout=LIMIT_S)
        assert closed.value.rcvd.code == 1008
        with meet(place) as flood, pytest.raises(ConnectionClosed):
            for n in range(5000):
                flood.send(beat(n + 1, 0, clutch=False))
            while True:
                flood.recv(timeout=LIMIT_S)
        follows(source, good, number + 1)
    del echo


def test_bytes_that_are_no_request_are_survived(source, place):
    host, port = place[0].split(":")
    generator = random.Random(1)
    lines = [
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500,
        b"GET " + b"/" * 20000,
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"\x16\x03\x01" * 50,
        b"\r\n\r\n",
    ]
    lines += [b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", *(generator.randbytes(300) for _ in range(30))]
    for line in lines:
        with socket.create_connection((host, int(port)), timeout=LIMIT_S) as raw:
            raw.sendall(line)
            raw.shutdown(socket.SHUT_WR)
            try:
                while raw.recv(4096):
                    continue
            except ConnectionResetError:
                continue
    with meet(place) as good:
        follows(source, good)


def test_an_old_message_that_arrives_late_is_not_followed(source, place):
    with meet(place) as link:
        number, echo = follows(source, link)
        time.sleep(0.4)  # as long as the network keeps what was said before
        link.send(beat(number + 1, echo))
        answered(link)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            now = source.poll()
            assert not now.clutch and not now.twist.any()
        link.send(json.dumps({"kind": "event", "name": "success", "echo": max(echo - 2_000_000, 0)}))
        assert answered(link, "line")["text"] == "success: came too late"


def test_a_page_that_has_ended_is_an_open_clutch():
    source = PageSource(PageConfig(port=0, key="k" * 16))
    assert source.url.endswith(f"?key={'k' * 16}")
    place = (urlsplit(source.url).netloc, "k" * 16)
    with meet(place) as link:
        follows(source, link)
        os.kill(source._process.pid, signal.SIGKILL)
        until = time.monotonic() + LIMIT_S
        while source.poll().clutch:
            assert time.monotonic() < until
    for _ in range(300):  # nobody listens
        source.feedback("limit")
    assert not source.poll().clutch and source.poll().age > 0.2
    process = source._process
    source.close()
    source.close()
    assert process.returncode is not None and source.poll().events == ()


def test_the_page_ends_with_the_run_that_started_it():
    source = PageSource(PageConfig(port=0))
    process = source._process
    process.stdin.close()  # as when the run is killed
    assert process.wait(LIMIT_S) == 0
    process.stdin = None
    source.close()


def test_what_cannot_be_served_is_said_in_one_line(place, tmp_path):
    with pytest.raises(InputError, match=r"cannot be served at 127.0.0.1 port \d+: .*in use"):
        PageSource(PageConfig(port=int(place[0].split(":")[1])))
    with pytest.raises(InputError, match="HTTPS needs both"):
        PageSource(PageConfig(port=0, certificate="x.pem"))
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(InputError, match=r"certificate .*bad.pem .* cannot be used"):
        PageSource(PageConfig(port=0, certificate=str(tmp_path / "bad.pem"), certificate_key=str(tmp_path / "bad.pem")))
    assert device_class("page") is PageSource
    for options in ({"port": -1}, {"key": "short"}, {"key": "semicolon;" * 3}, {"prot": 1}, {"stale_s": 9}):
        with pytest.raises(InputError):
            validate(PageConfig, options, "device 'page'", "teleop.")


def test_where_it_is_announced_only_this_user_reads_it(tmp_path):
    file = tmp_path / "address"
    source = PageSource(PageConfig(port=0, announce=str(file)))
    source.close()
    assert file.read_text() == source.url and file.stat().st_mode & 0o077 == 0
    assert source.notes == (f"teleoperation page: {source.url}",)
