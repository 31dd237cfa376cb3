"""No token, signature or password in anything that a run leaves behind, whatever goes wrong."""

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from syncd.types import Call
from tests.integration.harness import Finished, Home
from tests.relay import Answer, Relay, Seen, relaying
from tests.trap import Trap, nth, run
from tests.weights import MIB, write_safetensors

CAP = 4 * MIB
PROXY_PASSWORD = "CANARY_proxy_password_0123456789"
HOOK_PATH = "CANARY_hook_path_0123456789abcdef"
HOOK_KEY = base64.b64encode(b"CANARY_hook_key_0123456789abcdef").decode()
FOREIGN_SIGNATURE = "CANARY_foreign_signature_0123456789abcdef"
CHUNK = 16
"""Bytes: a secret counts as leaked as soon as so many of its bytes in a row are found."""

FILES = {
    "presign-refused": 3000,
    "presign-cut": 3000,
    "presign-unusable": 3000,
    "presign-odd-header": 3000,
    "put-refused": 3000,
    "put-redirected": 3000,
    "put-reset": 3000,
    "register-refused": 3000,
}
LARGE = "loras/large.safetensors"


@dataclass
class Signatures:
    """Every signature that the cloud ever handed out, read off the wire."""

    seen: set[str] = field(default_factory=set)

    def note(self, seen: Seen, answer: Answer) -> Answer:
        found = re.findall(rb"X-Amz-Signature=([0-9a-f]{64})", answer.body)
        self.seen |= {signature.decode() for signature in found}
        return answer


@dataclass
class Case:
    """A user with one credential, who speaks to the cloud through a relay that listens."""

    home: Home
    cloud: Sandbox
    trap: Trap
    token: str
    args: tuple[str, ...]
    signatures: Signatures

    def run(self, *args: str) -> Finished:
        return run(self.home, *self.args, *args)

    def secrets(self) -> list[str]:
        token = self.token.removeprefix("dk-").rpartition(".")[2]
        payload = self.token.split(".")[1:2]
        fixed = [PROXY_PASSWORD, FOREIGN_SIGNATURE, HOOK_PATH, HOOK_KEY]
        return [token, *payload, *fixed, *sorted(self.signatures.seen)]


def leaks(secrets: Iterable[str], places: dict[str, bytes]) -> list[tuple[str, str]]:
    """(place, what was found there) for every piece of a secret."""
    pieces = [
        secret[start : start + CHUNK]
        for secret in secrets
        for start in range(0, len(secret) - CHUNK + 1, CHUNK)
    ]
    assert pieces, "a search for nothing finds nothing"
    return [
        (name, piece)
        for name, content in places.items()
        for piece in pieces
        if piece.encode() in content
    ]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file's bytes: database pages and the write-ahead log among them."""
    return {
        os.path.join(at, name): Path(at, name).read_bytes()
        for at, _, names in os.walk(folder)
        for name in names
        if Path(at, name).is_file()
    }


