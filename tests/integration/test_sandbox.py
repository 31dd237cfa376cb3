"""The stand-in cloud: ``syncd sandbox``, and how honest it is about what a real cloud refuses."""

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

from syncd.sandbox.server import Sandbox
from tests.integration.harness import MIB
from tests.visitor import Visitor, code_of, good

COMMAND = [sys.executable, "-c", "from syncd.cli.sandbox import sandbox; sandbox()"]
BODY = b"".join(bytes([n]) * MIB for n in range(11))
"""Two parts of 5 MiB and one of 1 MiB."""

MODEL = "/models/00000000-0000-0000-0000-000000000000"


def turn(visitor: Visitor, **switches: Any) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, **switches)


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


# -- the object store ------------------------------------------------------------------------------


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


# -- faults ----------------------------------------------------------------------------------------


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
