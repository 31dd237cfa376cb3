"""The stand-in cloud: ``syncd sandbox``, and how honest it is about what a real cloud refuses."""

import base64
import calendar
import hashlib
import json
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.sandbox.sigv4 import Keys, presign
from syncd.sandbox.switches import MultipartPaths, Switches, Unique
from tests.integration.harness import MIB
from tests.s3 import sign_headers
from tests.visitor import Visitor, code_of, good

COMMAND = [sys.executable, "-c", "from syncd.cli.sandbox import sandbox; sandbox()"]
BODY = b"".join(bytes([n]) * MIB for n in range(11))
"""Two parts of 5 MiB and one of 1 MiB."""

MODEL = "/models/00000000-0000-0000-0000-000000000000"


def turn(visitor: Visitor, **switches: Any) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, **switches)


def inject(visitor: Visitor, fault: Fault, call: str | None = None, **more: Any) -> None:
    visitor.cloud.faults.add(Rule(fault, call, **more))


# -- the command -----------------------------------------------------------------------------------


def test_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    given = ["--dir", str(tmp_path), "--json", "--switch", "listing_off=405", "--seed", "3"]
    fault = ["--fault", '{"fault": "answer", "call": "agents", "status": 502}']
    with subprocess.Popen(
        [*COMMAND, *given, *fault], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        access = json.loads(process.stdout.readline())
        with httpx.Client(base_url=access["base_url"], trust_env=False, verify=False) as client:
            client.headers["Authorization"] = f"Bearer {access['device_key']}"
            statuses = [
                client.get(path).status_code for path in ("/users/me", "/models", "/agents")
            ]
        lines = [json.loads(process.stdout.readline())["call"] for _ in statuses]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)

    assert statuses == [200, 405, 502]
    assert lines == ["me", "list_models", "agents"]
    assert (process.returncode, rest, errors) == (0, "", "")


def test_command_shows_a_line_a_request_to_a_person() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "\n")  # what a client needs, then an empty one
        access = dict(line.split(maxsplit=1) for line in lines)
        httpx.get(f"{access['base_url'].strip()}/users/me", trust_env=False, verify=False)
        line = process.stdout.readline()
        process.terminate()
        process.communicate(timeout=60)

    assert line.split()[1:4] == ["401", "me", "/api/v1/users/me"]
    assert process.returncode == 0


def test_stopped_sandbox_leaves_no_port_and_no_file_outside_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Sandbox(tmp_path / "cloud") as cloud, Visitor(cloud) as visitor:
        visitor.upload(b"abc")
        port = urlsplit(cloud.base_url).port or 0
        with pytest.raises(OSError, match="in use"):
            Sandbox(port=port).__enter__()

    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.parent == tmp_path / "cloud" / "objects"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=60)


# -- credentials -----------------------------------------------------------------------------------

# The status of an empty request with a session, dk-, sk-, ak- and no credential. 404 and 422 say
# that the credential was accepted.
MATRIX = [
    ("GET", "/users/me", 200, 200, 403, 403, 401),
    ("GET", "/agents", 200, 200, 403, 403, 401),
    ("POST", "/models/presign", 422, 422, 403, 403, 401),
    ("POST", "/models", 422, 422, 403, 403, 401),
    ("GET", "/models", 200, 200, 403, 403, 401),
    ("GET", MODEL, 404, 404, 403, 403, 401),
    ("PUT", MODEL, 404, 404, 403, 403, 401),
    ("DELETE", MODEL, 404, 404, 403, 403, 401),
    ("POST", "/uploads/multipart/initiate", 422, 403, 403, 403, 401),
    ("POST", "/uploads/multipart/abort", 422, 403, 403, 403, 401),
    ("POST", "/desktop/pair/confirm", 422, 403, 403, 403, 401),
    ("POST", "/auth/device/revoke", 403, 204, 403, 403, 401),
]


