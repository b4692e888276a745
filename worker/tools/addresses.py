"""Which addresses of the internet may be connected to: those that everybody can reach, and no other form of any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
#: Gives the addresses of a host, which is to be asked at a port, as text; raises `OSError`.
Resolve = Callable[[str, int], Sequence[str]]

#: What is not of the public internet, after the registries of special addresses. `ipaddress` knows fewer, by version.
_IPV4: Sequence[tuple[str, Sequence[str]]] = (
    ("a private address", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
    ("an address of this machine", ("127.0.0.0/8",)),
    ("a link-local address", ("169.254.0.0/16",)),
    ("a multicast address", ("224.0.0.0/4",)),
    (
        "a reserved address",
        (
            "0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "240.0.0.0/4",
        ),
    ),
)  # fmt: skip
_IPV6: Sequence[tuple[str, Sequence[str]]] = (
    ("an address of this machine", ("::1/128",)),
    ("a private address", ("fc00::/7", "fec0::/10")),
    ("a link-local address", ("fe80::/10",)),
    ("a multicast address", ("ff00::/8",)),
    ("an IPv4 address in the form of IPv6", ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")),
    ("a reserved address", ("2001::/23", "2001:db8::/32", "3fff::/20")),
)
#: All that is given out to the public by now; everything beside it is reserved.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_TABLE: Sequence[tuple[str, Sequence[IPv4Network | IPv6Network]]] = (
    *((kind, tuple(map(IPv4Network, networks))) for kind, networks in _IPV4),
    *((kind, tuple(map(IPv6Network, networks))) for kind, networks in _IPV6),
)
#: What an intranet and a test need. Nobody's service has a link-local address but those that give out a cloud's keys.
_INTRANET = frozenset({"a private address", "an address of this machine"})


def refusal(text: str, *, private: bool = False) -> str | None:
    """Tell what is wrong with an address, None for nothing; `private` ones and those of this machine may be allowed."""
    try:
        address = ip_address(text)
    except ValueError:
        return "no address"
    kind = _kind(address)
    return None if kind is None or (private and kind in _INTRANET) else kind


def _kind(address: Address) -> str | None:
    for kind, networks in _TABLE:
        if any(address in network for network in networks if network.version == address.version):
            return kind
    outside = isinstance(address, IPv6Address) and (address.scope_id is not None or address not in _GLOBAL_IPV6)
    return "a reserved address" if outside or not address.is_global else None
