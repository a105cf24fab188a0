"""The shared token of several machines, and what it protects.

Every connection between machines is encrypted and mutually authenticated by ZeroMQ's CURVE. Both sides derive the same
key pair from the token: the app accepts no peer with another key, and a peer obeys nobody who lacks the secret one.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

_MIN_LENGTH = 32


@dataclass(frozen=True)
class ClusterKey:
    """A CURVE key pair, in ZeroMQ's text form."""

    public: str
    secret: str

    @classmethod
    def from_token(cls, token: str) -> ClusterKey:
        """Derive the pair. Raises ValueError for a token that could be guessed."""
        if len(token) < _MIN_LENGTH:
            raise ValueError(f"the shared token must have {_MIN_LENGTH} characters or more, not {len(token)}")
        secret = z85.encode(hashlib.sha256(b"LiveAvatar Studio\0" + token.encode()).digest())
        return cls(public=zmq.curve_public(secret).decode(), secret=secret.decode())

    @classmethod
    def from_file(cls, path: Path) -> ClusterKey:
        """Read the token. Raises OSError or ValueError."""
        return cls.from_token(path.read_text().strip())

    @classmethod
    def from_own_file(cls, path: Path) -> ClusterKey:
        """Read the token of this machine; make one at first."""
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(_MIN_LENGTH) + "\n")
        return cls.from_file(path)

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket that will be bound speak CURVE. `Gate` must watch its context."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.public.encode(), self.secret.encode()

    def connect(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket that will be connected speak CURVE with nobody but the app of the same token."""
        socket.curve_serverkey = socket.curve_publickey = self.public.encode()
        socket.curve_secretkey = self.secret.encode()


class Gate:
    """Lets in only peers that have the key, at every CURVE socket of a context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], key: ClusterKey) -> None:
        self._key = z85.decode(key.public)
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether the peer's public key is ours: called by ZeroMQ's authenticator."""
        return secrets.compare_digest(z85.decode(key), self._key)

    def close(self) -> None:
        """Let nobody in any more."""
        self._authenticator.stop()
