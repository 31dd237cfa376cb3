"""Each open question of the contract can be answered either way."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Cap, MultipartPaths, Switches, Unique
from tests.visitor import Visitor, code_of, good

A, UPPER_A = "models/loras/a.safetensors", "models/loras/A.safetensors"


@pytest.fixture
def device(cloud: Sandbox) -> Iterator[Visitor]:
    """Somebody with a device key only."""
    with Visitor(cloud, cloud.device_key) as somebody:
        yield somebody


def turn(visitor: Visitor, **switches: Any) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, **switches)


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_listing_update_and_delete_can_be_missing(visitor: Visitor, status: int) -> None:
    one = f"/models/{visitor.upload()}"
    turn(visitor, listing_off=status, update_off=status, delete_off=status)
    answers = [
        visitor.api.get("/models"),
        visitor.api.put(one, json={"display_name": "b"}),
        visitor.api.delete(one),
    ]

    assert [answer.status_code for answer in answers] == [status] * 3
    assert visitor.api.get(one).status_code == 200


def test_listing_can_have_another_member_and_shorter_items(visitor: Visitor) -> None:
    record_id = visitor.upload()
    turn(visitor, list_member="models", list_omits=("storage_key", "file_hash"))
    page = good(visitor.api.get("/models"))
    (item,) = page["models"]

    assert item["id"] == record_id
    assert item.keys() & {"storage_key", "file_hash"} == set()


def test_agents_can_be_connected_or_not_be_told_of(visitor: Visitor) -> None:
    turn(visitor, agents=3)
    page = good(visitor.api.get("/agents?per_page=2"))
    turn(visitor, agents_off=404)

    assert (len(page["agent_list"]), page["page_meta"]["total_count"]) == (2, 3)
    assert visitor.api.get("/agents").status_code == 404


def test_update_can_be_patch_only(visitor: Visitor) -> None:
    one = f"/models/{visitor.upload()}"
    change = {"display_name": "b"}
    before = [visitor.api.request(m, one, json=change).status_code for m in ("PUT", "PATCH")]
    turn(visitor, update_method="PATCH")
    after = [visitor.api.request(m, one, json=change).status_code for m in ("PUT", "PATCH")]

    assert (before, after) == ([200, 405], [405, 200])


def test_delete_can_take_the_object_with_it(either: Visitor) -> None:
    one = f"/models/{either.upload()}"
    turn(either, delete_removes_object=True)
    good(either.api.delete(one))

    assert either.cloud.objects() == {}


@pytest.mark.parametrize("status", [403, 404, 405])
def test_multipart_can_be_missing(visitor: Visitor, status: int) -> None:
    key = visitor.presign()["storage_key"]
    turn(visitor, multipart_off=status)
    answer = visitor.post("/uploads/multipart/initiate", storage_key=key, file_size=3)

    assert answer.status_code == status


def test_multipart_calls_can_have_other_paths() -> None:
    paths = MultipartPaths(sign_part="/uploads/multipart/part-url")
    with (
        Sandbox(switches=Switches(multipart_paths=paths)) as cloud,
        Visitor(cloud) as visitor,
    ):
        upload = visitor.initiate(3)
        said = {k: upload[k] for k in ("storage_key", "upload_id")}
        usual = visitor.post("/uploads/multipart/presign", **said, part_number=1)
        moved = visitor.post(paths.sign_part, **said, part_number=1)

    assert (usual.status_code, moved.status_code) == (404, 200)
    assert cloud.history.count("unknown") == 1


def test_device_key_can_be_let_into_multipart(device: Visitor) -> None:
    turn(device, device_key_multipart=True)

    assert device.initiate(3)["part_count"] == 1


def test_part_length_can_be_left_unsigned(either: Visitor) -> None:
    turn(either, sign_part_length=False)
    grant = either.sign_part(either.initiate(3), 1)

    assert grant["upload_headers"] == {}
    assert either.put(grant, b"xy").status_code == 200


def test_cap_can_be_enforced_at_presign_for_device_keys(device: Visitor, visitor: Visitor) -> None:
    turn(device, single_put_cap=2, cap_at=Cap.PRESIGN)

    assert device.ask_presign().status_code == 413
    assert device.ask_presign(file_size=2).status_code == 200
    assert visitor.ask_presign().status_code == 200


def test_cap_can_be_enforced_at_register_where_multipart_passes(visitor: Visitor) -> None:
    turn(visitor, single_put_cap=2, cap_at=Cap.REGISTER)
    single = visitor.store_bytes()
    upload = visitor.initiate(3)
    good(visitor.complete(upload, visitor.put_parts(upload, b"abc")))

    assert visitor.ask_register(single).status_code == 413
    assert visitor.ask_register(upload["storage_key"]).status_code == 201


def test_cap_can_be_enforced_nowhere(visitor: Visitor) -> None:
    turn(visitor, single_put_cap=2, cap_at=Cap.NOWHERE)

    assert visitor.upload(b"abc")


def test_storage_key_can_be_the_same_at_every_presign(either: Visitor) -> None:
    fresh = {either.presign()["storage_key"] for _ in range(2)}
    turn(either, fresh_keys=False)
    fixed = [either.presign(), either.presign(), either.presign("models/loras/b.pt")]
    keys = [grant["storage_key"] for grant in fixed]
    first, second = (either.put(grant, b"abc") for grant in fixed[:2])

    assert len(fresh) == 2
    assert keys[0] == keys[1] != keys[2]
    assert (first.status_code, second.status_code) == (200, 412)


def test_conditional_put_can_be_missing(either: Visitor) -> None:
    turn(either, if_none_match=False)
    grant = either.presign()

    assert set(grant["upload_headers"]) == {"Content-Length"}
    assert [either.put(grant, body).status_code for body in (b"abc", b"xyz")] == [200, 200]
    stored = either.cloud.stored_sha256(grant["storage_key"])
    assert stored == hashlib.sha256(b"xyz").hexdigest()


def test_url_lifetime_can_be_set(visitor: Visitor) -> None:
    turn(visitor, url_lifetime_s=10)
    grant = visitor.presign()
    visitor.cloud.skip(12)

    assert "X-Amz-Expires=10&" in grant["upload_url"]
    assert code_of(visitor.put(grant, b"abc")) == "AccessDenied"


def test_urls_can_say_nothing_of_their_deadline(visitor: Visitor) -> None:
    turn(visitor, opaque_urls=True)
    upload = visitor.initiate(3)
    part = visitor.sign_part(upload, 1)
    good(visitor.complete(upload, visitor.put_parts(upload, b"abc")))
    late = visitor.presign()
    visitor.cloud.skip(901)

    assert "X-Amz" not in part["upload_url"] + late["upload_url"]
    assert visitor.put(late, b"abc").status_code == 403


@pytest.mark.parametrize(
    ("unique", "same", "other_case"),
    [(Unique.NO, 201, 201), (Unique.EXACT, 409, 201), (Unique.IGNORING_CASE, 409, 409)],
)
def test_second_record_of_a_path_can_be_refused(
    visitor: Visitor, unique: Unique, same: int, other_case: int
) -> None:
    turn(visitor, unique_paths=unique)
    visitor.upload(path=A)
    keys = {path: visitor.store_bytes(b"xyz", path) for path in (A, UPPER_A)}
    got = [visitor.ask_register(keys[p], b"xyz", model_path=p).status_code for p in (A, UPPER_A)]

    assert got == [same, other_case]


def test_disabled_record_can_free_its_path_or_hold_it(visitor: Visitor) -> None:
    turn(visitor, unique_paths=Unique.EXACT)
    first = visitor.upload()
    good(visitor.api.put(f"/models/{first}", json={"model_status": "disabled"}))
    key = visitor.store_bytes(b"xyz")
    turn(visitor, disabled_records_clash=True)
    held = visitor.ask_register(key, b"xyz").status_code
    turn(visitor, disabled_records_clash=False)
    freed = visitor.ask_register(key, b"xyz").status_code
    enabled = visitor.api.put(f"/models/{first}", json={"model_status": "active"}).status_code

    assert (held, freed, enabled) == (409, 201, 409)


def test_record_does_not_clash_with_itself(visitor: Visitor) -> None:
    turn(visitor, unique_paths=Unique.IGNORING_CASE)
    one = f"/models/{visitor.upload()}"

    assert visitor.api.put(one, json={"model_path": UPPER_A}).status_code == 200


def test_taken_path_can_be_refused_at_presign(visitor: Visitor) -> None:
    turn(visitor, unique_paths=Unique.EXACT, clash_at_presign=True)
    visitor.upload()

    assert visitor.ask_presign().status_code == 409


def test_register_can_be_repeatable(visitor: Visitor) -> None:
    turn(visitor, register_repeats=True)
    key = visitor.store_bytes()

    assert [visitor.ask_register(key).status_code for _ in range(2)] == [201, 201]


def test_access_token_lifetime_can_be_set(visitor: Visitor) -> None:
    turn(visitor, access_token_lifetime_s=60)
    pair = good(visitor.post("/auth/refresh", refresh_token=visitor.cloud.refresh_token))
    visitor.cloud.skip(61)
    visitor.api.headers["Authorization"] = f"Bearer {pair['access_token']}"

    assert pair["expires_in"] == 60
    assert visitor.api.get("/users/me").status_code == 401


def test_switches_are_read_from_plain_values() -> None:
    read = Switches.of(
        {
            "listing_off": 404,
            "cap_at": "presign",
            "list_omits": ["file_hash"],
            "multipart_paths": {"abort": "/x"},
            "fresh_keys": False,
        }
    )

    assert read == Switches(
        listing_off=404,
        cap_at=Cap.PRESIGN,
        list_omits=("file_hash",),
        multipart_paths=MultipartPaths(abort="/x"),
        fresh_keys=False,
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"listing": 404}, "listing"),
        ({"listing_off": "404"}, "listing_off"),
        ({"fresh_keys": 0}, "fresh_keys"),
        ({"cap_at": "moon"}, "moon"),
    ],
)
def test_unknown_or_unfit_switch_is_an_error(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Switches.of(values)
