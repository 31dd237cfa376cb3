"""What the history tells, and the inspection routes."""

import hashlib

from syncd.sandbox.history import Entry, History
from syncd.sandbox.server import Sandbox
from tests.visitor import Visitor, good

FULL_WAY = ["presign", "put_body", "register"]


def test_history_tells_the_whole_way_of_a_file(visitor: Visitor) -> None:
    record_id = visitor.upload(b"abc", "models/loras/a.pt")
    presign, put, register = visitor.cloud.history.entries()
    digest = hashlib.sha256(b"abc").hexdigest()

    assert [entry.call for entry in (presign, put, register)] == FULL_WAY
    assert [entry.seq for entry in (presign, put, register)] == [1, 2, 3]
    assert [entry.status for entry in (presign, put, register)] == [200, 200, 201]
    assert [entry.who for entry in (presign, put, register)] == ["session", "presigned", "session"]
    assert {e.model_path for e in (presign, put, register)} == {"models/loras/a.pt"}
    assert {e.storage_key for e in (presign, put, register)} == set(visitor.cloud.objects())
    assert {e.size for e in (presign, put, register)} == {3}
    assert (put.sha256, register.file_hash) == (digest, f"sha256:{digest}")
    assert register.record_id == record_id


def test_history_tells_parts(visitor: Visitor) -> None:
    upload = visitor.initiate(3)
    good(visitor.complete(upload, visitor.put_parts(upload, b"abc")))
    entries = visitor.cloud.history.entries("initiate", "sign_part", "put_part", "complete")

    assert [e.call for e in entries] == ["initiate", "sign_part", "put_part", "complete"]
    assert {e.upload_id for e in entries} == {upload["upload_id"]}
    assert [e.part for e in entries] == [None, 1, 1, None]


def test_history_tells_refusals_and_unknown_routes(visitor: Visitor) -> None:
    visitor.post("/models/presign", file_size=-1)
    visitor.api.get("/nothing/here")
    presign, unknown = visitor.cloud.history.entries()

    assert (presign.status, presign.size) == (422, -1)
    assert presign.error is not None
    assert (unknown.call, unknown.path, unknown.status) == ("unknown", "/api/v1/nothing/here", 404)


def test_history_names_the_headers_and_keeps_no_secret(visitor: Visitor) -> None:
    visitor.upload()
    presign, put, _ = visitor.cloud.history.entries()
    told = repr(visitor.cloud.history.entries())

    assert "authorization" in presign.header_names
    assert "authorization" not in put.header_names
    assert "if-none-match" in put.header_names
    assert visitor.cloud.session_token not in told
    assert "X-Amz-Signature" not in told


def test_history_forgets_the_oldest_beyond_its_limit() -> None:
    heard: list[int] = []
    history = History(lambda entry: heard.append(entry.seq), limit=3)
    for _ in range(5):
        history.add(Entry(history.next_seq(), 0, "me", "GET", "/users/me", ()))

    assert [entry.seq for entry in history.entries()] == [3, 4, 5]
    assert heard == [1, 2, 3, 4, 5]


def test_digests_of_bodies_can_be_switched_off() -> None:
    with Sandbox(digest_bodies=False) as cloud, Visitor(cloud) as visitor:
        answers = [visitor.put(visitor.presign(), b"abc") for _ in range(2)]
        upload = visitor.initiate(3)
        completed = visitor.complete(upload, visitor.put_parts(upload, b"abc"))

        assert {entry.sha256 for entry in cloud.history.entries("put_body")} == {None}
        assert answers[0].headers["etag"] != answers[1].headers["etag"]
        assert completed.status_code == 200
        digests = {cloud.stored_sha256(key) for key in cloud.objects()}
        assert digests == {hashlib.sha256(b"abc").hexdigest()}


def test_inspection_shows_history_records_and_objects(visitor: Visitor) -> None:
    record_id = visitor.upload(b"abc")
    (key,) = visitor.cloud.objects()
    origin = visitor.cloud.base_url.removesuffix("/api/v1") + "/_sandbox"
    history = good(visitor.store.get(f"{origin}/history"))
    later = good(visitor.store.get(f"{origin}/history?after=2"))
    digest = hashlib.sha256(b"abc").hexdigest()

    assert [entry["call"] for entry in history] == FULL_WAY
    assert [entry["call"] for entry in later] == ["register"]
    assert good(visitor.store.get(f"{origin}/records"))[0]["id"] == record_id
    assert good(visitor.store.get(f"{origin}/objects")) == [{"storage_key": key, "size": 3}]
    one = good(visitor.store.get(f"{origin}/objects/{key}"))
    assert one == {"storage_key": key, "size": 3, "sha256": digest}
    assert visitor.store.get(f"{origin}/objects/other").status_code == 404


def test_same_seed_gives_the_same_history() -> None:
    def told(seed: int) -> list[tuple[object, ...]]:
        with Sandbox(seed=seed) as cloud, Visitor(cloud) as visitor:
            visitor.upload()
            upload = visitor.initiate(3)
            good(visitor.complete(upload, visitor.put_parts(upload, b"abc")))
            entries = cloud.history.entries()
        return [(e.call, e.status, e.storage_key, e.upload_id, e.record_id) for e in entries]

    assert told(1) == told(1) != told(2)
