"""Decides which hosts may receive model bytes: a presigned URL must not lead anywhere else."""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

URL_MAX = 8 * 1024

PRIVATE_SUFFIXES = (
    ".local", ".localdomain", ".internal", ".lan", ".home", ".home.arpa", ".corp", ".intranet",
)  # fmt: skip

# RFC 3986 characters only, percent signs only before two hex digits, no fragment. Within these
# httpx sends a URL byte for byte; outside them it would re-encode, and a signature would break.
_URL = re.compile(r"https?://(?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """
    Which hosts may receive model bytes.

    Attributes:
        storage_hosts: ``host`` or ``host:port`` of object stores that need not be public.
        allow_http: Plain http is allowed for ``storage_hosts``.
        loopback: The API itself is on this machine, so its stores may be on this machine or in a
            private network, without TLS.
    """

    storage_hosts: frozenset[str]
    allow_http: bool
    loopback: bool

    @classmethod
    def of(cls, base_url: str, storage_hosts: Collection[str], *, allow_http: bool) -> "HostPolicy":
        host = (urlsplit(base_url).hostname or "").lower()
        listed = frozenset(name.lower() for name in storage_hosts)
        return cls(listed, allow_http, is_loopback(host))

    def refusal(self, url: str) -> str | None:
        """Return why nothing may be sent to *url* (any string), or None if it is allowed."""
        if len(url) > URL_MAX:
            return f"longer than {URL_MAX} bytes"
        if not _URL.fullmatch(url):
            return "not an http(s) URL of plain ASCII without a fragment"
        try:
            split = urlsplit(url)
            port = {"http": 80, "https": 443}[split.scheme] if split.port is None else split.port
        except ValueError:
            return "without a valid host and port"
        if port == 0:
            return "without a valid host and port"
        return _shape_refusal(split) or self._host_refusal(split, port)

    def peer_refusal(self, host: str, port: int, address: str) -> str | None:
        """
        Return why nothing may be sent to *address*, which *host* resolved to, or None.

        A public name may resolve to any address, such as the metadata service of a cloud machine.
        """
        reach = _address_reach(address)
        near = reach in ("loopback", "private") and self.loopback
        if reach == "public" or near or self._lists(host, port):
            return None
        return f"{host} resolves to {address}, a {reach} address"

    def _lists(self, host: str, port: int) -> bool:
        name = f"[{host}]" if ":" in host else host
        return not {name, f"{name}:{port}"}.isdisjoint(self.storage_hosts)

    def _host_refusal(self, split: SplitResult, port: int) -> str | None:
        reach = _reach(split.hostname or "")
        if reach is None:
            return "a URL whose host is neither a valid name nor a plain address"
        listed = self._lists(split.hostname or "", port)
        if split.scheme == "http" and not (self.loopback or (listed and self.allow_http)):
            return "plain http, which network.allow_http and network.storage_hosts do not allow"
        near = reach in ("loopback", "private") and self.loopback
        if reach != "public" and not (listed or near):
            return f"a {reach} host, which network.storage_hosts does not list"
        return None


def is_loopback(host: str) -> bool:
    return _reach(host) == "loopback"


def _netloc_host(split: SplitResult) -> str:
    host = split.hostname or ""
    return f"[{host}]" if ":" in host else host


def _shape_refusal(split: SplitResult) -> str | None:
    if not re.fullmatch(re.escape(_netloc_host(split)) + "(:[0-9]{1,5})?", split.netloc.lower()):
        return "a URL with more than a host and a port before its path"
    if not split.path.startswith("/") or {".", ".."} & set(split.path.split("/")):
        return "a URL without a plain path"
    return None


def _reach(host: str) -> str | None:
    """Return ``public``, ``private``, ``loopback`` or ``special``; None for an invalid host."""
    if ":" in host:
        return _address_reach(host)
    if not _HOST.fullmatch(host) or len(host) > 253:
        return None
    # Some resolvers read a host whose last label begins with a digit as an IPv4 address, even in octal
    # or hex or with fewer dots: only the plain notation is accepted.
    if re.match(r"[0-9]", host.rsplit(".", 1)[-1]):
        return _address_reach(host)
    if host == "localhost" or host.endswith((".localhost", "localhost.localdomain")):
        return "loopback"
    return "private" if "." not in host or host.endswith(PRIVATE_SUFFIXES) else "public"


# It contains a metadata service; only newer versions of Python exclude it from is_global.
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")


def _address_reach(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.is_loopback:
        return "loopback"
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "special"  # cloud metadata services live here
    if address.is_reserved or address in _PROTOCOLS or _carries_ipv4(address):
        return "special"
    return "public" if address.is_global else "private"


def _carries_ipv4(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether the address embeds an IPv4 address: mapped, 6to4, Teredo, NAT64."""
    prefixes = ("::ffff:0:0/96", "2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")
    return any(address in ipaddress.ip_network(prefix) for prefix in prefixes)
