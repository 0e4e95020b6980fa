"""Keys: made for their owner alone, and nobody else is served beyond this machine."""

import shutil
import stat
import time

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from policies.spec import InputError
from real.keys import ClientKeys, ServerKeys, authorize, new_keys, read_public, read_secret
from real.policy import RequestFailed
from real.server import PolicyServer
from robopolicy.cli import app
from tests.real.sockets import observation
from tests.real.toy import ReachPolicy


@pytest.fixture
def folders(tmp_path):
    """Keys of a server, of a client that it knows, and of one that it does not."""
    server, known, unknown = (tmp_path / name for name in ("server", "known", "unknown"))
    public, _ = new_keys(server, "server")
    for folder in (known, unknown):
        new_keys(folder, f"arm-{folder.name}")
        shutil.copy(public, folder)
    authorize(server, known / "arm-known.key")
    return server, known, unknown


def test_keys_are_files_for_their_owner_alone(tmp_path):
    folder = tmp_path / "keys"
    public, secret = new_keys(folder, "arm-1")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["arm-1.key", "arm-1.key_secret"]
    pair = read_secret(secret)
    assert read_public(public) == pair.public == zmq.curve_public(pair.secret) and len(pair.secret) == 40
    assert pair.secret.decode() not in public.read_text()
    assert zmq.auth.load_certificate(secret) == pair  # the form that others write and read
    assert read_secret(new_keys(folder, "arm-2")[1]).secret != pair.secret


def test_keys_are_never_written_over(tmp_path):
    public, secret = new_keys(tmp_path, "arm-1")
    before = secret.read_bytes()
    for gone in (None, public):
        if gone is not None:
            gone.unlink()
        with pytest.raises(InputError, match="exists; keys are never written over"):
            new_keys(tmp_path, "arm-1")
    assert secret.read_bytes() == before
    new_keys(tmp_path / "other", "arm-1")
    authorize(tmp_path, tmp_path / "other" / "arm-1.key")
    assert authorize(tmp_path, tmp_path / "other" / "arm-1.key").is_file()  # the same again
    new_keys(tmp_path / "third", "arm-1")
    with pytest.raises(InputError, match="another key has that name"):
        authorize(tmp_path, tmp_path / "third" / "arm-1.key")


def test_a_name_of_a_key_that_leads_nowhere_is_one_line_and_lets_nobody_in(folders):
    server, known, _ = folders
    keys = ServerKeys(server, log=(said := []).append)
    lost = server / "authorized" / "lost.key"
    lost.symlink_to(server / "not-there.key")
    assert not keys.callback("robopolicy", read_public(known / "arm-known.key")), "whom the folder means is not known"
    assert "lost.key: no such file" in said[0]
    with pytest.raises(InputError, match=r"lost\.key: no such file"):
        ServerKeys(server)
    lost.unlink()
    assert keys.callback("robopolicy", read_public(known / "arm-known.key"))


