"""Presigned PUTs of whole objects: what the store takes, and what it refuses."""

import base64
import hashlib
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Cap
from tests.visitor import Visitor, code_of, good

BODY = bytes(range(256)) * 4096
"""1 MiB."""


def test_put_stores_the_body_byte_for_byte(either: Visitor) -> None:
    grant = either.presign(size=len(BODY))
    answer = either.put(grant, BODY)

    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    assert either.cloud.objects() == {grant["storage_key"]: len(BODY)}
    stored = either.cloud.stored_sha256(grant["storage_key"])
    assert stored == hashlib.sha256(BODY).hexdigest()


def test_second_put_to_a_key_is_answered_412(either: Visitor) -> None:
    grant = either.presign()
    good(either.put(grant, b"abc"))
    again = either.put(grant, b"xyz")

    assert (again.status_code, code_of(again)) == (412, "PreconditionFailed")
    stored = either.cloud.stored_sha256(grant["storage_key"])
    assert stored == hashlib.sha256(b"abc").hexdigest()


def test_another_length_than_the_signed_one_is_refused(either: Visitor) -> None:
    grant = either.presign(size=3)
    sent = {**grant["upload_headers"], "Content-Length": "4"}
    answer = either.store.put(grant["upload_url"], content=b"abcd", headers=sent)

    assert (answer.status_code, code_of(answer)) == (403, "SignatureDoesNotMatch")
    assert either.cloud.objects() == {}


def test_missing_signed_header_is_refused(either: Visitor) -> None:
    answer = either.store.put(either.presign()["upload_url"], content=b"abc")

    assert (answer.status_code, code_of(answer)) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Expires=900", "X-Amz-Expires=901"),
        ("content-length%3Bhost", "host"),
        ("&X-Amz-Signature=", "&X-Amz-Signature=0"),
        ("/models/", "/other/"),
        ("?X-Amz", "?versionId=1&X-Amz"),
    ],
)
def test_tampered_url_is_refused(either: Visitor, old: str, new: str) -> None:
    grant = either.presign()
    grant["upload_url"] = grant["upload_url"].replace(old, new, 1)
    answer = either.put(grant, b"abc")

    assert answer.status_code == 403
    assert either.cloud.objects() == {}


def test_expired_url_is_refused(either: Visitor) -> None:
    either.cloud.skip(-901)
    grant = either.presign()
    either.cloud.skip(901)
    answer = either.put(grant, b"abc")

    assert (answer.status_code, code_of(answer)) == (403, "AccessDenied")
    assert "expired" in answer.text


def test_url_is_good_until_its_last_second(visitor: Visitor) -> None:
    grant = visitor.presign()
    visitor.cloud.skip(895)

    assert visitor.put(grant, b"abc").status_code == 200


def test_url_from_the_future_is_refused(visitor: Visitor) -> None:
    visitor.cloud.skip(1000)
    grant = visitor.presign()
    visitor.cloud.skip(-1000)

    assert visitor.put(grant, b"abc").status_code == 403


def test_authorization_beside_the_signature_is_refused(visitor: Visitor) -> None:
    answer = visitor.put(visitor.presign(), b"abc", Authorization="Bearer x")

    assert (answer.status_code, code_of(answer)) == (400, "InvalidArgument")


def test_unsigned_amz_header_is_refused(visitor: Visitor) -> None:
    answer = visitor.put(visitor.presign(), b"abc", **{"x-amz-meta-note": "1"})

    assert (answer.status_code, code_of(answer)) == (403, "AccessDenied")


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (411, "MissingContentLength")]
)
def test_chunked_body_is_refused(visitor: Visitor, status: int, code: str) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, chunked_status=status)
    url = visitor.presign()["upload_url"]
    answer = visitor.store.put(url, content=iter([b"abc"]), headers={"If-None-Match": "*"})

    assert (answer.status_code, code_of(answer)) == (status, code)


