"""Knows which addresses a program may speak to: its own machine, and nothing else.

Does not know who sets it: any Python that has this folder on its `PYTHONPATH` imports it before all else, and
so do the processes that it starts. An audit hook cannot be taken off, and sees every socket of Python.
"""

import ipaddress
import sys


def _own(host):
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


def _refuse(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # anything else stays on this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not _own(host):
        raise PermissionError(f"there is no network but loopback here, and this wants {host!r}")


sys.addaudithook(_refuse)
