"""Server answers are hostile until checked: what is let through, and what is refused whole."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.validation import (
    grant_of,
    id_of,
    multipart_of,
    page_of,
    pairing_of,
    parse_json,
    record_of,
    url_deadline_ms,
)
from syncd.errors import JobError
from syncd.types import Kind, Multipart, Record

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MIB = 1024 * 1024
CLOUD = HostPolicy.of("https://core.cyberun.cloud/api/v1", (), allow_http=False)
HERE = HostPolicy.of("http://127.0.0.1:8080/api/v1", (), allow_http=False)
URL = "https://bucket.s3.example.com/models/a%2Fb+c?X-Amz-Signature=f%2Fo&x-id=PutObject"
GOOD: dict[str, Any] = {
    "upload_url": URL,
    "storage_key": "models/019abc/def",
    "upload_headers": {"Content-Length": "10", "If-None-Match": "*"},
}


def refused(call: Callable[[], object]) -> str:
    """The message with which *call* refuses an answer."""
    with pytest.raises(JobError) as caught:
        call()
    assert caught.value.kind is Kind.INVALID_ANSWER
    return str(caught.value)


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


# --- JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"a": 1} {"b": 2}',
        b'{"a": 1, "a": 1}',
        b'{"deep": [{"a": 1, "b": 2, "a": 3}]}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 9007199254740993}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b"{\"a\": 'b'}",
        nested(33),
        nested(100_000),
        b'{"a": "' + b"x" * MIB + b'"}',
    ],
)
def test_whatever_is_not_one_plain_json_object_is_refused(body: bytes) -> None:
    refused(lambda: parse_json(body))


def test_the_bounds_of_json_are_themselves_allowed() -> None:
    whole = b'{"a": "' + b"x" * (MIB - 9) + b'"}'

    assert len(whole) == MIB
    assert parse_json(whole)
    assert parse_json(nested(32))
    assert parse_json(b'{"a": 9007199254740992}') == {"a": 2**53}


# --- ids, records, pages


@pytest.mark.parametrize("value", ["019abc12-4567-7abc-8def-0123456789ab", "a", "x" * 128, "a..b"])
def test_identifiers_pass(value: str) -> None:
    assert id_of({"id": value}) == value


@pytest.mark.parametrize(
    "value", [None, 7, "", "x" * 129, "a/b", "..", ".", "a?b", "a b", "a\n", "é", ["a"]]
)
def test_an_id_that_could_not_stand_in_a_path_is_refused(value: object) -> None:
    assert "id" in refused(lambda: id_of({"id": value}))


def test_a_record_carries_its_members_with_control_characters_shown() -> None:
    whole = {
        "id": "r1",
        "model_path": "models/loras/a.safetensors",
        "model_type": "loras",
        "display_name": "a\x1b[2J",
        "storage_key": "k",
        "file_size": 5,
        "file_hash": "sha256:00",
        "model_status": "active",
        "created_at": "2026-01-01T00:00:00Z",
    }

    assert record_of(whole) == Record(
        "r1", "models/loras/a.safetensors", "loras", "a\\x1b[2J", "k", 5, "sha256:00", "active",
        "2026-01-01T00:00:00+00:00",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00+00:00"),
        ("2026-01-01T00:00:00", None),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:00", None),
        (1_767_225_600, None),
    ],
)
def test_a_time_of_creation_that_cannot_be_compared_says_nothing(
    said: object, read: str | None
) -> None:
    assert record_of({"id": "r1", "created_at": said}).created_at == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("file_size", -1),
        ("file_size", True),
        ("file_size", "5"),
        ("display_name", "x" * 4097),
        ("storage_key", {}),
    ],
)
def test_a_record_with_a_member_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    assert name in refused(lambda: record_of({"id": "r1", name: value}))


@pytest.mark.parametrize("name", ["model_list", "models", "items"])
def test_a_page_is_whichever_array_stands_beside_page_meta(name: str) -> None:
    page = page_of({name: [{"id": "a"}, {"id": "b"}], "page_meta": {"total_count": 7}})

    assert [record.id for record in page.records] == ["a", "b"]
    assert page.total == 7


@pytest.mark.parametrize(
    "answer",
    [
        {"model_list": []},
        {"model_list": [], "page_meta": []},
        {"model_list": [], "page_meta": {}},
        {"model_list": [], "page_meta": {"total_count": "0"}},
        {"model_list": [], "page_meta": {"total_count": -1}},
        {"page_meta": {"total_count": 0}},
        {"a": [], "b": [], "page_meta": {"total_count": 0}},
        {"model_list": ["a"], "page_meta": {"total_count": 1}},
        {"model_list": [{}], "page_meta": {"total_count": 1}},
    ],
)
def test_other_listings_are_refused(answer: dict[str, Any]) -> None:
    refused(lambda: page_of(answer))


# --- multipart


def opened(**changes: object) -> dict[str, Any]:
    """The example of the documentation: 6.8 GB in 65 parts of 100 MiB."""
    return {
        "upload_id": "u1",
        "storage_key": "k",
        "part_size": 104857600,
        "part_count": 65,
        **changes,
    }


def test_an_upload_whose_parts_tile_the_file_passes() -> None:
    found = multipart_of(opened(), size=6_800_000_000, storage_key="k")

    assert found == Multipart("u1", "k", 104857600, 65)


@pytest.mark.parametrize(
    ("part_size", "size", "count"),
    [
        (5 * MIB, 1, 1),
        (5 * MIB, 5 * MIB, 1),
        (5 * MIB, 5 * MIB + 1, 2),
        (5 * MIB, 50_000 * MIB, 10_000),
        (5 * 1024 * MIB, 10 * 1024 * MIB, 2),
    ],
)
def test_the_bounds_of_parts_are_themselves_allowed(part_size: int, size: int, count: int) -> None:
    answer = opened(part_size=part_size, part_count=count)

    assert multipart_of(answer, size=size, storage_key="k").part_count == count


@pytest.mark.parametrize(
    "changes",
    [
        {"storage_key": "other"},
        {"storage_key": None},
        {"part_count": 66},
        {"part_size": 5 * MIB - 1},
        {"part_size": 5 * 1024 * MIB + 1},
        {"part_size": True},
        {"upload_id": ""},
        {"upload_id": "u\n"},
        {"upload_id": "u" * 2049},
    ],
)
def test_other_uploads_are_refused(changes: dict[str, object]) -> None:
    refused(lambda: multipart_of(opened(**changes), size=6_800_000_000, storage_key="k"))


def test_more_than_ten_thousand_parts_are_refused() -> None:
    answer = opened(part_size=5 * MIB, part_count=10_001)

    refused(lambda: multipart_of(answer, size=10_001 * 5 * MIB, storage_key="k"))


# --- presigned URLs


def test_a_grant_keeps_url_and_headers_as_they_came() -> None:
    grant = grant_of(GOOD, size=10, policy=CLOUD, now_ms=NOW_MS)

    assert grant.url == URL
    assert list(grant.headers.items()) == [("Content-Length", "10"), ("If-None-Match", "*")]
    assert grant.storage_key == "models/019abc/def"
    assert "Signature" not in repr(grant)


def test_a_parts_grant_needs_no_key_and_no_headers() -> None:
    grant = grant_of({"upload_url": URL}, size=10, policy=CLOUD, now_ms=NOW_MS, keyed=False)

    assert (grant.storage_key, dict(grant.headers)) == (None, {})


@pytest.mark.parametrize("key", [None, "", 7, "k\x00", "k\ud800", "k" * 1025, "é" * 513])
def test_a_storage_key_that_is_not_short_printable_text_is_refused(key: object) -> None:
    answer = {**GOOD, "storage_key": key}

    assert "storage_key" in refused(lambda: grant_of(answer, size=10, policy=CLOUD, now_ms=NOW_MS))


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "10"},
        {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="},
        {"Content-Disposition": 'attachment; filename="a b"'},
        {"Host": "bucket.s3.example.com"},
        {"x-amz-checksum-sha256": "abc="},
        {},
        None,
    ],
)
def test_headers_on_the_list_pass(headers: dict[str, str] | None) -> None:
    grant = grant_of({**GOOD, "upload_headers": headers}, size=10, policy=CLOUD, now_ms=NOW_MS)

    assert dict(grant.headers) == (headers or {})


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"x-amz-a b": "1"},
        {"x-amz-a\r\nAuthorization": "1"},
        {"": "1"},
        {"Content-Length": "11"},
        {"Content-Length": "010"},
        {"Content-Length": 10},
        {"Content-Length": "10", "content-length": "10"},
        {"Content-Type": "a\r\nAuthorization: b"},
        {"Content-Type": "a\n"},
        {"Content-Type": "é"},
        {"Content-Type": " a"},
        {"Content-Type": ""},
        {"Content-Type": "x" * 8193},
        {"Content-Type": None},
        {"Host": "evil.example.com"},
        {"If-None-Match": "*", "X-Unlisted": "1"},
        ["Content-Length"],
        "Content-Length: 10",
    ],
)
def test_one_header_off_the_list_refuses_the_whole_answer(headers: object) -> None:
    answer = {**GOOD, "upload_headers": headers}

    assert "upload_headers" in refused(
        lambda: grant_of(answer, size=10, policy=CLOUD, now_ms=NOW_MS)
    )


REFUSED_BY_THE_CLOUD = [
    "http://bucket.s3.example.com/k",
    "ftp://bucket.s3.example.com/k",
    "//bucket.s3.example.com/k",
    "https:/bucket.s3.example.com/k",
    "https:///k",
    "https://?k",
    "https://bucket.s3.example.com",
    "https://bucket.s3.example.com?X-Amz-Signature=1",
    "https://user@bucket.s3.example.com/k",
    "https://user:pass@bucket.s3.example.com/k",
    "https://core.cyberun.cloud@evil.example.com/k",
    "https://bucket.s3.example.com/k#fragment",
    "https://bucket.s3.example.com/a b",
    "https://bucket.s3.example.com/a\nb",
    "https://bucket.s3.example.com/a\tb",
    "https://bucket.s3.example.com/é",
    "https://bücket.example.com/k",
    "https://bucket.s3.example.com\\@evil.example.com/k",
    "https://bucket.s3.example.com/a|b",
    "https://bucket.s3.example.com/a%2",
    "https://bucket.s3.example.com/a%zz",
    "https://bucket.s3.example.com/a/../b",
    "https://bucket.s3.example.com/./b",
    "https://bucket.s3.example.com:99999/k",
    "https://bucket.s3.example.com:/k",
    "https://bucket.s3.example.com:443:443/k",
    "https://bucket.s3.example.com./k",
    "https://.example.com/k",
    "https://bucket..example.com/k",
    "https://bucket%2eexample.com/k",
    "https://localhost/k",
    "https://a.localhost/k",
    "https://localhost.localdomain/k",
    "https://minio/k",
    "https://nas.local/k",
    "https://metadata.google.internal/k",
    "https://127.0.0.1/k",
    "https://127.1/k",
    "https://2130706433/k",
    "https://0177.0.0.1/k",
    "https://0x7f000001/k",
    "https://169.254.169.254/latest/meta-data",
    "https://1.2.3.256/k",
    "https://[::1]/k",
    "https://[::ffff:127.0.0.1]/k",
    "https://[fe80::1%25eth0]/k",
    "https://[::1]evil.example.com/k",
    "https://evil.example.com[::1]/k",
    "https://[v1.x]/k",
    "https://[::1/k",
    "https://bucket.s3.example.com@169.254.169.254/k",
    "https://:@bucket.s3.example.com/k",
    "https://bucket.s3.example.com:0/k",
    "https://bucket.s3.example.com:-1/k",
    "https://bucket.s3.example.com/k#@evil.example.com/",
    "https://１２７.0.0.1/k",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/k",
    "https://xn--/k",
    "https://bucket.s3.example.com\u200b/k",
    "https://bucket.s3.example.com\x00.evil.example.com/k",
    "https://bucket.s3.example.com\r\nHost: evil.example.com/k",
    " https://bucket.s3.example.com/k",
    "HTTPS:bucket.s3.example.com/k",
    "javascript:alert(1)",
    "https://" + "a." * 127 + "com/k",
    "https://" + "a" * 64 + ".example.com/k",
    "https://bucket.s3.example.com/" + "k" * 8192,
    "",
]


@pytest.mark.parametrize("url", REFUSED_BY_THE_CLOUD)
def test_a_url_that_could_lead_elsewhere_is_refused(url: str) -> None:
    answer = {**GOOD, "upload_url": url}

    assert "upload_url" in refused(lambda: grant_of(answer, size=10, policy=CLOUD, now_ms=NOW_MS))


NEAR_ADDRESSES = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1",
    "100.100.100.200", "169.254.169.254", "169.254.170.2", "192.0.0.192", "198.18.0.1", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1",
    "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "ff02::1", "2002:7f00:1::",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:7f00:1::", "2001:db8::1", "no address",
]  # fmt: skip


@pytest.mark.parametrize("address", NEAR_ADDRESSES)
def test_I24_a_public_name_may_not_lead_to_an_address_near_us(address: str) -> None:
    assert CLOUD.peer_refusal("bucket.s3.example.com", 443, address) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_a_public_name_may_lead_to_a_public_address(address: str) -> None:
    assert CLOUD.peer_refusal("bucket.s3.example.com", 443, address) is None


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://bucket.s3.example.com:8443/k?a=b",
        "https://UPPER.example.com/k",
        "https://my_bucket.example.com/k",
        "https://8.8.8.8/k",
        "https://[2606:4700::1111]/k",
        "https://s3.example.com/bucket//k?X-Amz-Security-Token=a%2Fb%2Bc//==&q=$,;:@!'()*~",
    ],
)
def test_a_public_https_url_passes(url: str) -> None:
    assert CLOUD.refusal(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/b/k?X=1",
        "http://localhost/k",
        "http://[::1]:9000/k",
        "https://127.0.0.2/k",
        "http://192.168.1.5:9000/k",
        "http://minio:9000/k",
        "https://bucket.s3.example.com/k",
    ],
)
def test_an_api_on_this_machine_may_name_stores_here_and_near(url: str) -> None:
    assert HERE.refusal(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://2130706433/k",
        "http://[fe80::1]/k",
        "http://[::ffff:127.0.0.1]/k",
        "http://0.0.0.0/k",
        "http://user@127.0.0.1/k",
    ],
)
def test_even_an_api_on_this_machine_may_not_name_metadata_services_or_disguises(url: str) -> None:
    assert HERE.refusal(url) is not None


def test_listed_hosts_need_not_look_public() -> None:
    lan = HostPolicy.of(
        "https://cloud.example.com/api/v1", ("NAS.local", "10.0.0.5:9000"), allow_http=False
    )

    assert lan.refusal("https://nas.local/k") is None
    assert lan.refusal("https://nas.local:9443/k") is None
    assert lan.refusal("https://10.0.0.5:9000/k") is None
    assert lan.refusal("https://10.0.0.5/k") is not None
    assert lan.refusal("http://nas.local/k") is not None


def test_a_listed_port_matches_the_schemes_own() -> None:
    lan = HostPolicy.of("https://c.example.com", ("10.0.0.5:443", "[fd00::1]"), allow_http=False)

    assert lan.refusal("https://10.0.0.5/k") is None
    assert lan.refusal("https://[fd00::1]:9000/k") is None


def test_plain_http_needs_the_setting_and_the_listing() -> None:
    lan = HostPolicy.of("https://cloud.example.com/api/v1", ("nas.local",), allow_http=True)

    assert lan.refusal("http://nas.local/k") is None
    assert lan.refusal("http://bucket.s3.example.com/k") is not None


def test_what_passes_is_sent_by_httpx_byte_for_byte() -> None:
    odd = "".join(
        chr(c) for c in range(0x21, 0x7F) if CLOUD.refusal(f"https://h.example/x{chr(c)}") is None
    )
    url = f"https://h.example/p/{odd}%2f%2F+?q={odd}&e=%e2%82%AC&empty="

    assert set("-._~!$&'()*+,;=:@/?[]") <= set(odd)
    assert CLOUD.refusal(url) is None
    assert httpx.URL(url).raw_path.decode() == url.removeprefix("https://h.example")


# --- deadlines


def signed(date: str, expires: str) -> str:
    return f"https://h.example/k?X-Amz-Date={date}&X-Amz-Expires={expires}&X-Amz-Signature=0"


@pytest.mark.parametrize(
    ("url", "lifetime_s"),
    [
        (signed("20260101T000000Z", "3600"), 3600),
        (signed("20251231T235900Z", "3600"), 3540),
        (signed("20251231T230001Z", "3600"), 1),
        (signed("20251231T230000Z", "3600"), 3600),  # dead on arrival: the clocks differ
        (signed("20260101T010000Z", "3600"), 3600),  # signed tomorrow: the clocks differ
        (signed("nonsense", "3600"), 3600),
        (signed("20260101T000000Z", "604800"), 604800),
        (signed("20260101T000000Z", "604801"), 900),
        (signed("20260101T000000Z", "0"), 900),
        (signed("20260101T000000Z", "-1"), 900),
        (signed("20260101T000000Z", "1e9"), 900),
        ("https://h.example/k", 900),
        ("https://h.example/k?X-Amz-Expires=60", 60),
    ],
)
def test_a_deadline_is_read_from_the_query_else_15_minutes(url: str, lifetime_s: int) -> None:
    assert url_deadline_ms(url, NOW_MS) == NOW_MS + lifetime_s * 1000


PAIRING = {
    "device_code": "d-1",
    "user_code": "ABCD-1234",
    "verification_uri": "https://cloud.example/pair",
    "expires_in": 600,
    "interval": 5,
}


def test_I27_pairing_is_taken_as_it_is_answered() -> None:
    pairing = pairing_of(PAIRING)

    assert (pairing.device_code, pairing.user_code) == ("d-1", "ABCD-1234")
    assert pairing.address == "https://cloud.example/pair"
    assert (pairing.lifetime_s, pairing.interval_s) == (600, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device_code", None),
        ("device_code", ""),
        ("device_code", "line\nfeed"),
        ("user_code", "\x1b[31mABCD"),
        ("user_code", "A" * 33),
        ("verification_uri", "ftp://cloud.example/"),
        ("verification_uri", "https://cloud.example/\x1b[0m"),
        ("verification_uri", "https://clöud.example/"),
    ],
)
def test_I27_pairing_with_an_unfit_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(JobError, match=name):
        pairing_of({**PAIRING, name: value})
