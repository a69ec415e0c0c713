"""Which addresses are refused, before anything is connected."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.draws import draws
from zoetrope.serving.outbound import FetchFailed, FetchRefused, Guard

INSIDE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # metadata of Alibaba
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # metadata of Oracle
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::ffff:0:127.0.0.1",  # translated
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:a9fe:a9fe::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
OUTSIDE = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1",
           "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]  # fmt: skip


def answering(*addresses: str) -> Guard:
    async def resolve(name: str, port: int) -> Sequence[str]:
        return addresses

    return Guard(resolve=resolve)


@pytest.mark.parametrize("address", INSIDE)
async def test_what_is_not_public_is_refused_as_a_literal_and_behind_a_name(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(FetchRefused, match="is not public"):
        Guard().check(f"http://{host}/x")
    with pytest.raises(FetchRefused, match=r"^the address of cats\.example\.com is not public$"):
        await answering("93.184.215.14", address).addresses("cats.example.com", 80)


@pytest.mark.parametrize("address", OUTSIDE)
async def test_what_is_public_passes(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert ip_address(Guard().check(f"http://{host}/x").host) == ip_address(address)
    assert await answering(address).addresses("cats.example.com", 80) == [str(ip_address(address))]


@settings(max_examples=draws(50), deadline=None)
@given(address=st.ip_addresses(v=4))
def test_every_form_of_an_ipv4_address_gets_one_answer(address: object) -> None:
    guard = Guard()
    plain = guard.allows(ip_address(str(address)))
    assert guard.allows(ip_address(f"::ffff:{address}")) == plain
    assert guard.allows(ip_address(f"64:ff9b::{address}")) == plain
    # Never by tunnels and old notations.
    number = int(ip_address(str(address)))
    assert not guard.allows(ip_address((0x2002 << 112) | (number << 80) | 1))
    assert not guard.allows(ip_address(number | (0xFFFF << 48)))


@settings(max_examples=draws(100), deadline=None)
@given(address=st.ip_addresses())
def test_nothing_that_python_knows_as_private_passes(address: object) -> None:
    known = ip_address(str(address))
    if known.is_private or known.is_loopback or known.is_link_local or known.is_multicast or known.is_reserved:
        assert not Guard().allows(known) or getattr(known, "ipv4_mapped", None) or str(known).startswith("64:ff9b::")


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://0x7f000001/", "unusual spelling"),
        ("http://2130706433/", "unusual spelling"),
        ("http://127.1/", "unusual spelling"),
        ("http://0177.0.0.1/", "unusual spelling|not a URL"),
        ("http://017700000001/", "unusual spelling"),
        ("http://0x7f.1/", "unusual spelling"),
        ("http://127.0.0.0x1/", "unusual spelling"),
        ("http://1.2.3.4.5/", "unusual spelling"),
        ("http://0/", "unusual spelling"),
        ("http://127.0.0.1./", "not public"),
        ("http://[::]/", "not public"),
        ("http://[::ffff:7f00:1]/", "not public"),
        ("http://[fe80::1%25eth0]/", "no host name|not a URL"),
        ("http://localhost/", "this machine"),
        ("http://LOCALHOST:8080/", "this machine"),
        ("http://localhost./", "this machine"),
        ("http://a.localhost/", "this machine"),
        ("http://127%2e0%2e0%2e1/", "no host name|not a URL"),
        ("http://①②⑦.⓪.⓪.①/", "not public|not a URL|unusual"),
        ("http://１２７.0.0.1/", "not public|not a URL|unusual"),
        ("ftp://cats.example.com/", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("gopher://cats.example.com:70/_x", "only http and https"),
        ("data:text/plain,x", "only http and https"),
        ("//cats.example.com/", "only http and https"),
        ("cats.example.com", "only http and https"),
        ("", "only http and https"),
        ("http:///x", "no host name"),
        ("http://", "no host name"),
        ("http://user:tr0ub4dor@cats.example.com/", "user name or password"),
        ("http://user@cats.example.com/", "user name or password"),
        ("http://@cats.example.com/", "user name or password"),
        ("http://cats.example.com@127.0.0.1/", "user name or password"),
        ("http://cats.example.com:22/", "port 22"),
        ("http://cats.example.com:6379/", "port 6379"),
        ("http://cats.example.com:0/", "port 0"),
        ("http://cats.example.com:99999/", "not a URL"),
        ("http://cats.example.com:x/", "not a URL"),
        ("http://cats.example.com\\@127.0.0.1/", "backslashes"),
        ("http://cats.example.com/\r\nx: y", "control characters"),
        ("http://cats.example.com/a b", "spaces"),
        ("http://-/" + "x" * 2_048, "the limit is 2048"),
        ("http://" + "a" * 64 + ".com/", "no host name|not a URL"),
        ("http://[127.0.0.1]/", "not a URL|not public"),
        ("http://[x]/", "not a URL|no host name"),
    ],
)
def test_odd_urls_are_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(FetchRefused, match=reason) as caught:
        Guard().check(url)
    assert "tr0ub4dor" not in str(caught.value)


@settings(max_examples=draws(100), deadline=None)
@given(url=st.text(max_size=60) | st.builds("http://{}/{}".format, st.text(max_size=40), st.text(max_size=10)))
def test_any_text_is_a_target_or_refused(url: str) -> None:
    try:
        target = Guard().check(url)
    except FetchRefused as error:
        assert "\n" not in str(error)
    else:
        assert target.url.scheme in ("http", "https") and 0 < target.port < 65_536


@pytest.mark.parametrize(
    "url, host, port",
    [
        ("http://Cats.Example.COM/a?b#c", "cats.example.com", 80),
        ("https://cats.example.com.", "cats.example.com", 443),
        ("HTTPS://cats.example.com:8443/", "cats.example.com", 8443),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("https://[2606:4700::1111]:444/", "2606:4700::1111", 444),
        ("https://my_bucket.s3.example.com/a", "my_bucket.s3.example.com", 443),
    ],
)
def test_ordinary_urls_pass(url: str, host: str, port: int) -> None:
    target = Guard().check(url)
    assert (target.host, target.port) == (host, port)


async def test_an_operator_opens_networks() -> None:
    async def resolve(name: str, port: int) -> Sequence[str]:
        return ["10.1.2.3", "::1"] if name == "both" else ["10.1.2.3"]

    guard = Guard(allow=("127.0.0.0/8", "10.1.0.0/16"), resolve=resolve)
    assert guard.check("http://127.0.0.1:8000/").port == 8000
    assert guard.check("http://localhost/").host == "localhost"
    assert guard.check("http://[::ffff:127.0.0.1]/")
    assert await guard.addresses("one", 80) == ["10.1.2.3"]
    with pytest.raises(FetchRefused):
        await guard.addresses("both", 80)
    for url in ("http://10.2.0.1/", "http://[::1]/", "http://0x7f000001/", "http://169.254.169.254/"):
        with pytest.raises(FetchRefused):
            guard.check(url)
    with pytest.raises(ValueError):
        Guard(allow=("everything",))


async def test_a_name_without_addresses_fails() -> None:
    async def fail(name: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    for guard in (Guard(resolve=fail), answering()):
        with pytest.raises(FetchFailed, match=r"cats\.example\.com has no address"):
            await guard.addresses("cats.example.com", 80)
    with pytest.raises(FetchRefused):
        await answering("not an address").addresses("cats.example.com", 80)
