"""Fetches pictures and videos from the hosts that the operator allows, and from no others.

A URL that a client chooses must not reach what only this machine can reach. So: https on the
default port, no user names, no redirects, and only addresses of the public internet; the connection
goes to the address that was checked, whatever the name resolves to a moment later. Size and total
time are limited.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from owl_jax.errors import one_line, shown
from owl_jax.serving.errors import ApiError

_CHUNK = 1 << 16


class PinnedConnection(http.client.HTTPSConnection):
    """HTTPS to an address that has been checked; certificates are those of the name."""

    def __init__(self, host: str, address: str, timeout: float) -> None:
        self._address = address
        self._tls = ssl.create_default_context()
        super().__init__(host, timeout=timeout, context=self._tls)

    def connect(self) -> None:
        """Connects to the address, with the name for the certificate."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def resolve(host: str) -> list[str]:
    """The addresses of a name. Raises OSError."""
    found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet: not private, local, reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (inner is None or inner.is_global)


@dataclass(frozen=True)
class Downloads:
    """What is fetched, and how much of it.

    hosts: lower-case names.
    """

    hosts: tuple[str, ...] = ()
    most_bytes: int = 32 << 20
    seconds: float = 10.0
    resolve: Callable[[str], list[str]] = resolve
    connect: Callable[[str, str, float], http.client.HTTPConnection] = PinnedConnection

    def fetch(self, url: str, param: str) -> bytes:
        """The file at `url`; param: the field that holds it. Blocks; for a thread of the pool.

        Raises ApiError for a URL that is not allowed, and for a file that does not come.
        """
        host, target = self._checked(url, param)
        end = time.monotonic() + self.seconds
        try:
            addresses = self.resolve(host)
        except OSError as error:
            raise _failed(param, url, one_line(error)) from None
        if not addresses or not all(map(is_public, addresses)):
            raise _refused(param, f"{shown(host)} has a private address")
        connection = self.connect(host, addresses[0], self.seconds)
        try:
            connection.request("GET", target, headers={"User-Agent": "owl_jax"})
            response = connection.getresponse()
            if response.status != 200:
                raise _failed(param, url, f"status {response.status}; redirects are not followed")
            return self._read(response, connection, end, param, url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failed(param, url, one_line(error)) from None
        finally:
            connection.close()

    def _checked(self, url: str, param: str) -> tuple[str, str]:
        """The host and the path with its query. Raises ApiError unless `url` is allowed."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise _refused(param, f"{shown(url)} is not a URL") from None
        if not self.hosts or parts.scheme.lower() != "https" or host not in self.hosts:
            allowed = f" or an https URL of {', '.join(self.hosts)}" if self.hosts else ""
            raise _refused(param, f"{shown(url)} is not fetched; expected a data URI{allowed}")
        if port not in (None, 443) or parts.username is not None or parts.password is not None:
            raise _refused(param, f"{shown(url)} names a port or a user; expected neither")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or not target.isprintable() or " " in target:
            raise _refused(param, f"{shown(url)} has characters that a URL must escape")
        return host, target

    def _read(
        self,
        response: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        end: float,
        param: str,
        url: str,
    ) -> bytes:
        data = bytearray()
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise _failed(param, url, f"more than {self.seconds:g} seconds")
            if connection.sock is not None:
                connection.sock.settimeout(left)
            chunk = response.read1(_CHUNK)
            if not chunk:
                break
            data += chunk
            if len(data) > self.most_bytes:
                raise _failed(param, url, f"more than {self.most_bytes:,} bytes")
        if not data:
            raise _failed(param, url, "an empty file")
        return bytes(data)


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", param=param, code="url_not_allowed")


def _failed(param: str, url: str, why: str) -> ApiError:
    message = f"{param}: {shown(url)} could not be fetched: {why}"
    return ApiError(400, message, param=param, code="download_failed")
