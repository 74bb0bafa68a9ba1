"""Every registered format with samples on both sides of it."""

import pytest

from taskmanager.params.formats import FORMATS, register_format

VALID = {
    "date": ["2026-01-31", "2024-02-29"],
    "time": ["00:00:00Z", "23:59:59.123+02:00", "23:59:60z"],
    "date-time": ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00.5-08:00", "2026-01-31 12:00:00Z"],
    "duration": ["P1D", "PT1H", "P1Y2M3DT4H5M6S", "P2W"],
    "hostname": ["localhost", "a.example.com", "xn--bcher-kva.example", "a" * 63],
    "email": ["a@b", "first.last+tag@example.com", "!#$%&'*+/=?^_`{|}~-@example.com"],
    "uri-reference": ["", "/path", "?q=1", "https://example.com/a%20b#c"],
    "uri": ["https://example.com/a?b=c#d", "mailto:a@example.com", "urn:isbn:1"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000"],
    "ipv4": ["127.0.0.1", "255.255.255.255"],
    "ipv6": ["::1", "2001:db8::8a2e:370:7334", "::ffff:192.0.2.1"],
    "youtube-video-id": ["dQw4w9WgXcQ", "-_-_-_-_-_-"],
    "reddit-subreddit": ["python", "r2d", "a" * 21, "Ask_Reddit"],
}
INVALID = {
    "date": ["", "2026-02-30", "2026-1-31", "20260131", "2026-01-31\n", "٢٠٢٦-٠١-٣١"],
    "time": ["", "12:00:00", "24:00:00Z", "12:60:00Z", "12:00Z", "12:00:00Z\n", "12:00:00+24:00"],
    "date-time": ["", "2026-01-31", "2026-01-31T12:00:00", "2026-13-01T00:00:00Z", "now"],
    "duration": ["", "P", "PT", "1D", "P1H", "P1DT", "P1.5D", "P1D\n"],
    "hostname": ["", "-a", "a-", "a..b", "a_b", "a" * 64, ".".join(["a" * 63] * 4), "bücher.de"],
    "email": ["", "a", "@b", "a@", "a@b c", "a b@c", ".a@b", "a..b@c", "a" * 65 + "@b", "a@b\n"],
    "uri-reference": ["a b", "%zz", "ü", "<a>", "/path\n"],
    "uri": ["", "/path", "example.com", "1a:b", "https://a b", "https://a\n"],
    "uuid": ["", "123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400g",
             "1_3e4567-e89b-12d3-a456-426614174000", "+23e4567-e89b-12d3-a456-426614174000",
             " 23e4567-e89b-12d3-a456-426614174000", "٣23e4567-e89b-12d3-a456-426614174000",
             "{123e4567-e89b-12d3-a456-4266141740}", "123e4567-e89b-12d3-a456-426614174000\n"],
    "ipv4": ["", "256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4 "],
    "ipv6": ["", "1", ":::", "fe80::1%eth0", "12345::"],
    "youtube-video-id": ["", "dQw4w9WgXc", "dQw4w9WgXcQQ", "dQw4w9WgXc!", "dQw4w9WgXcQ\n"],
    "reddit-subreddit": ["", "ab", "_abc", "a" * 22, "r/python", "py thon", "python\n"],
}  # fmt: skip


def test_every_registered_format_has_samples() -> None:
    assert set(FORMATS) == set(VALID) == set(INVALID)


@pytest.mark.parametrize(("name", "text"), [(n, text) for n in VALID for text in VALID[n]])
def test_a_valid_sample_is_accepted(name: str, text: str) -> None:
    assert FORMATS[name](text) is True


@pytest.mark.parametrize(("name", "text"), [(n, text) for n in INVALID for text in INVALID[n]])
def test_an_invalid_sample_is_refused(name: str, text: str) -> None:
    assert FORMATS[name](text) is False


@pytest.mark.parametrize("name", list(VALID))
def test_a_check_ends_soon_on_a_long_text(name: str) -> None:
    for text in ("a" * 200_000, "1" * 200_000, "a." * 100_000, "!@" * 100_000):
        assert FORMATS[name](text) in (True, False)


def test_a_plugin_registers_its_own_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "order-number", lambda text: True)  # taken away again afterwards

    @register_format("order-number")
    def is_order_number(text: str) -> bool:
        return text.startswith("ORD-")

    assert FORMATS["order-number"] is is_order_number
