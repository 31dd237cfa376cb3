"""Who may call what, sign-in, refresh and pairing, over the socket."""

from dataclasses import replace

import httpx
import pytest

from syncd.sandbox.server import Sandbox
from tests.visitor import Visitor, good

UPLOAD = {"storage_key": "k", "upload_id": "u"}
MODEL = "/models/00000000-0000-0000-0000-000000000000"

# Each row: method, path, body, then the status for a session, dk-, sk-, ak- and no credential.
# Statuses that are no refusal of the credential (404, 422) show that the door was passed.
MATRIX = [
    ("GET", "/users/me", None, 200, 200, 403, 403, 401),
    ("GET", "/agents", None, 200, 200, 403, 403, 401),
    ("POST", "/models/presign", {}, 422, 422, 403, 403, 401),
    ("POST", "/models", {}, 422, 422, 403, 403, 401),
    ("GET", "/models", None, 200, 200, 403, 403, 401),
    ("GET", MODEL, None, 404, 404, 403, 403, 401),
    ("PUT", MODEL, {"display_name": "b"}, 404, 404, 403, 403, 401),
    ("DELETE", MODEL, None, 404, 404, 403, 403, 401),
    ("POST", "/uploads/multipart/initiate", {}, 422, 403, 403, 403, 401),
    ("POST", "/uploads/multipart/presign", {}, 422, 403, 403, 403, 401),
    ("POST", "/uploads/multipart/complete", {}, 422, 403, 403, 403, 401),
    ("POST", "/uploads/multipart/abort", {}, 422, 403, 403, 403, 401),
    ("POST", "/desktop/pair/confirm", {}, 422, 403, 403, 403, 401),
    ("POST", "/auth/device/revoke", None, 403, 204, 403, 403, 401),
    ("POST", "/auth/login", {}, 422, 422, 422, 422, 422),
    ("POST", "/auth/refresh", {}, 422, 422, 422, 422, 422),
    ("POST", "/desktop/pair/start", None, 200, 200, 200, 200, 200),
    ("POST", "/desktop/pair/poll", {}, 422, 422, 422, 422, 422),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "session", "device", "integration", "agent", "nobody"), MATRIX
)
def test_every_endpoint_takes_the_credentials_of_the_contract_and_no_other(
    cloud: Sandbox,
    method: str,
    path: str,
    body: dict[str, str] | None,
    session: int,
    device: int,
    integration: int,
    agent: int,
    nobody: int,
) -> None:
    tokens = [cloud.session_token, cloud.device_key, cloud.integration_key, cloud.agent_key, None]
    with httpx.Client(base_url=cloud.base_url, trust_env=False, verify=False) as client:
        got = []
        for token in tokens:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            headers["X-Team-ID"] = cloud.team_id
            got.append(client.request(method, path, json=body, headers=headers).status_code)

    assert got == [session, device, integration, agent, nobody]


