"""Field rules of the request bodies, and what the catalog makes of a record."""

from typing import Any

import pytest

from tests.visitor import Visitor, good

WRONG_PRESIGN: list[tuple[str, Any]] = [
    ("file_name", ""),
    ("file_name", "a/b.pt"),
    ("file_name", "x" * 256),
    ("file_name", 7),
    ("file_size", 0),
    ("file_size", -1),
    ("file_size", 1.5),
    ("file_size", "3"),
    ("file_size", True),
    ("model_type", ""),
    ("model_type", "x" * 51),
    ("model_type", None),
    ("model_path", "/models/loras/a.pt"),
    ("model_path", "models/loras/a..b.pt"),
    ("model_path", "models\\loras\\a.pt"),
    ("model_path", "models/loras/a (1).pt"),
    ("model_path", "models/loras/é.pt"),
    ("model_path", "models/loras/a.pt\n"),
    ("model_path", "models//a.pt"),
    ("model_path", "models/./a.pt"),
    ("model_path", "models/loras/ a.pt"),
    ("model_path", "models/loras/" + "x" * 256),
    ("model_path", ""),
    ("unheard_of", 1),
]
WRONG_REGISTER: list[tuple[str, Any]] = [
    ("display_name", ""),
    ("display_name", "x" * 256),
    ("file_hash", "0" * 64),
    ("file_hash", "sha256:" + "A" * 64),
    ("file_hash", "sha256:" + "0" * 63),
    ("file_hash", "md5:" + "0" * 64),
    ("storage_key", ""),
    ("file_size", 4),
    ("model_path", "models/loras/other.safetensors"),
    ("model_type", "vae"),
    ("model_status", "active"),
]


@pytest.mark.parametrize(("member", "value"), WRONG_PRESIGN)
def test_presign_refuses_a_wrong_member_by_name(visitor: Visitor, member: str, value: Any) -> None:
    answer = visitor.ask_presign(**{member: value})

    assert answer.status_code == 422
    assert member in answer.json()["error_message"]


@pytest.mark.parametrize("member", ["file_name", "file_size", "model_type", "model_path"])
def test_presign_wants_every_member(visitor: Visitor, member: str) -> None:
    said = {"file_name": "a", "file_size": 1, "model_type": "t", "model_path": "models/t/a"}
    del said[member]

    assert visitor.post("/models/presign", **said).status_code == 422


@pytest.mark.parametrize(
    "path", ["models/loras/a b.pt", "models/t/sub/x_1.0-final.gguf", "loras/" + "x" * 255]
)
def test_presign_takes_what_the_pattern_takes(visitor: Visitor, path: str) -> None:
    assert visitor.ask_presign(path).status_code == 200


@pytest.mark.parametrize(("member", "value"), WRONG_REGISTER)
def test_register_refuses_what_does_not_fit(visitor: Visitor, member: str, value: Any) -> None:
    key = visitor.store_bytes()
    answer = visitor.ask_register(key, **{member: value})

    assert answer.status_code == 422
    assert member in answer.json()["error_message"]
    assert visitor.cloud.records() == []


def test_register_without_an_object_is_answered_404(visitor: Visitor) -> None:
    presigned = visitor.presign()["storage_key"]

    assert visitor.ask_register(presigned).status_code == 404
    assert visitor.ask_register("models/never/issued").status_code == 404


def test_second_register_of_a_storage_key_is_answered_409(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    statuses = [visitor.ask_register(key).status_code for _ in range(2)]

    assert statuses == [201, 409]
    assert len(visitor.cloud.records()) == 1


def test_body_that_is_no_json_object_is_answered_400(visitor: Visitor) -> None:
    json_type = {"Content-Type": "application/json"}
    bodies = [b"", b"{", b"[]", b"\xff"]
    statuses = [
        visitor.api.post("/models/presign", content=body, headers=json_type).status_code
        for body in bodies
    ]

    assert statuses == [400] * 4


def test_body_of_another_content_type_is_answered_415(visitor: Visitor) -> None:
    assert visitor.api.post("/models/presign", content=b"{}").status_code == 415


def test_record_is_read_changed_and_deleted(visitor: Visitor) -> None:
    record_id = visitor.upload(b"abc")
    before = good(visitor.api.get(f"/models/{record_id}"))
    change = visitor.api.put(f"/models/{record_id}", json={"model_status": "disabled"})
    after = good(visitor.api.get(f"/models/{record_id}"))
    deleted = visitor.api.delete(f"/models/{record_id}").status_code

    assert before["model_status"] == "active"
    assert good(change) == {"id": record_id}
    assert after == {**before, "model_status": "disabled", "updated_at": after["updated_at"]}
    assert deleted == 204
    assert visitor.api.get(f"/models/{record_id}").status_code == 404
    assert len(visitor.cloud.objects()) == 1


@pytest.mark.parametrize(
    "change", [{}, {"file_size": 1}, {"model_status": "gone"}, {"model_path": "/x"}]
)
def test_update_refuses_what_cannot_be_changed(visitor: Visitor, change: dict[str, object]) -> None:
    record_id = visitor.upload()

    assert visitor.api.put(f"/models/{record_id}", json=change).status_code == 422


def test_listing_is_paged(visitor: Visitor) -> None:
    ids = [visitor.upload(path=f"models/loras/{n}.pt") for n in range(3)]
    pages = [
        good(visitor.api.get("/models", params={"current_page": page, "per_page": 2}))
        for page in (1, 2, 3)
    ]

    assert [[item["id"] for item in page["model_list"]] for page in pages] == [ids[:2], ids[2:], []]
    assert pages[1]["page_meta"] == {"current_page": 2, "per_page": 2, "total_count": 3}


@pytest.mark.parametrize(
    ("query", "status"),
    [("per_page=101", 422), ("per_page=0", 422), ("current_page=0", 422), ("q=a", 400)],
)
def test_listing_refuses_other_queries(visitor: Visitor, query: str, status: int) -> None:
    assert visitor.api.get(f"/models?{query}").status_code == status