@pytest.mark.parametrize("name", ["", "../arm", "a/b", ".hidden", "arm 1", "a.key", "a" * 65, "arm\n"])
def test_names_are_file_names(tmp_path, name):
    with pytest.raises(InputError, match="key name"):
        new_keys(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(tmp_path, mode):
    _, secret = new_keys(tmp_path, "arm-1")
    secret.chmod(mode)
    with pytest.raises(InputError, match=f"others may read this secret key \\(mode {mode:o}\\)"):
        read_secret(secret)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_other_files_are_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "odd.key_secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError) as caught:
        read_secret(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ('public-key = "{public}"', "found a public one alone"),
        ('public-key = "{other}"\nsecret-key = "{secret}"', "does not belong to the secret one"),
        ('public-key = "{public}"\nsecret-key = "short"', "not a key file"),
        ('public-key = "' + "~" * 40 + '"', "not a key file"),
        ("", "not a key file"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, text, expected):
    pair, other = read_secret(new_keys(tmp_path, "arm-1")[1]), read_secret(new_keys(tmp_path, "arm-2")[1])
    path = tmp_path / "x.key_secret"
    path.write_text(text.format(public=pair.public.decode(), other=other.public.decode(), secret=pair.secret.decode()))
    path.chmod(0o600)
    with pytest.raises(InputError, match=expected):
        read_secret(path)


def test_folders_say_what_they_lack(tmp_path, folders):
    server, known, _ = folders
    with pytest.raises(InputError, match=r"server.key_secret: No such file.*robopolicy keys new"):
        ServerKeys(tmp_path / "none")
    shutil.rmtree(server / "authorized")
    with pytest.raises(InputError, match="no client key, so nobody could connect"):
        ServerKeys(server)
    with pytest.raises(InputError, match=r"expected one secret key, NAME.key_secret, found none"):
        ClientKeys(server)
    new_keys(known, "second")
    with pytest.raises(InputError, match=r"found arm-known.key_secret, second.key_secret"):
        ClientKeys(known)
    assert ClientKeys(known / "second.key_secret").own == read_secret(known / "second.key_secret")
    (known / "server.key").unlink()
    with pytest.raises(InputError, match="copy the server's public key there"):
        ClientKeys(known / "second.key_secret")


def test_only_known_keys_are_served(serve, connect, folders):
    server_folder, known, unknown = folders
    server = serve(ReachPolicy(), "tcp://0.0.0.0:0", keys=server_folder)
    address = server.address.replace("0.0.0.0", "127.0.0.1")
    client = connect(address, keys=known)
    plan, _ = client.act(observation(client), client.initial_state(1), np.array([1]))
    assert plan.actions.shape == (1, 8, 2)
    with pytest.raises(InputError, match=r"the server does not know the key .{40}; add it there with: robopolicy keys authorize arm-unknown.key"):
        connect(address, keys=unknown, connect_s=2.0)
    with pytest.raises(InputError, match="asks for keys"):
        connect(address, connect_s=2.0)
    until = time.monotonic() + 5
    while not server.stats.unknown_keys and time.monotonic() < until:
        time.sleep(0.05)
    assert server.stats.unknown_keys >= 1 and server.stats.sessions_opened == 1
    authorize(server_folder, unknown / "arm-unknown.key")  # counts from the next connection on
    assert connect(address, keys=unknown).connected
    (server_folder / "authorized" / "arm-known.key").unlink()
    with pytest.raises(InputError, match="does not know the key"):
        connect(address, keys=known, connect_s=2.0)
    assert client.act(observation(client), client.initial_state(1), np.array([1]))  # a connection that was let in goes on


def test_the_server_must_have_the_key_that_the_client_expects(serve, connect, folders):
    server_folder, known, unknown = folders
    server = serve(ReachPolicy(), keys=server_folder)
    shutil.copy(unknown / "arm-unknown.key", known / "server.key")
    with pytest.raises(InputError, match=r"server.key is not the key of that server") as caught:
        connect(server.address, keys=known, connect_s=2.0)
    assert "\n" not in str(caught.value) and server.stats.sessions_opened == 0


def test_a_client_with_keys_is_not_served_without(serve, connect, folders):
    with pytest.raises(InputError, match="the server has no keys and this client has"):
        connect(serve(ReachPolicy()).address, keys=folders[1], connect_s=2.0)


def test_without_keys_only_loopback_is_bound_and_connected(folders, connect):
    with pytest.raises(InputError, match=r"only loopback is served and trusted .*robopolicy keys"):
        PolicyServer(ReachPolicy(), "tcp://0.0.0.0:5555")
    with pytest.raises(InputError, match="only loopback"):
        connect("tcp://192.168.1.2:5555")
    with pytest.raises(InputError, match="no answer within"):
        connect("tcp://127.0.0.1:9", keys=folders[1], connect_s=0.2)


def test_a_port_that_is_none_is_refused_instead_of_another_one(connect):
    with pytest.raises(InputError, match="expected a port up to 65535, found 99999"):
        PolicyServer(ReachPolicy(), "tcp://127.0.0.1:99999")
    for port in ("-5", "²", "+80", "9" * 5000, ""):  # ZeroMQ binds -5 as 65531
        with pytest.raises(InputError, match="expected a port up to 65535, found"):
            PolicyServer(ReachPolicy(), f"tcp://127.0.0.1:{port}")
    with pytest.raises(InputError, match="expected a port up to 65535, found 65536"):
        connect("tcp://127.0.0.1:65536", connect_s=0.2)


def test_a_broken_authorised_file_lets_nobody_in(serve, connect, folders):
    server_folder, known, _ = folders
    server = serve(ReachPolicy(), keys=server_folder)
    (server_folder / "authorized" / "odd.key").write_text("what is this")
    with pytest.raises(InputError, match="does not know the key"):
        connect(server.address, keys=known, connect_s=2.0)
    (server_folder / "authorized" / "odd.key").unlink()
    assert connect(server.address, keys=known).connected


def test_a_lost_session_is_found_again_with_keys(serve, connect, folders):
    server = serve(ReachPolicy(delay_s=0.2), keys=folders[0])
    client = connect(server.address, keys=folders[1])
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=0.05)
    with pytest.raises(RequestFailed):
        client.poll(5)
    assert client.act(observation(client), client.initial_state(1), np.array([2])) and client.sessions == 2


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    made = run(app, ["keys", "new", "server"])
    assert made.exit_code == 0 and "keys/server.key_secret" in made.output
    run(app, ["keys", "new", "arm-1", "--folder", "robot"])
    assert "may connect: keys/authorized/arm-1.key" in run(app, ["keys", "authorize", "robot/arm-1.key"]).output
    assert ServerKeys("keys").own == read_secret("keys/server.key_secret")
    assert "keys authorize" in run(app, ["keys", "--help"]).output
    again = run(app, ["keys", "new", "server"])
    assert isinstance(again.exception, InputError)
