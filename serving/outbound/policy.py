"""Decides which addresses a request on behalf of a client may go to.

A client must not be able to use us to reach what only we can reach: this machine, its network, the cloud's metadata
service. Names are resolved here, every resulting address is checked, and the connection goes to one of exactly those,
so that changing a name's address in between achieves nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

import httpx

from zoetrope.serving.outbound.errors import FetchFailed, FetchRefused, NotPublic

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address
# Resolves a name and port to addresses as text; raises OSError if there are none.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL = 2_048
MAX_PORT = 65_535
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})?(\.[a-z0-9_]([a-z0-9_-]{0,62})?)*")
# What C libraries parse as an address although it does not look like one: 2130706433, 0x7f.1, 127.1, 017700000001.
NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)")

# From IANA's registries of special-purpose addresses: not globally reachable, or an alias of another address.
NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent, at a public address
        "169.254.0.0/16",  # link-local, with the metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
PUBLIC_6 = IPv6Network("2000::/3")  # nothing else is allocated; fd00:ec2::254 is outside
NOT_PUBLIC_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocols, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
NAT64 = IPv6Network("64:ff9b::/96")  # the last four bytes are an IPv4 address

# Ports of no web server, where a request of ours could be taken for a command.
REFUSED_PORT_LIST = """
    0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 79 110 111 119 123 135 137 139 143 161 179 389 427 445 465
    512 513 514 515 540 548 554 563 587 601 636 993 995 2049 2375 2379 3306 3389 3659 4045 4190 5060 5061 5432 6000
    6379 6566 6665 6666 6667 6668 6669 6697 9042 9200 10080 11211 27017
"""
REFUSED_PORTS = frozenset(int(port) for port in REFUSED_PORT_LIST.split())


async def system_resolver(name: str, port: int) -> Sequence[str]:
    """Resolve with the machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True)
class FetchTarget:
    """The checked URL of a request."""

    url: httpx.URL
    host: str  # lower case, without a trailing dot and without brackets
    port: int


class AddressRules:
    """The rules for requests to URLs that clients supply. Stateless, to be shared."""

    def __init__(
        self,
        allow: Sequence[str | Network] = (),
        resolve: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make a policy.

        Args:
            allow: networks that are allowed although they are not public, such as "127.0.0.0/8" in tests.
            resolve: resolves names.
            tls: to trust other certificate authorities than the machine's.

        Raises:
            ValueError: an entry of ``allow`` is not a network.
        """
        self._allow = tuple(ip_network(network) if isinstance(network, str) else network for network in allow)
        self._resolve = resolve
        self._tls = tls

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Return the TLS context, made once because reading the machine's authorities takes a while."""
        return self._tls if self._tls is not None else ssl.create_default_context()

    def check(self, url: str) -> FetchTarget:
        """Check everything about a URL except what its name resolves to.

        Raises:
            FetchRefused: it is not http or https, has a user or password, a port of no web server, or an address that
            is
                not public or in an unusual notation, or is not a URL at all.
        """
        if len(url) > MAX_URL:
            raise FetchRefused(f"the URL has {len(url)} characters, the limit is {MAX_URL}")
        if not url.isprintable() or any(character in url for character in " \\"):
            raise FetchRefused("the URL holds spaces, control characters or backslashes")
        try:
            parsed = httpx.URL(url)
            port = parsed.port
            if port is not None and not 0 <= port <= MAX_PORT:
                raise ValueError(port)
        except (httpx.InvalidURL, ValueError, UnicodeError):
            raise FetchRefused("not a URL") from None
        if parsed.scheme not in ("http", "https"):
            raise FetchRefused("only http and https URLs are fetched")
        if parsed.userinfo or "@" in url.partition("://")[2].partition("/")[0].partition("?")[0]:
            raise FetchRefused("URLs with a user name or password are not fetched")
        port = port if port is not None else {"http": 80, "https": 443}[parsed.scheme]
        if port in REFUSED_PORTS:
            raise FetchRefused(f"port {port} is not for web servers")
        host = parsed.raw_host.decode("ascii").lower().removesuffix(".")
        address = _literal(host)
        if address is not None:
            self._check_address(address)
        elif not NAME.fullmatch(host):
            raise FetchRefused("the URL has no host name that can be looked up")
        elif NUMBER.fullmatch(host.rpartition(".")[2]):
            raise FetchRefused("the host of the URL is an address in an unusual spelling")
        elif not self._allow and (host == "localhost" or host.endswith(".localhost")):
            raise NotPublic("the host of the URL is this machine")
        return FetchTarget(parsed, host, port)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host and check all of its addresses.

        Raises:
            FetchRefused: one of them is not public.
            FetchFailed: there is none.
        """
        literal = _literal(host)
        if literal is not None:
            self._check_address(literal)
            return [str(literal)]
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise FetchFailed(f"{host} has no address")
        addresses = []
        for text in dict.fromkeys(found):
            address = _literal(text)
            if address is None:
                raise FetchRefused(f"the address of {host} is not public")
            self._check_address(address, host)
            addresses.append(str(address))
        return addresses

    def allows(self, address: Address) -> bool:
        """Return whether requests may go to an address."""
        inner = _inner(address)
        if any(each in network for each in (address, inner) for network in self._allow):
            return True
        if isinstance(inner, IPv4Address):
            return not any(inner in network for network in NOT_PUBLIC_4)
        return inner in PUBLIC_6 and not any(inner in network for network in NOT_PUBLIC_6)

    def _check_address(self, address: Address, name: str | None = None) -> None:
        if not self.allows(address):
            # The client supplied the literal itself; what a name resolves to must not be disclosed.
            raise NotPublic(f"the address {address if name is None else 'of ' + name} is not public")


def _inner(address: Address) -> Address:
    """Return the IPv4 address embedded in an IPv6 address to which a connection would go, else the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _literal(text: str) -> Address | None:
    """Parse an address in its usual notation; None: a name, an unusual notation or an address with a zone ("%eth0")."""
    if "%" in text:
        return None
    try:
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
