"""
Shared by the two HTTP clients: TLS trust, proxies, socket options, and the meaning of httpx errors.

httpx raises similar errors for a connection that was never made and for one that broke during a body.
``failure`` decides whether the request may have taken effect, and which row of the retry table applies.
"""

import os
import socket
import ssl
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx
import truststore

from syncd.core.jobs import error_mapping
from syncd.core.jobs.error_mapping import to_error
from syncd.errors import ConfigError, JobError
from syncd.types import Call, Kind

KEEPALIVE_S = 5.0
"""Seconds that an idle connection is kept, because servers close theirs without notice."""

SOCKET_OPTIONS: tuple[tuple[int, int, int], ...] = (
    # A dead peer is detected within half a minute, during a transfer as well as while idle.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),  # milliseconds
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

_DIRECT = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}

_NOT_SENT = (
    httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError,
    httpx.LocalProtocolError, httpx.UnsupportedProtocol,
)  # fmt: skip


def client_arguments(*, ca_bundle: str | None, proxy: str | None) -> dict[str, Any]:
    """
    Return the arguments of an httpx client for TLS and proxies; redirects are never followed.

    Requests to this machine never use a proxy.

    Args:
        ca_bundle: A PEM file that is trusted in addition to the system's certificates.
        proxy: The URL of a proxy; None to use ``HTTPS_PROXY`` and ``NO_PROXY`` of the environment.

    Raises:
        ConfigError: The bundle or the proxy cannot be used.
    """
    try:
        checked = None if proxy is None else httpx.Proxy(proxy)
    except ValueError:
        raise ConfigError("network.proxy: not the URL of an http or https proxy") from None
    return {
        "verify": _trust(ca_bundle),
        "proxy": checked,
        "trust_env": proxy is None,
        "mounts": dict(_DIRECT),
        "follow_redirects": False,
    }


def _trust(ca_bundle: str | None) -> ssl.SSLContext:
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_bundle is not None:
        try:
            context.load_verify_locations(ca_bundle)
        except OSError as error:
            raise ConfigError(f"network.ca_bundle: {ca_bundle}: {error.strerror}") from None
    return context


def url_of(text: str) -> httpx.URL:
    """Parse a URL that the server sent; a host that cannot be decoded is an ``INVALID_ANSWER``."""
    try:
        url = httpx.URL(text)
        assert url.host is not None  # decodes the name (RFC 5891), which a request would do later
    except (httpx.InvalidURL, UnicodeError):
        message = "upload_url has a host that cannot be decoded"
        raise to_error(Kind.INVALID_ANSWER, message) from None
    return url


def enable_tcp_keepalive(stream: Any) -> None:
    sock = stream.get_extra_info("socket")
    for option in SOCKET_OPTIONS:
        sock.setsockopt(*option)


def enable_bbr(stream: Any) -> None:
    """
    Use the congestion control BBR for *stream*, if the kernel offers it.

    On a long link that loses one packet in a thousand, the default (CUBIC) reaches a few Mbit/s whatever
    the capacity, because it treats loss as congestion. BBR measures the capacity.
    """
    sock = stream.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")


def failure(
    call: Call, error: httpx.HTTPError, *, host: str, events: Collection[str], now_ms: int
) -> JobError:
    """
    Return the error for a request that got no answer.

    Args:
        events: The names of httpcore's trace events of this request.
        now_ms: This machine's clock; a wrong one is a common reason for a rejected certificate.
    """
    kind = _kind(error, reused=error_mapping.died_on_reused_connection(events))
    message = f"{call}: {_what_failed(error, host)}"
    if kind is Kind.TLS_ERROR:
        today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
        message = f"{message} (this machine's clock says {today})"
    return to_error(
        kind,
        message,
        call=call,
        unclear=not isinstance(error, _NOT_SENT),
        timed_out=isinstance(error, httpx.TimeoutException),
    )


def _what_failed(error: httpx.HTTPError, host: str) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection to {host} within the time limit"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer from {host} within the time limit ({type(error).__name__})"
    reason = _system_reason(error) or error_mapping.server_message(str(error))
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect to {host}: {reason}"
    return f"{type(error).__name__} at {host}: {reason}"


CAUSES_MAX = 20
"""Exceptions that are followed to their cause; a chain may be a circle."""


def _system_reason(error: BaseException | None) -> str | None:
    """The operating system's message of the innermost ``OSError`` behind *error*."""
    found = None
    for _ in range(CAUSES_MAX):
        if error is None:
            break
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            code = error.errno or 0  # getaddrinfo has negative codes
            found = os.strerror(code) if code > 0 else error.strerror or found
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__
    return found


def _kind(error: httpx.HTTPError, *, reused: bool) -> Kind:
    if error_mapping.caused_by(error, ssl.SSLCertVerificationError):
        return Kind.TLS_ERROR
    if isinstance(error, httpx.ProxyError):
        return Kind.CAPTIVE_PORTAL
    if isinstance(error, httpx.LocalProtocolError):
        return Kind.INTERNAL_ERROR
    if reused and not isinstance(error, httpx.TimeoutException):
        return Kind.DEAD_CONNECTION
    return Kind.NETWORK