@pytest.mark.parametrize(("method", "path", "session", "device", "sk", "ak", "nobody"), MATRIX)
def test_every_endpoint_takes_the_credentials_of_the_contract_and_no_other(
    visitor: Visitor,
    method: str,
    path: str,
    session: int,
    device: int,
    sk: int,
    ak: int,
    nobody: int,
) -> None:
    accounts = visitor.cloud._accounts
    keys = [accounts.device_key, accounts.integration_key, accounts.agent_key]
    got = []
    for token in (visitor.cloud.session_token, *keys, "dk-unknown"):
        visitor.api.headers["Authorization"] = f"Bearer {token}"
        body: dict[str, str] | None = {} if method in ("POST", "PUT") else None
        got.append(visitor.api.request(method, path, json=body).status_code)

    assert got == [session, device, sk, ak, nobody]


def test_session_needs_a_team_of_its_user_and_a_role_that_may_write(visitor: Visitor) -> None:
    turn(visitor, role="viewer")
    viewer = visitor.ask_presign().status_code, visitor.api.get("/models").status_code
    visitor.api.headers["X-Team-ID"] = visitor.cloud.foreign_team_id
    foreign = visitor.api.get("/models").status_code
    del visitor.api.headers["X-Team-ID"]
    none = visitor.api.get("/models").status_code, visitor.api.get("/users/me").status_code

    assert (viewer, foreign, none) == ((403, 200), 403, (400, 200))


def test_session_expires_and_its_refresh_token_is_good_for_one_use(visitor: Visitor) -> None:
    cloud = visitor.cloud
    said = {"email_address": cloud.email, "user_password": cloud.password}
    pair = good(visitor.post("/auth/login", **said))
    wrong = visitor.post("/auth/login", **{**said, "user_password": "wrong"}).status_code
    cloud.skip(pair["expires_in"] + 1)
    expired = visitor.api.get("/users/me").status_code
    first = visitor.post("/auth/refresh", refresh_token=pair["refresh_token"])
    again = visitor.post("/auth/refresh", refresh_token=pair["refresh_token"])
    visitor.api.headers["Authorization"] = f"Bearer {good(first)['access_token']}"

    assert (pair["expires_in"], wrong, expired, again.status_code) == (3600, 401, 401, 401)
    assert visitor.api.get("/users/me").status_code == 200


def test_pairing_hands_over_a_device_key_once(visitor: Visitor) -> None:
    start = good(visitor.api.post("/desktop/pair/start"))
    code = start["device_code"]
    pending = good(visitor.post("/desktop/pair/poll", device_code=code))
    hurried = visitor.post("/desktop/pair/poll", device_code=code)
    page = visitor.store.get(start["verification_uri"])
    visitor.cloud.skip(start["interval"])
    approved = good(visitor.post("/desktop/pair/poll", device_code=code))
    collected = visitor.post("/desktop/pair/poll", device_code=code)

    assert pending == {"status": "pending"}
    assert (hurried.status_code, page.status_code, collected.status_code) == (429, 200, 404)
    assert visitor.post("/desktop/pair/confirm", user_code="AAAA-BBBB").status_code == 404
    with Visitor(visitor.cloud, approved["raw_key"]) as device:
        assert device.ask_presign().status_code == 200


