"""Which addresses a message may be sent to. Resolves names; opens no connection."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
# The addresses of a host, as `getaddrinfo` spells them.
Resolver = Callable[[str], Sequence[str]]

# The IPv6 addresses given out so far (IANA). Everything else is refused, IPv4-mapped and NAT64
# addresses included: lists of what is private leave out what nobody thought of, as fec0::/10.
_IPV6_UNICAST = ip_network("2000::/3")
# Within what `is_global` permits on some version of Python.
_REFUSED = [
    ip_network("2001::/32"),  # Teredo, RFC 4380: leads to an IPv4 address
    ip_network("2002::/16"),  # 6to4, RFC 3056: the same
    ip_network("192.88.99.0/24"),  # relays of 6to4, RFC 7526
    ip_network("3fff::/20"),  # documentation, RFC 9637
]


class AddressRefused(Exception):
    """The host has an address that no message may be sent to, or none at all."""


class NotResolved(AddressRefused):
    """The host has no address, or none can be found out at the moment."""


def resolve(host: str) -> Sequence[str]:
    """The addresses of `host`; raises OSError if there are none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def permitted_addresses(
    host: str, *, allowed: Sequence[Network] = (), resolver: Resolver = resolve
) -> list[Address]:
    """Resolves `host` once. The caller connects to one of these addresses, never to the name.

    One refused address refuses the host: which of them is used would otherwise be chance.
    Raises AddressRefused, and NotResolved where the name cannot be resolved.
    """
    try:
        addresses = [ip_address(text) for text in resolver(host)]
    except OSError as error:
        raise NotResolved(f"{host} cannot be resolved.") from error
    except (UnicodeError, ValueError) as error:
        raise AddressRefused(f"{host} is not the name of a host.") from error
    if not addresses:
        raise NotResolved(f"{host} has no address.")
    for address in addresses:
        if not _is_permitted(address, allowed):
            raise AddressRefused(f"{host} has the address {address}, which is not public.")
    return addresses


def _is_permitted(address: Address, allowed: Sequence[Network]) -> bool:
    if any(address in network for network in allowed):
        return True
    if any(address in network for network in _REFUSED):
        return False
    if isinstance(address, IPv6Address) and address not in _IPV6_UNICAST:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)
