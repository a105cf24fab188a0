"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that nobody uses now, and that nobody is given by chance until the server has started.

    The system gives higher ones to outgoing connections and to whoever asks for any.
    """
    while True:
        port = random.SystemRandom().choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