# -- request bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("file_name", "a/b.pt"),
        ("file_name", "x" * 256),
        ("file_name", 7),
        ("file_size", 0),
        ("file_size", "3"),
        ("file_size", True),
        ("model_type", None),
        ("model_path", "/models/loras/a.pt"),
        ("model_path", "models/loras/a..b.pt"),
        ("model_path", "models\\loras\\a.pt"),
        ("model_path", "models/loras/a (1).pt"),
        ("model_path", "models/loras/é.pt"),
        ("model_path", "models/loras/a.pt\n"),
        ("model_path", "models//a.pt"),
        ("model_path", "models/loras/ a.pt"),
        ("model_path", "models/loras/" + "x" * 256),
        ("another", 1),
    ],
)
def test_presign_refuses_a_wrong_member_by_name(visitor: Visitor, member: str, value: Any) -> None:
    answer = visitor.ask_presign(**{member: value})

    assert answer.status_code == 422
    assert member in answer.json()["error_message"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("file_hash", "0" * 64),
        ("file_hash", "sha256:" + "A" * 64),
        ("file_size", 4),
        ("model_path", "models/loras/other.safetensors"),
        ("model_type", "vae"),
    ],
)
def test_register_refuses_what_is_not_what_was_presigned_and_stored(
    visitor: Visitor, member: str, value: Any
) -> None:
    answer = visitor.ask_register(visitor.store_bytes(), **{member: value})

    assert answer.status_code == 422
    assert member in answer.json()["error_message"]
    assert visitor.cloud.records() == []


def test_register_wants_an_object_and_takes_its_key_once(visitor: Visitor) -> None:
    early = visitor.ask_register(visitor.presign()["storage_key"])
    key = visitor.store_bytes()

    assert early.status_code == 404
    assert [visitor.ask_register(key).status_code for _ in range(2)] == [201, 409]


def test_record_is_listed_changed_and_deleted(visitor: Visitor) -> None:
    ids = [visitor.upload(path=f"models/loras/{n}.pt") for n in range(3)]
    one = f"/models/{ids[2]}"
    page = good(visitor.api.get("/models?current_page=2&per_page=2"))
    before = good(visitor.api.get(one))
    good(visitor.api.put(one, json={"model_status": "disabled"}))
    after = good(visitor.api.get(one))
    wrong = [visitor.api.put(one, json=c).status_code for c in ({}, {"model_status": "gone"})]
    good(visitor.api.delete(one))

    assert page["model_list"] == [before]
    assert page["page_meta"] == {"current_page": 2, "per_page": 2, "total_count": 3}
    assert after == {**before, "model_status": "disabled", "updated_at": after["updated_at"]}
    assert wrong == [422, 422]
    assert visitor.api.get(one).status_code == 404


# -- the object store ------------------------------------------------------------------------------


def test_put_stores_the_body_byte_for_byte_and_once(either: Visitor) -> None:
    grant = either.presign()
    first, again = either.put(grant, b"abc"), either.put(grant, b"xyz")

    assert first.headers["etag"] == f'"{hashlib.md5(b"abc").hexdigest()}"'
    assert (again.status_code, code_of(again)) == (412, "PreconditionFailed")
    assert either.cloud.objects() == {grant["storage_key"]: 3}
    assert either.cloud.stored_sha256(grant["storage_key"]) == hashlib.sha256(b"abc").hexdigest()


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

    assert either.put(grant, b"abc").status_code == 403
    assert either.cloud.objects() == {}


def test_expired_url_is_refused(either: Visitor) -> None:
    either.cloud.skip(-901)
    grant = either.presign()
    either.cloud.skip(901)
    answer = either.put(grant, b"abc")

    assert (answer.status_code, code_of(answer)) == (403, "AccessDenied")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Length": "4"}, 403, "SignatureDoesNotMatch"),
        ({"If-None-Match": ""}, 403, "SignatureDoesNotMatch"),
        ({"Authorization": "Bearer x"}, 400, "InvalidArgument"),
        ({"x-amz-meta-note": "1"}, 403, "AccessDenied"),
        ({"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, 400, "BadDigest"),
    ],
)
def test_put_with_other_headers_is_refused_and_leaves_no_file(
    visitor: Visitor, tmp_path: Path, headers: dict[str, str], status: int, code: str
) -> None:
    body = b"abcd" if "Content-Length" in headers else b"abc"
    answer = visitor.put(visitor.presign(), body, **headers)

    assert (answer.status_code, code_of(answer)) == (status, code)
    assert list((tmp_path / "cloud/objects").iterdir()) == []