@pytest.mark.parametrize(
    "token", ["nonsense", "dk-unknown", "a.b.c", "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTk5fQ."]
)
def test_unknown_credential_is_answered_401(cloud: Sandbox, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.get(f"{cloud.base_url}/users/me", headers=headers, trust_env=False, verify=False)

    assert answer.status_code == 401
    assert set(answer.json()) == {"error_message"}


@pytest.mark.parametrize("path", ["/models", "/agents", MODEL])
def test_session_without_team_is_answered_400(visitor: Visitor, path: str) -> None:
    del visitor.api.headers["X-Team-ID"]

    assert visitor.api.get(path).status_code == 400


def test_session_needs_no_team_to_read_its_own_profile(visitor: Visitor) -> None:
    del visitor.api.headers["X-Team-ID"]
    profile = good(visitor.api.get("/users/me"))

    assert [team["id"] for team in profile["team_list"]] == [visitor.cloud.team_id]


def test_session_in_a_foreign_team_is_answered_403(visitor: Visitor) -> None:
    visitor.api.headers["X-Team-ID"] = visitor.cloud.foreign_team_id

    assert visitor.ask_presign().status_code == 403


def test_device_key_carries_its_team_and_the_header_is_ignored(cloud: Sandbox) -> None:
    with Visitor(cloud, cloud.device_key) as device:
        device.api.headers["X-Team-ID"] = cloud.foreign_team_id

        assert device.ask_presign().status_code == 200


def test_role_that_may_not_write_is_answered_403_from_the_very_next_call(
    visitor: Visitor,
) -> None:
    before = visitor.ask_presign().status_code
    visitor.cloud.switches = replace(visitor.cloud.switches, role="viewer")

    assert (before, visitor.ask_presign().status_code) == (200, 403)
    assert visitor.api.get("/models").status_code == 200


def test_login_gives_a_session_that_is_taken(visitor: Visitor) -> None:
    cloud = visitor.cloud
    pair = good(
        visitor.post("/auth/login", email_address=cloud.email, user_password=cloud.password)
    )
    with Visitor(cloud, pair["access_token"]) as signed_in:
        assert signed_in.api.get("/users/me").status_code == 200
    assert pair["expires_in"] == 3600
    assert pair["access_token"].count(".") == 2


def test_wrong_password_is_answered_401(visitor: Visitor) -> None:
    answer = visitor.post(
        "/auth/login", email_address=visitor.cloud.email, user_password="wrong password"
    )

    assert answer.status_code == 401


def test_session_expires(visitor: Visitor) -> None:
    visitor.cloud.skip(3601)

    assert visitor.api.get("/users/me").status_code == 401


def test_refresh_token_is_good_for_one_use(visitor: Visitor) -> None:
    first = visitor.post("/auth/refresh", refresh_token=visitor.cloud.refresh_token)
    again = visitor.post("/auth/refresh", refresh_token=visitor.cloud.refresh_token)
    chained = visitor.post("/auth/refresh", refresh_token=good(first)["refresh_token"])

    assert [first.status_code, again.status_code, chained.status_code] == [200, 401, 200]


def test_revoked_device_key_is_unknown(cloud: Sandbox) -> None:
    with Visitor(cloud, cloud.device_key) as device:
        revoked = device.api.post("/auth/device/revoke").status_code

        assert (revoked, device.api.get("/users/me").status_code) == (204, 401)


def test_pairing_hands_over_a_device_key_once(visitor: Visitor) -> None:
    start = good(visitor.api.post("/desktop/pair/start"))
    code = start["device_code"]
    pending = good(visitor.post("/desktop/pair/poll", device_code=code))
    spoken = start["user_code"].lower().replace("-", " ")
    confirmed = visitor.post("/desktop/pair/confirm", user_code=spoken)
    hurried = visitor.post("/desktop/pair/poll", device_code=code)
    visitor.cloud.skip(start["interval"])
    approved = good(visitor.post("/desktop/pair/poll", device_code=code))
    collected = visitor.post("/desktop/pair/poll", device_code=code)

    assert pending == {"status": "pending"}
    assert hurried.status_code == 429
    assert confirmed.status_code == 204
    assert approved["status"] == "approved"
    assert approved["agent_key"].startswith("ak-")
    assert collected.status_code == 404
    with Visitor(visitor.cloud, approved["raw_key"]) as device:
        assert device.ask_presign().status_code == 200


def test_opening_the_verification_uri_approves_the_pairing(visitor: Visitor) -> None:
    start = good(visitor.api.post("/desktop/pair/start"))
    page = visitor.store.get(start["verification_uri"])
    poll = good(visitor.post("/desktop/pair/poll", device_code=start["device_code"]))

    assert (page.status_code, poll["status"]) == (200, "approved")


def test_pairing_expires(visitor: Visitor) -> None:
    start = good(visitor.api.post("/desktop/pair/start"))
    visitor.cloud.skip(start["expires_in"] + 1)
    answer = visitor.post("/desktop/pair/poll", device_code=start["device_code"])

    assert answer.status_code == 404


def test_unknown_user_code_is_answered_404(visitor: Visitor) -> None:
    assert visitor.post("/desktop/pair/confirm", user_code="AAAA-BBBB").status_code == 404
