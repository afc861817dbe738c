"""Fetching audio from `http(s)` and `data:` addresses that the user names.

Manifests make no `http(s)` connections.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import IO, Any
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

from alm.common.errors import AudioError
from alm.common.text import decode_base64, one_line

MAX_BYTES = 512 * 2**20
"""Largest audio file in bytes that is fetched."""

MAX_FETCH_S = 120.0
"""Longest time in seconds that fetching one file may take."""

_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)
_SILENT_S = 20.0  # a server that sends nothing for so long is given up
_BLOCK = 1 << 16
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")  # reserved for protocols such as DS-Lite (RFC 6890)
# IPv6 addresses that end in an IPv4 address: those of NAT64 (RFC 6052, RFC 8215), and the deprecated compatible ones.
_WITH_IPV4_AT_THE_END = [ipaddress.IPv6Network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]


def is_url(text: object) -> bool:
    """Whether a text is an address that `fetch_audio` fetches, and no path."""
    return isinstance(text, str) and _URL.match(text) is not None


def url_name(url: str) -> str:
    """The name of an address in errors and tables: without credentials, query and inline data."""
    if url[:5].lower() == "data:":
        return f"{one_line(url[:5])}{one_line(url[5:].partition(',')[0][:40])},…"
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return one_line(urlunsplit((parts.scheme, host, parts.path, "", "")))
    except ValueError:
        return one_line(url[:80])


def fetch_audio(
    url: str, max_bytes: int = MAX_BYTES, max_s: float = MAX_FETCH_S, public_only: bool = False
) -> bytes:
    """Return the content of a `data:` or `http(s)` address, for `decode_audio`.

    Args:
        url: The address.
        max_bytes: Refuse larger content.
        max_s: Give up after this many seconds.
        public_only: For untrusted addresses: connect only to public addresses of the internet, without a proxy. Every
            address is checked when the connection is made, after its name is resolved.

    Returns:
        The content, whole.

    Raises:
        AudioError: The address is malformed, cannot be reached, answers with an error, is redirected to another kind of
            address or into a private network, is too large or too slow, or ends before its announced size; or it is
            not public.
    """
    if url[:5].lower() == "data:":
        return _inline(url, max_bytes)
    if not is_url(url):
        raise AudioError(f"{one_line(url[:80])}: is not an http, https or data address; give one, or a path")
    shown = url_name(url)
    deadline = time.monotonic() + max_s
    try:
        return _download(url, shown, max_bytes, deadline, max_s, public_only)
    except AudioError:
        raise
    except urllib.error.HTTPError as error:
        raise AudioError(f"{shown}: the server answers {error.code} {one_line(str(error.reason))}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if time.monotonic() > deadline:
            raise _too_slow(shown, max_s) from error
        why = getattr(error, "reason", None) or error
        text = one_line(str(getattr(why, "strerror", None) or why)) or type(error).__name__
        raise AudioError(f"{shown}: download failed ({text}); check the address and the network") from error


def _inline(url: str, max_bytes: int) -> bytes:
    shown = url_name(url)
    head, comma, content = url[5:].partition(",")
    if not comma:
        raise AudioError(f"{shown}: holds no comma before its data; expected data:audio/TYPE;base64,DATA")
    if len(content) > 3 * max_bytes:  # percent-encoded text takes three characters a byte
        raise _too_large(shown, max_bytes)
    data = unquote_to_bytes(content)
    if head.lower().endswith(";base64"):
        try:
            data = decode_base64(data)
        except ValueError as error:
            raise AudioError(f"{shown}: is not valid base64 ({error}); encode the file again") from error
    if len(data) > max_bytes:
        raise _too_large(shown, max_bytes)
    if not data:
        raise AudioError(f"{shown}: is empty; expected data:audio/TYPE;base64,DATA")
    return data


def _download(
    url: str, shown: str, max_bytes: int, deadline: float, max_s: float, public_only: bool
) -> bytes:
    if not public_only:
        opener = urllib.request.build_opener(_CheckedRedirects(_is_private(url)))
        return _read(opener, url, shown, max_bytes, deadline, max_s)
    opened: list[http.client.HTTPConnection] = []
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), _PublicHTTP(opened), _PublicHTTPS(opened), _CheckedRedirects(False)
    )
    # Each line of a header may take as long as the timeout, so a malicious server could hold the thread for hours.
    ending = threading.Timer(max_s, _hang_up, [opened])
    ending.daemon = True
    ending.start()
    try:
        return _read(opener, url, shown, max_bytes, deadline, max_s)
    finally:
        ending.cancel()


def _read(
    opener: urllib.request.OpenerDirector,
    url: str,
    shown: str,
    max_bytes: int,
    deadline: float,
    max_s: float,
) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "alm", "Accept-Encoding": "identity"})
    with opener.open(request, timeout=min(_SILENT_S, max_s)) as answer:
        announced = answer.headers.get("Content-Length")
        if announced is not None and announced.isdigit() and int(announced) > max_bytes:
            raise _too_large(shown, max_bytes)
        data = bytearray()
        while block := answer.read1(_BLOCK):
            data += block
            if len(data) > max_bytes:
                raise _too_large(shown, max_bytes)
            if time.monotonic() > deadline:
                raise _too_slow(shown, max_s)
    if time.monotonic() > deadline:  # the connection was ended
        raise _too_slow(shown, max_s)
    if announced is not None and announced.isdigit() and len(data) < int(announced):
        raise AudioError(f"{shown}: is truncated: {len(data)} of {announced} bytes arrived; try again")
    if not data:
        raise AudioError(f"{shown}: is empty (0 bytes); check the address")
    return bytes(data)


def _too_large(shown: str, max_bytes: int) -> AudioError:
    return AudioError(f"{shown}: is larger than {max_bytes / 2**20:g} MiB; download it yourself first")


def _too_slow(shown: str, max_s: float) -> AudioError:
    return AudioError(f"{shown}: took longer than {max_s:g} s; download it yourself first")


def _hang_up(opened: list[http.client.HTTPConnection]) -> None:
    for connection in opened:
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def _is_private(url: str) -> bool:
    """Whether an address leads to this machine or a private network."""
    host = urlsplit(url).hostname
    if not host:
        raise ValueError("the address names no host")
    return any(not is_public(str(found[4][0])) for found in socket.getaddrinfo(host, None))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where IPv6 wraps an IPv4 address.

    Args:
        address: As `socket.getaddrinfo` gives it, with or without a zone.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    wrapped: list[ipaddress.IPv4Address | None] = []
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(ip in network for network in _WITH_IPV4_AT_THE_END):
            wrapped.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    inner = [one for one in wrapped if one is not None]
    # A mapped address is just the IPv4 address. For the other kinds, the IPv6 and the IPv4 address must be public.
    outer = [] if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped else [ip]
    return all(
        one.is_global
        and not one.is_multicast
        and not one.is_reserved
        and not getattr(one, "is_site_local", False)  # fec0::/10, the deprecated private range
        and one not in _PROTOCOLS
        for one in [*outer, *inner]
    )


def _connect_publicly(
    address: tuple[str, int], timeout: Any = None, _source_address: Any = None
) -> socket.socket:
    """Connect to a host, as `socket.create_connection` does, if all that its name resolves to is public."""
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not all(is_public(str(one[4][0])) for one in found):
        raise AudioError(f"{one_line(host)}: is not a public address; send the audio itself")
    for i, (family, kind, protocol, _, sockaddr) in enumerate(found):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(sockaddr)  # the checked address; the name could resolve to another one
            return connection
        except OSError:
            connection.close()
            if i == len(found) - 1:
                raise
    raise OSError("the name resolves to nothing")


class _PublicHTTP(urllib.request.HTTPHandler):
    """Opens connections to public addresses alone, and notes them."""

    def __init__(self, opened: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self.opened = opened

    def http_open(self, req: urllib.request.Request) -> Any:
        """Open one."""
        return self.do_open(_public(http.client.HTTPConnection, self.opened), req)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    """Opens encrypted connections to public addresses alone, and notes them."""

    def __init__(self, opened: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self.opened = opened

    def https_open(self, req: urllib.request.Request) -> Any:
        """Open one; the certificate is checked against the name."""
        return self.do_open(_public(http.client.HTTPSConnection, self.opened), req)


def _public(kind: Any, opened: list[http.client.HTTPConnection]) -> Any:
    def build(*args: Any, **kwargs: Any) -> Any:
        connection = kind(*args, **kwargs)
        connection._create_connection = _connect_publicly
        opened.append(connection)
        return connection

    return build


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to public http(s) addresses only, unless the user named a private one."""

    max_redirections = 5

    def __init__(self, private_allowed: bool) -> None:
        self.private_allowed = private_allowed

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Check the new address before it is asked."""
        shown = url_name(req.full_url)
        if urlsplit(newurl).scheme.lower() not in ("http", "https"):
            raise AudioError(
                f"{shown}: redirects to {one_line(newurl[:80])}, which is not an http(s) address"
            )
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme.lower() != "https":
            raise AudioError(f"{shown}: redirects from https to {url_name(newurl)}, which is not encrypted")
        if not self.private_allowed and _is_private(newurl):
            raise AudioError(f"{shown}: redirects into a private network ({url_name(newurl)})")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
