"""Ports for servers of tests, which nobody else takes before the server listens."""

import contextlib
import random
import socket
import sys
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES_MAX = 10_000


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, and that no other process is given by this function.

    A port that the kernel chose is free again as soon as it is known, and may be somebody else's before the
    server listens. So these lie below those that the kernel chooses from, and a name in Linux's abstract
    namespace says, for as long as this process lives, that a port is given away.

    Raises:
        OSError: there is none.
    """
    if sys.platform != "linux":
        return _chosen_by_kernel(count)
    first = int(RANGE.read_text().split()[0])
    found: list[int] = []
    for _ in range(TRIES_MAX):
        if len(found) == count:
            return found
        port = random.SystemRandom().randrange(first // 3, first)
        with contextlib.suppress(OSError):
            _give_away(port)
            found.append(port)
    raise OSError(f"no free port from {first // 3} to {first - 1}")


def _give_away(port: int) -> None:
    with contextlib.ExitStack() as stack:
        mark = stack.enter_context(socket.socket(socket.AF_UNIX))
        mark.bind(f"\0freshet-port-{port}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        stack.pop_all()
    mark.detach()  # open until this process ends


def _chosen_by_kernel(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