def test_body_with_its_md5_is_accepted_and_one_above_the_cap_is_not(visitor: Visitor) -> None:
    md5 = base64.b64encode(hashlib.md5(b"abc").digest()).decode()
    good(visitor.put(visitor.presign(), b"abc", **{"Content-MD5": md5}))
    turn(visitor, single_put_cap=2)
    answer = visitor.put(visitor.presign(), b"abc")

    assert (answer.status_code, code_of(answer)) == (400, "EntityTooLarge")


def test_parts_become_one_object_and_a_second_complete_is_as_the_switch_says(
    either: Visitor,
) -> None:
    turn(either, second_complete=404)
    upload = either.initiate(len(BODY))
    good(either.put(either.sign_part(upload, 1), bytes(5 * MIB)))  # replaced by the next
    parts = either.put_parts(upload, BODY)
    wrong = [{**parts[0], "etag": f'"{"1" * 32}"'}, *parts[1:]]
    refused = [either.complete(upload, told).status_code for told in (wrong, parts[::-1])]
    done = [either.complete(upload, parts).status_code for _ in range(2)]

    assert (upload["part_size"], upload["part_count"]) == (5 * MIB, 3)
    assert (refused, done) == ([400, 400], [200, 404])
    stored = either.cloud.stored_sha256(upload["storage_key"])
    assert stored == hashlib.sha256(BODY).hexdigest()
    assert either.ask_register(upload["storage_key"], BODY).status_code == 201


def test_aborted_upload_is_gone(either: Visitor) -> None:
    upload = either.initiate(len(BODY))
    grant = either.sign_part(upload, 1)
    aborted = either.abort(upload).status_code
    late = either.put(grant, BODY[: 5 * MIB])

    assert (aborted, either.abort(upload).status_code) == (204, 404)
    assert (late.status_code, code_of(late)) == (404, "NoSuchUpload")
    assert either.cloud.open_uploads() == ()


# The worked examples of the Amazon S3 API Reference.
EXAMPLE_KEYS = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME_S = calendar.timegm((2013, 5, 24, 0, 0, 0))
EXAMPLE_URL = "https://examplebucket.s3.amazonaws.com"


def test_signatures_are_those_of_the_aws_documentation() -> None:
    url = presign(
        EXAMPLE_KEYS,
        "GET",
        f"{EXAMPLE_URL}/test.txt",
        at_s=EXAMPLE_TIME_S,
        expires_s=86400,
        headers={},
    )
    listed = sign_headers(
        EXAMPLE_KEYS, "GET", f"{EXAMPLE_URL}/?max-keys=2&prefix=J", at_s=EXAMPLE_TIME_S
    )

    assert url.endswith("=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
    assert listed["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "records"),
    [(Fault.RESET, 0), (Fault.LOST_ANSWER, 1), (Fault.TRUNCATED, 1), (Fault.CUT, 0)],
)
def test_broken_connection_leaves_the_effect_that_its_name_says(
    visitor: Visitor, fault: Fault, records: int
) -> None:
    key = visitor.store_bytes()
    inject(visitor, fault, "register", after_bytes=5)
    with pytest.raises(httpx.TransportError):
        visitor.ask_register(key)

    assert len(visitor.cloud.records()) == records
    assert visitor.cloud.history.entries("register")[0].lost


def test_cut_breaks_the_connection_within_the_body(visitor: Visitor) -> None:
    grant = visitor.presign(size=len(BODY))
    inject(visitor, Fault.CUT, "put_body", after_bytes=1_000_000)
    with pytest.raises(httpx.TransportError):
        visitor.put(grant, BODY)

    assert visitor.cloud.objects() == {}
    assert visitor.cloud.history.entries("put_body")[0].lost
    assert visitor.put(grant, BODY).status_code == 200


@pytest.mark.parametrize(
    ("fault", "more", "status", "headers", "body"),
    [
        (Fault.ANSWER, {"status": 429, "body": "slow"}, 429, {}, "slow"),
        (Fault.HTML, {}, 200, {"content-type": "text/html"}, None),
        (Fault.HUGE, {"after_bytes": 9}, 200, {}, " " * 9),
        (Fault.REDIRECT, {"location": "http://127.0.0.1:9/"}, 307, {"location": "http://127.0.0.1:9/"}, ""),
        (Fault.WRONG_ETAG, {}, 200, {"etag": f'"{"0" * 32}"'}, ""),
        (Fault.NO_ETAG, {}, 200, {"etag": None}, ""),
    ],
)  # fmt: skip
def test_answer_is_replaced(
    visitor: Visitor,
    fault: Fault,
    more: dict[str, Any],
    status: int,
    headers: dict[str, str | None],
    body: str | None,
) -> None:
    inject(visitor, fault, "put_body", **more)
    answer = visitor.put(visitor.presign(), b"abc")

    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in headers} == headers
    assert body in (answer.text, None)
    assert len(visitor.cloud.objects()) == (fault in (Fault.WRONG_ETAG, Fault.NO_ETAG))