def test_body_that_misses_its_md5_is_refused(either: Visitor) -> None:
    grant = either.presign()
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    right = base64.b64encode(hashlib.md5(b"abc").digest()).decode()
    bad = either.put(grant, b"abc", **{"Content-MD5": wrong})

    assert (bad.status_code, code_of(bad)) == (400, "BadDigest")
    assert either.cloud.objects() == {}
    assert either.put(grant, b"abc", **{"Content-MD5": right}).status_code == 200


def test_body_cut_short_leaves_nothing(visitor: Visitor) -> None:
    cloud = visitor.cloud
    grant = visitor.presign(size=len(BODY))
    with _connected(grant) as sock:
        sock.sendall(_head(grant) + BODY[:300_000])
    _eventually(lambda: cloud.history.count("put_body") == 1)

    (entry,) = cloud.history.entries("put_body")
    assert (entry.status, entry.answered, entry.lost) == (None, None, True)
    assert cloud.objects() == {}
    assert visitor.put(grant, BODY).status_code == 200


def test_own_store_keeps_no_file_of_a_refused_body(visitor: Visitor, tmp_path: Any) -> None:
    visitor.put(visitor.presign(), b"abc", **{"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="})

    assert list((tmp_path / "cloud" / "objects").iterdir()) == []


def test_refusal_comes_before_the_body(visitor: Visitor) -> None:
    grant = visitor.presign(size=len(BODY))
    good(visitor.put(grant, BODY))
    tampered = {**grant, "upload_url": grant["upload_url"][:-1]}
    answers = []
    for refused in (grant, tampered):
        with _connected(refused) as sock:
            sock.sendall(_head(refused, "Expect: 100-continue"))
            answers.append(sock.recv(65536)[:13])

    assert answers == [b"HTTP/1.1 412 ", b"HTTP/1.1 403 "]


def test_slower_of_two_puts_at_once_is_answered_412(visitor: Visitor) -> None:
    grant = visitor.presign(size=len(BODY))
    with _connected(grant) as sock:
        sock.sendall(_head(grant, "Expect: 100-continue"))
        going = sock.recv(65536)
        faster = visitor.put(grant, BODY)
        sock.sendall(bytes(len(BODY)))
        answer = sock.recv(65536)

    assert going.startswith(b"HTTP/1.1 100 ")
    assert faster.status_code == 200
    assert answer.startswith(b"HTTP/1.1 412 ")
    stored = visitor.cloud.stored_sha256(grant["storage_key"])
    assert stored == hashlib.sha256(BODY).hexdigest()


def test_body_without_a_length_is_refused(visitor: Visitor) -> None:
    grant = visitor.presign()
    grant["upload_headers"] = {}
    with _connected(grant) as sock:
        sock.sendall(_head(grant))
        answer = sock.recv(65536)

    assert answer.startswith(b"HTTP/1.1 411 ")


def test_other_bucket_is_unknown(visitor: Visitor) -> None:
    grant = visitor.presign()
    grant["upload_url"] = grant["upload_url"].replace("/sandbox-models/", "/other/")

    assert visitor.put(grant, b"abc").status_code in (403, 404)


def test_body_above_the_cap_is_refused_by_the_store(visitor: Visitor) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, single_put_cap=2, cap_at=Cap.STORE)
    answer = visitor.put(visitor.presign(), b"abc")

    assert (answer.status_code, code_of(answer)) == (400, "EntityTooLarge")


def test_objects_are_only_put(visitor: Visitor) -> None:
    grant = visitor.presign()
    good(visitor.put(grant, b"abc"))

    assert visitor.store.get(grant["upload_url"]).status_code == 405


def test_store_and_api_have_different_origins(cloud: Sandbox) -> None:
    with Visitor(cloud) as visitor:
        store = urlsplit(visitor.presign()["upload_url"]).netloc

    assert store != urlsplit(cloud.base_url).netloc


def _connected(grant: dict[str, Any]) -> socket.socket:
    host, port = urlsplit(grant["upload_url"]).netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def _head(grant: dict[str, Any], *more: str) -> bytes:
    url = urlsplit(grant["upload_url"])
    named = [f"{name}: {value}" for name, value in grant["upload_headers"].items()]
    lines = [f"PUT {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}", *named, *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)
