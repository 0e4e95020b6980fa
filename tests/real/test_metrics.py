"""Metrics: read by Prometheus's own parser, ready only after the warm-up, and never in the policy's way."""

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from policies.spec import InputError
from real.metrics import MetricsServer, ServerStats, Sizes
from real.server import PolicyServer
from tests.real.sockets import observation
from tests.real.toy import ReachPolicy


def parsed(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(family):
    return {(sample.name.removeprefix("robopolicy_"), sample.labels.get("le")): sample.value for sample in family.samples}


def get(metrics, path):
    try:
        with urllib.request.urlopen(metrics.address + path, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def endpoint():
    made = []

    def start(stats):
        made.append(MetricsServer(stats))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_every_count_is_told():
    stats = ServerStats(sessions_open=2)
    counters = [name for name, value in vars(stats).items() if type(value) is int and name != "sessions_open"]
    for number, name in enumerate(counters):
        setattr(stats, name, number + 1)
    families = parsed(stats.prometheus())
    for number, name in enumerate(counters):
        assert families[f"robopolicy_{name}"].type == "counter" and families[f"robopolicy_{name}"].samples[0].value == number + 1
    assert families["robopolicy_ready"].samples[0].value == 0 and families["robopolicy_sessions_open"].samples[0].value == 2
    assert all(family.documentation for family in families.values())


def test_histograms_are_cumulative_and_right():
    stats, generator = ServerStats(), np.random.default_rng(0)
    seconds = [*np.exp(generator.uniform(np.log(1e-6), np.log(30), 500)), 0.0, 100.0]  # the last beyond all bins
    for value in seconds:
        stats.inference.add(value)
    sizes = [1, 1, 2, 3, 4, 5, 8, 9, 64, 1000]
    for value in sizes:
        stats.batch_streams.add(value)
    for name, values, slack in (("inference_seconds", seconds, 1e-6), ("batch_streams", sizes, 0)):
        found = samples(parsed(stats.prometheus())[f"robopolicy_{name}"])
        edges = [edge for key, edge in found if key == f"{name}_bucket"]
        assert len(edges) >= 10 and edges[-1] == "+Inf" and [float(e) for e in edges] == sorted(float(e) for e in edges)
        for edge in edges:
            count = found[f"{name}_bucket", edge]
            assert np.sum(np.array(values) <= float(edge) * (1 - slack)) <= count <= np.sum(np.array(values) <= float(edge) * (1 + slack))
        assert found[f"{name}_count", None] == len(values) and found[f"{name}_sum", None] == pytest.approx(sum(values))


@pytest.mark.parametrize("size, edge", [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (256, 256), (257, None), (10**6, None)])
def test_sizes_fall_into_powers_of_two(size, edge):
    sizes = Sizes()
    sizes.add(size)
    below = [e for e, count in sizes.buckets() if count == 0]
    assert below == [e for e, _ in sizes.buckets() if edge is None or e < edge]


def test_ready_only_after_the_warm_up(endpoint):
    slow = threading.Event()

    class Slow(ReachPolicy):
        def act(self, obs, state, noise, execution=None):
            slow.wait(10)
            return super().act(obs, state, noise)

    server = PolicyServer(Slow(), "tcp://127.0.0.1:0", stats_s=0)
    metrics = endpoint(server.stats)
    warming = threading.Thread(target=server.warm_up)
    warming.start()
    try:
        assert get(metrics, "/healthz") == (503, "warming up\n") and "robopolicy_ready 0" in get(metrics, "/metrics")[1]
        slow.set()
        warming.join(10)
        assert get(metrics, "/healthz") == (200, "ready\n")
    finally:
        slow.set()
        server.close()
    assert get(metrics, "/healthz")[0] == 503


def test_a_served_policy_is_counted(serve, connect, endpoint):
    server = serve(ReachPolicy())
    metrics, client = endpoint(server.stats), connect(server.address)
    state = client.initial_state(1)
    for call in range(5):
        _, state = client.act(observation(client), state, np.array([call]))
    families = parsed(get(metrics, "/metrics")[1])
    assert families["robopolicy_plans"].samples[0].value == 5 and families["robopolicy_sessions_open"].samples[0].value == 1
    for name in ("inference_seconds", "answer_seconds", "batch_streams"):
        assert samples(families[f"robopolicy_{name}"])[f"{name}_count", None] == 5
    assert get(metrics, "/metrics?x=1")[0] == 200 and get(metrics, "/")[0] == 404
    connection = http.client.HTTPConnection(metrics.address.removeprefix("http://"), timeout=5)
    connection.request("POST", "/metrics", b"kill")
    assert connection.getresponse().status == 501


def test_who_asks_badly_holds_up_nobody(serve, connect, endpoint):
    server = serve(ReachPolicy())
    metrics, client = endpoint(server.stats), connect(server.address)
    port = int(metrics.address.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for content in (b"\xff" * 5000, b"GET " + b"/" * 100_000, b"GET /metrics HTTP/9.9\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", port)) as odd:
            odd.sendall(content)
    started = time.monotonic()
    for _ in range(20):
        client.act(observation(client), client.initial_state(1), np.array([1]))
    assert time.monotonic() - started < 3  # the metrics thread waits a second for each of them meanwhile
    for one in silent:
        one.close()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            assert get(metrics, "/healthz")[0] in (200, 503)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the metrics never came back")


def test_only_loopback_listens_and_a_taken_port_is_one_line(endpoint):
    metrics = endpoint(ServerStats())
    assert metrics.address.startswith("http://127.0.0.1:")
    with pytest.raises(InputError, match=r"cannot be bound on 127.0.0.1") as caught, socket.create_server(("127.0.0.1", 0)) as taken:
        MetricsServer(ServerStats(), taken.getsockname()[1])
    assert "\n" not in str(caught.value)