def test_rule_hits_the_calls_that_it_names(visitor: Visitor) -> None:
    inject(visitor, Fault.ANSWER, "me", skip=1, count=2)
    inject(visitor, Fault.ANSWER, "put_body", contains="b.pt", count=None)
    turn(visitor, part_size=1)
    upload = visitor.initiate(3)
    inject(visitor, Fault.ANSWER, "put_part", part=2)
    grants = [visitor.presign(f"models/loras/{name}.pt") for name in "ab"]

    assert [visitor.api.get("/users/me").status_code for _ in range(4)] == [200, 503, 503, 200]
    assert [visitor.put(grant, b"abc").status_code for grant in grants] == [200, 503]
    parts = [visitor.put(visitor.sign_part(upload, n), b"x").status_code for n in (1, 2, 2)]
    assert parts == [200, 503, 200]


def test_same_seed_gives_the_same_history() -> None:
    def told(seed: int) -> list[tuple[object, ...]]:
        rule = Rule(Fault.ANSWER, "me", count=None, probability=0.5)
        with Sandbox(seed=seed, faults=[rule]) as cloud, Visitor(cloud) as visitor:
            visitor.upload()
            for _ in range(20):
                visitor.api.get("/users/me")
            return [
                (e.call, e.answered, e.storage_key, e.record_id) for e in cloud.history.entries()
            ]

    assert told(1) == told(1) != told(2)


def test_history_names_each_call_of_a_file_and_keeps_no_secret(visitor: Visitor) -> None:
    record_id = visitor.upload(b"abc", "models/loras/a.pt")
    visitor.api.get("/nothing/here")
    *told, unknown = visitor.cloud.history.entries()
    digest = hashlib.sha256(b"abc").hexdigest()

    assert [(e.seq, e.call, e.status, e.who) for e in told] == [
        (1, "presign", 200, "session"),
        (2, "put_body", 200, "presigned"),
        (3, "register", 201, "session"),
    ]
    assert {(e.model_path, e.size) for e in told} == {("models/loras/a.pt", 3)}
    assert (told[1].sha256, told[2].record_id) == (digest, record_id)
    assert (unknown.call, unknown.status) == ("unknown", 404)
    assert "authorization" not in told[1].header_names
    assert visitor.cloud.session_token not in repr(told)
    assert "X-Amz-Signature" not in repr(told)


# -- switches --------------------------------------------------------------------------------------


def test_switches_are_read_from_plain_values() -> None:
    read = Switches.of(
        {"listing_off": 404, "unique_paths": "exact", "list_omits": ["file_hash"],
         "multipart_paths": {"abort": "/x"}}
    )  # fmt: skip

    assert read == Switches(
        listing_off=404,
        unique_paths=Unique.EXACT,
        list_omits=("file_hash",),
        multipart_paths=MultipartPaths(abort="/x"),
    )
