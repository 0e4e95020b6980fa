"""Keys of servers and clients that are not on the same machine: CURVE (Curve25519) with authorised client keys.

A key pair is two files in the format of pyzmq's certificates, keys in Z85: ``NAME.key``, which may be given away, and
``NAME.key_secret``, which only its owner may read (mode 0600; any other is refused). A folder of keys:

=====================  =========================================================================================
the server's           ``server.key_secret``, and ``authorized/*.key`` of the clients that may connect
a client's             its own ``NAME.key_secret``, and ``server.key``, the key that the server must have
=====================  =========================================================================================

Without the check against the authorised folder CURVE accepts any client. The folder is looked at for every connection:
a file that is put there or removed counts from the next connection on.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zmq
from zmq.utils import z85

from policies.spec import InputError

SERVER, AUTHORIZED = "server", "authorized"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_BYTES = 32
_TOLD = 32  # unknown keys that are named in the log


class KeyPair(NamedTuple):
    """Z85 texts of 40 characters."""

    public: bytes
    secret: bytes


def new_keys(folder: str | Path, name: str) -> tuple[Path, Path]:
    """Make a key pair in ``folder`` (made, too, with mode 0700) and return the paths of the public and the secret file.

    Raises:
        InputError: for a name that is no file name, or keys that exist.
    """
    folder = Path(folder)
    if not _NAME.fullmatch(name) or name.endswith((".key", ".key_secret")):
        raise InputError(f"key name {name!r}: expected letters, digits, dots, dashes and underscores, e.g. arm-1")
    paths = folder / f"{name}.key", folder / f"{name}.key_secret"
    for path in paths:
        if path.exists() or path.is_symlink():
            raise InputError(f"{path}: exists; keys are never written over, remove it if it is no longer needed")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    about = f'metadata\n    name = "{name}"\ncurve\n    public-key = "{public}"\n'
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(paths[1], f'# Secret key: not to be given to anybody.\n{about}    secret-key = "{secret}"\n', 0o600)
        _write(paths[0], f"# Public key: to be given to whom this one connects with.\n{about}", 0o644)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error
    return paths


def authorize(folder: str | Path, public: str | Path) -> Path:
    """Copy a client's public key file to the authorised ones of a server's folder; returns the copy. Raises InputError."""
    public = Path(public)
    if public.suffix != ".key":
        raise InputError(f"{public}: expected a public key, NAME.key")
    key, target = read_public(public), Path(folder) / AUTHORIZED / public.name
    if target.exists():
        if read_public(target) == key:
            return target
        raise InputError(f"{target}: another key has that name; remove it or name the new one differently")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(target, f'# Public key of a client.\ncurve\n    public-key = "{key.decode()}"\n', 0o644)
    except OSError as error:
        raise InputError(f"{target}: {error.strerror}") from error
    return target


def _write(path: Path, text: str, mode: int) -> None:
    """Write a new file, whole or not at all; never over another."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_public(path: str | Path) -> bytes:
    """Return the public key in a file. Raises InputError."""
    return _read(Path(path))[0]