@pytest.fixture(params=["session token, JSON", "device key, console"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    trap, signatures = Trap(), Signatures()
    switches = Switches(part_size=5 * MIB)
    with (
        Sandbox(tmp_path / "cloud", switches=switches, listener=trap) as cloud,
        relaying(cloud.base_url.removesuffix("/api/v1")) as relay,
    ):
        relay.after = signatures.note
        session = request.param.startswith("session")
        token = cloud.session_token if session else cloud.device_key
        home = Home.at(tmp_path / "home", cloud)
        config = write_config(tmp_path / "home", token, in_file_of_its_own=session)
        home.env |= environment(relay, cloud, "json" if session else "console")
        del home.env["SYNCD_API__TOKEN"]
        yield Case(home, cloud, trap, token, ("--config", str(config)), signatures)


def environment(relay: Relay, cloud: Sandbox, log_format: str) -> dict[str, str]:
    return {
        "SYNCD_API__BASE_URL": f"{relay.url}/api/v1",
        "SYNCD_API__TEAM_ID": cloud.team_id,
        "SYNCD_API__SINGLE_PUT_LIMIT": str(CAP),
        "SYNCD_LOG__LEVEL": "debug",
        "SYNCD_LOG__FORMAT": log_format,
    }


def write_config(folder: Path, token: str, *, in_file_of_its_own: bool) -> Path:
    """Secrets in all the places where the configuration takes them."""
    token_file, config = folder / "token", folder / "syncd.toml"
    token_file.write_text(token)
    value = f"token_file = '{token_file}'" if in_file_of_its_own else f"token = '{token}'"
    proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
    config.write_text(
        f"[api]\n{value}\n[network]\nproxy = '{proxy}'\n"
        f"[notify]\nwebhook_url = 'http://127.0.0.1:9/{HOOK_PATH}'\n"
        f"heartbeat_url = 'http://127.0.0.1:9/{HOOK_PATH}'\nwebhook_secret = 'whsec_{HOOK_KEY}'\n"
    )
    for path in (token_file, config):
        path.chmod(0o600)
    return config


def faults(token: str) -> list[Rule]:
    """One for each file, with answers that tell the caller's secrets back to it."""
    url = f"http://somebody@127.0.0.1:9/key?X-Amz-Date=1&X-Amz-Signature={FOREIGN_SIGNATURE}"
    told = f"not with {token} (Authorization: Bearer {token}) to {url}"
    refusal = json.dumps({"error_message": told})
    xml = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{told}</Message></Error>"
    grant = {"storage_key": "key", "upload_url": url, "upload_headers": {}}
    odd = {**grant, "upload_headers": {"X-Odd": told}}
    answer, json_type = Fault.ANSWER, {"Content-Type": "application/json"}

    def of(fault: Fault, call: Call, path: str, status: int = 200, body: str = "") -> Rule:
        return Rule(
            fault, call=call, contains=path, status=status, body=body, headers=json_type,
            location=url,
        )  # fmt: skip

    return [
        of(answer, Call.PRESIGN, "presign-refused", 422, refusal),
        of(Fault.MALFORMED_JSON, Call.PRESIGN, "presign-cut"),
        of(answer, Call.PRESIGN, "presign-unusable", 200, json.dumps(grant)),
        of(answer, Call.PRESIGN, "presign-odd-header", 200, json.dumps(odd)),
        of(answer, Call.PUT_BODY, "put-refused", 403, xml),
        of(Fault.REDIRECT, Call.PUT_BODY, "put-redirected", 307),
        of(Fault.RESET, Call.PUT_BODY, "put-reset"),
        of(answer, Call.REGISTER, "register-refused", 422, refusal),
    ]


def test_nothing_that_a_run_leaves_behind_holds_a_secret(case: Case) -> None:
    rules = faults(case.token)
    for name, size in FILES.items():
        write_safetensors(case.home.models / f"loras/{name}.safetensors", size)
    write_safetensors(case.home.models / LARGE, CAP + MIB)
    runs = []

    # A page so long that whoever cuts it before looking for the token cuts through the token.
    page = f"http://127.0.0.1:9/?{'a' * 1150} {case.token}"
    case.cloud.faults.add(Rule(Fault.ANSWER, call=Call.PRESIGN, status=403, body=page, count=None))
    runs.append(case.run("--once"))

    assert runs[0].code == 77

    case.cloud.faults.clear()
    case.cloud.faults.add(*rules)
    runs.append(case.run("--once"))

    assert [rule.count for rule in case.cloud.faults.rules()] == [0] * len(rules)
    assert len(case.cloud.records()) >= len(FILES) - 2
    assert "job.claimed" in runs[1].err
    assert "422" in runs[1].out
    assert len(case.signatures.seen) >= len(FILES)

    places = files_below(case.home.state)
    for number, ended in enumerate(runs):
        places |= {f"{number} out": ended.out.encode(), f"{number} err": ended.err.encode()}

    assert leaks(case.secrets(), places) == []


def test_a_killed_run_leaves_no_secret_in_the_write_ahead_log(case: Case) -> None:
    write_safetensors(case.home.models / "loras/one.safetensors", 3000)
    case.trap.kill(case.home, nth(Call.PUT_BODY), *case.args)
    places = files_below(case.home.state)

    assert any(name.endswith("-wal") and content for name, content in places.items())
    assert case.signatures.seen
    assert leaks(case.secrets(), places) == []
