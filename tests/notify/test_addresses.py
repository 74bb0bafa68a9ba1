"""Which addresses are refused after a name is resolved."""

from ipaddress import ip_address, ip_network

import pytest

from taskmanager.notify.addresses import AddressRefused, permitted_addresses

REFUSED = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%1",
    "fc00::1",
    "fd00::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "100::1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::a00:1",
    "2001:0:4136:e378::1",
    "2002:7f00:1::1",
    "3fff::1",
    "4000::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_address_that_is_not_public_is_refused(address):
    with pytest.raises(AddressRefused):
        permitted_addresses("a.test", resolver=lambda _: [address])


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_public_address_is_permitted(address):
    found = permitted_addresses("a.test", resolver=lambda _: [address])
    assert found == [ip_address(address)]


def test_one_refused_address_refuses_the_host():
    with pytest.raises(AddressRefused):
        permitted_addresses("a.test", resolver=lambda _: ["8.8.8.8", "127.0.0.1"])


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
def test_other_spellings_of_loopback_are_refused_by_the_real_resolver(host):
    with pytest.raises(AddressRefused):
        permitted_addresses(host)


def test_named_network_is_permitted_and_no_other():
    allowed = [ip_network("10.1.0.0/16")]
    assert permitted_addresses("a.test", allowed=allowed, resolver=lambda _: ["10.1.2.3"])
    with pytest.raises(AddressRefused):
        permitted_addresses("a.test", allowed=allowed, resolver=lambda _: ["10.2.2.3"])


@pytest.mark.parametrize("found", [[], ["not an address"]])
def test_name_without_an_address_is_refused(found):
    with pytest.raises(AddressRefused):
        permitted_addresses("a.test", resolver=lambda _: found)