def read_secret(path: str | Path) -> KeyPair:
    """Return the key pair in a secret file. Raises InputError, also if others than its owner may read the file."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make keys with: robopolicy keys new NAME --folder {path.parent}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"{path}: others may read this secret key (mode {stat.S_IMODE(mode):o}); make new keys, or at least: chmod 600 {path}")
    public, secret = _read(path)
    if secret is None:
        raise InputError(f"{path}: expected a secret key, found a public one alone")
    if zmq.curve_public(secret) != public:
        raise InputError(f"{path}: the public key in it does not belong to the secret one")
    return KeyPair(public, secret)


def _read(path: Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate

    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if path.stat().st_size > 1 << 16:
            raise ValueError("too long")
        keys = load_certificate(path)
        for key in keys:
            if key is not None and (len(key) != 40 or len(z85.decode(key)) != _KEY_BYTES):
                raise ValueError("a key of another length")
    except InputError:
        raise
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:  # of the file, its form, or the letters of Z85
        raise InputError(f"{path}: is not a key file in pyzmq's format with keys in Z85") from error
    return keys


class ServerKeys:
    """The keys of a server: its own, and whom it lets in.

    Args:
        folder: See the module.
        log: Where lines about refused keys go.

    Attributes:
        refused: Connections whose key is not authorised.

    Raises:
        InputError: one line, for a folder that lacks something or a secret that others may read.
    """

    def __init__(self, folder: str | Path, log: Callable[[str], None] = print) -> None:
        self._folder, self._log = Path(folder) / AUTHORIZED, log
        self.own = read_secret(Path(folder) / f"{SERVER}.key_secret")
        self.refused = 0
        self._named: set[bytes] = set()
        self._seen: tuple[Any, frozenset[bytes]] = (None, frozenset())
        self._authenticator: Any = None
        if not self._authorized():
            raise InputError(f"{self._folder}: no client key, so nobody could connect; add one with: robopolicy keys authorize CLIENT.key --folder {folder}")

    def secure(self, socket: zmq.Socket, context: zmq.Context) -> None:
        """Let only authorised keys connect to ``socket``; to be called before it is bound."""
        from zmq.auth.thread import ThreadAuthenticator

        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", credentials_provider=self)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, "robopolicy")
        self._authenticator.credentials_providers["robopolicy"] = self

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether the Z85 ``key`` may connect; asked by pyzmq's authenticator, in its thread."""
        try:
            known = key in self._authorized()
        except InputError as error:
            self._log(f"no client is let in: {error}")
            known = False
        if not known:
            self.refused += 1
            if key not in self._named and len(self._named) < _TOLD:
                self._named.add(key)
                self._log(f"refused a client whose key is not in {self._folder}: {key.decode()}")
        return known

    def close(self) -> None:
        """End the authenticator; may be called twice."""
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None

    def _authorized(self) -> frozenset[bytes]:
        """Return the keys in the folder, read again when it has changed. Raises InputError for a file that is no key."""
        paths = sorted(self._folder.glob("*.key")) if self._folder.is_dir() else []
        try:
            state = [(path.name, path.stat().st_mtime_ns) for path in paths]
        except OSError as error:  # removed since the look at the folder, or a link that leads nowhere
            raise InputError(f"{error.filename}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from error
        if state != self._seen[0]:
            self._seen = (state, frozenset(map(read_public, paths)))
        return self._seen[1]


class ClientKeys:
    """The keys of a client.

    Args:
        path: Folder with ``server.key`` and one secret key, or a secret key with ``server.key`` beside it.

    Raises:
        InputError: one line, for what is missing or may be read by others.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.is_dir():
            own = [p for p in sorted(path.glob("*.key_secret")) if p.name != f"{SERVER}.key_secret"]
            if len(own) != 1:
                found = ", ".join(p.name for p in own) or "none"
                raise InputError(f"{path}: expected one secret key, NAME.key_secret, found {found}; name one, or: robopolicy keys new NAME --folder {path}")
            path = own[0]
        self.path, self.own = path, read_secret(path)
        server = path.parent / f"{SERVER}.key"
        if not server.is_file():
            raise InputError(f"{server}: no such file; copy the server's public key there")
        self.server = read_public(server)

    def secure(self, socket: zmq.Socket) -> None:
        """Speak to that server alone; to be called before ``socket`` is connected."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server)


def handshake_failure(monitor: zmq.Socket, keys: ClientKeys | None) -> str:
    """Return why connections of a client's socket were not let in, from the events of its ``monitor``; empty if none failed."""
    why = ""
    while monitor.poll(0):
        frames = monitor.recv_multipart()
        event, value = int.from_bytes(frames[0][:2], "little"), int.from_bytes(frames[0][2:6], "little")
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and keys is not None:
            public = keys.path.with_suffix(".key").name
            why = f"the server does not know the key {keys.own.public.decode()}; add it there with: robopolicy keys authorize {public} --folder KEYS"
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            why = "the server has no keys and this client has" if keys is not None else "the server asks for keys; give this client some"
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            other = "the connection is refused; perhaps the server asks for keys"
            why = other if keys is None else f"{keys.path.parent / 'server.key'} is not the key of that server"
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            why = ""
    return why
