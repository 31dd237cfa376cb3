"""Multipart uploads, on the sandbox's own store and on a real S3 server."""

import hashlib
from dataclasses import replace

import pytest

from tests.visitor import Visitor, code_of, good

MIB = 1024 * 1024
BODY = b"".join(bytes([n]) * MIB for n in range(11))
"""Two parts of 5 MiB and one of 1 MiB."""


def test_parts_become_one_object_that_can_be_registered(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    done = either.complete(upload, either.put_parts(upload, BODY))
    registered = either.ask_register(upload["storage_key"], BODY)

    assert (upload["part_size"], upload["part_count"]) == (5 * MIB, 3)
    assert (done.status_code, registered.status_code) == (200, 201)
    stored = either.cloud.stored_sha256(upload["storage_key"])
    assert stored == hashlib.sha256(BODY).hexdigest()
    assert either.cloud.open_uploads() == ()


def test_part_sent_again_replaces_the_first(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    good(either.put(either.sign_part(upload, 1), b"\0" * 5 * MIB))
    done = either.complete(upload, either.put_parts(upload, BODY))

    assert done.status_code == 200
    stored = either.cloud.stored_sha256(upload["storage_key"])
    assert stored == hashlib.sha256(BODY).hexdigest()


def test_complete_refuses_a_part_with_another_etag(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    parts = either.put_parts(upload, BODY)
    parts[1]["etag"] = f'"{"0" * 32}"'

    assert either.complete(upload, parts).status_code == 400
    assert either.cloud.objects() == {}


def test_complete_refuses_a_part_that_was_never_sent(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    sent = either.put(either.sign_part(upload, 1), BODY[: 5 * MIB])
    parts = [{"part_number": n, "etag": sent.headers["etag"]} for n in (1, 2)]

    assert either.complete(upload, parts).status_code == 400


def test_complete_refuses_parts_out_of_order(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    parts = either.put_parts(upload, BODY)

    assert either.complete(upload, parts[::-1]).status_code == 400
    assert either.complete(upload, parts).status_code == 200
    entries = either.cloud.history.entries("complete")
    assert [entry.error for entry in entries] == ["InvalidPartOrder", None]


def test_complete_refuses_a_small_part_that_is_not_the_last(visitor: Visitor) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, part_size=MIB)
    upload = visitor.initiate(2 * MIB)
    parts = visitor.put_parts(upload, BODY[: 2 * MIB])
    refused = visitor.complete(upload, parts)
    visitor.cloud.switches = replace(visitor.cloud.switches, min_part_size=MIB)
    allowed = visitor.complete(upload, parts)

    assert (refused.status_code, allowed.status_code) == (400, 200)
    entries = visitor.cloud.history.entries("complete")
    assert [entry.error for entry in entries] == ["EntityTooSmall", None]


def test_aborted_upload_is_gone(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    grant = either.sign_part(upload, 1)
    good(either.put(grant, BODY[: 5 * MIB]))
    aborted = either.abort(upload)
    late = either.put(grant, BODY[: 5 * MIB])

    assert aborted.status_code == 204
    assert (late.status_code, code_of(late)) == (404, "NoSuchUpload")
    assert either.abort(upload).status_code == 404
    assert either.complete(upload, [{"part_number": 1, "etag": "x"}]).status_code == 404
    assert either.cloud.open_uploads() == ()


@pytest.mark.parametrize("status", [200, 404])
def test_second_complete_is_answered_as_the_switch_says(either: Visitor, status: int) -> None:
    either.cloud.switches = replace(either.cloud.switches, second_complete=status)
    upload = either.initiate(len(BODY))
    parts = either.put_parts(upload, BODY)

    assert either.complete(upload, parts).status_code == 200
    assert either.complete(upload, parts).status_code == status


def test_second_complete_goes_either_way_by_seed(visitor: Visitor) -> None:
    upload = visitor.initiate(3)
    parts = visitor.put_parts(upload, b"abc")
    good(visitor.complete(upload, parts))
    statuses = {visitor.complete(upload, parts).status_code for _ in range(30)}

    assert statuses == {200, 404}


def test_part_of_another_length_than_signed_is_refused(either: Visitor) -> None:
    grant = either.sign_part(either.initiate(len(BODY)), 3)
    answer = either.store.put(grant["upload_url"], content=b"short")

    assert (answer.status_code, code_of(answer)) == (403, "SignatureDoesNotMatch")


def test_part_number_beyond_the_last_is_refused(visitor: Visitor) -> None:
    upload = visitor.initiate(len(BODY))
    named = {"storage_key": upload["storage_key"], "upload_id": upload["upload_id"]}
    answer = visitor.post("/uploads/multipart/presign", **named, part_number=4)

    assert answer.status_code == 422


def test_initiate_wants_a_presigned_key_and_its_size(visitor: Visitor) -> None:
    key = visitor.presign(size=100)["storage_key"]
    path = "/uploads/multipart/initiate"
    unknown = visitor.post(path, storage_key="models/other", file_size=100)
    other = visitor.post(path, storage_key=key, file_size=101)

    assert (unknown.status_code, other.status_code) == (404, 422)


def test_own_store_answers_the_etag_that_s3_would(visitor: Visitor) -> None:
    upload = visitor.initiate(len(BODY))
    etags = [part["etag"] for part in visitor.put_parts(upload, BODY)]
    pieces = (BODY[: 5 * MIB], BODY[5 * MIB : 10 * MIB], BODY[10 * MIB :])

    assert etags == [f'"{hashlib.md5(piece).hexdigest()}"' for piece in pieces]
