"""``syncd doctor``, ``health``, ``support-bundle`` and ``completion``, as an operator meets them."""

import base64
import json
import re
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.sandbox.switches import Switches
from tests.fakes import ScriptedServer, reply
from tests.integration.harness import COMMAND, PROJECT, Home, until
from tests.integration.test_no_secrets import files_below, leaks
from tests.weights import weights

SECRETS = ("CANARY_proxy_password_0123456789", "CANARY_user_0123456789")


def checks(home: Home, *args: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What ``syncd doctor`` says, by check."""
    told = home.document("doctor", *args, code=code)
    assert told["exit_code"] == code
    return {check["name"]: check for check in told["checks"]}


def failed(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, check in found.items() if check["result"] == "failed"}


# -- doctor ----------------------------------------------------------------------------------------


def test_where_all_is_well_no_check_fails_and_nothing_is_written(
    home: Home, cloud: Sandbox
) -> None:
    found, shown = checks(home), home.run("doctor").out

    assert failed(found) == set()
    assert found["credential"]["found"].startswith("device key from SYNCD_API__TOKEN")
    assert found["cloud"]["found"] == f"{cloud.base_url} answers and accepts the credential"
    assert "team Sandbox" in found["role"]["found"]
    assert found["clock"]["found"] == "agrees with the cloud's within a minute"
    assert found["names"]["found"] == "2 models; all names can be registered"
    assert found["watches"]["found"].startswith("3 folders to watch")
    assert found["state directory"]["found"].endswith("created at the first start")
    assert re.search(r"^watches +ok", shown, re.MULTILINE)
    assert [entry.call for entry in cloud.history.entries()] == ["me", "me"]
    assert not home.state.exists()


def test_an_ended_session_needs_a_person(home: Home, tmp_path: Path) -> None:
    with Sandbox(tmp_path / "other", switches=Switches(access_token_lifetime_s=-7200)) as cloud:
        home.env["SYNCD_API__BASE_URL"] = cloud.base_url
        home.sign_in(cloud)

        found = checks(home, code=77)

    assert failed(found) == {"credential", "cloud"}
    assert "expired 2.0 hours ago" in found["credential"]["found"]
    assert "401" in found["cloud"]["found"]


def test_a_team_that_is_not_ours_is_named_with_those_that_are(home: Home, cloud: Sandbox) -> None:
    home.sign_in(cloud)
    home.env["SYNCD_API__TEAM_ID"] = "team_of_others"

    found = checks(home, code=77)

    assert failed(found) == {"role"}
    assert cloud.team_id in found["role"]["advice"]


@pytest.mark.parametrize(("hours", "result"), [(1, "failed"), (-0.05, "warning")])
def test_a_clock_that_is_off_is_told(home: Home, hours: float, result: str) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - hours * 3600))
    me = json.dumps(
        {"id": "u", "email_address": "a@b.c", "team_list": [{"id": "t", "role": "viewer"}]}
    )
    with ScriptedServer([reply(200, me, headers={"Date": date})]) as server:
        home.env["SYNCD_API__BASE_URL"] = f"{server.url}/api/v1"

        found = checks(home, code=77 if result == "failed" else 0)

    assert found["clock"]["result"] == result
    assert ("ahead of" if hours > 0 else "behind") in found["clock"]["found"]
    assert found["role"]["result"] == "warning"
    assert "viewer" in found["role"]["found"]


def test_what_is_wrong_on_this_machine_is_told_with_what_helps(home: Home) -> None:
    home.write("loras/ink (1).safetensors", weights(b"refused"))
    del home.env["SYNCD_API__TOKEN"]

    found = checks(home, "--offline", code=77)
    home.models.rename(home.models.parent / "away")
    without_tree = checks(home, "--offline", code=77)

    assert failed(found) == {"credential"}
    assert "cloud" not in found
    assert "1 would be refused" in found["names"]["found"]
    assert "ink (1)" in found["names"]["found"]
    assert "syncd plan" in found["names"]["advice"]
    assert failed(without_tree) == {"credential", "tree", "names"}


@pytest.mark.parametrize(
    ("variable", "written", "suffix"),
    [
        ("SYNCD_NETWORK__PROXY", "http://{user}:{password}@{place}/", ""),
        ("HTTPS_PROXY", "http://{user}:{password}@{place}", " (from the environment)"),
        ("HTTPS_PROXY", "{user}:{password}@{place}", " (from the environment)"),
    ],
)
def test_the_password_of_a_proxy_goes_to_the_proxy_alone(
    home: Home, variable: str, written: str, suffix: str
) -> None:
    password, user = SECRETS
    with ScriptedServer([reply(407, close=True)] * 100) as proxy:
        place = proxy.url.removeprefix("http://")
        home.env |= {
            "SYNCD_API__BASE_URL": "https://cloud.example.com/api/v1",
            "SYNCD_LOG__LEVEL": "debug",
            variable: written.format(user=user, password=password, place=place),
        }
        found = checks(home, code=75)
        runs = [home.run("doctor"), home.run("whoami"), home.run("config", "show")]
        with home.daemon() as daemon:
            until(lambda: "407" in daemon.log.read_text(), "the refusal")

    assert found["proxy"]["found"] == f"{proxy.url}{suffix}"
    assert failed(found) == {"cloud"}
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    assert [seen.header("Proxy-Authorization") for seen in proxy.seen[:3]] == [expected] * 3
    said = (
        json.dumps(found) + daemon.log.read_text() + "".join(done.out + done.err for done in runs)
    )
    kept = b"".join(files_below(home.state).values())
    secrets = [user, password, expected.removeprefix("Basic ")]
    assert leaks(secrets, {"said": said.encode(), "kept": kept}) == []


def test_comfyui_is_asked_where_it_is_configured(home: Home) -> None:
    with ScriptedServer([reply(200, '{"exec_info": {"queue_remaining": 3}}')]) as server:
        home.env["SYNCD_COMFYUI__URL"] = server.url
        busy = checks(home, "--offline")["comfyui"]
    silent = checks(home, "--offline")["comfyui"]

    assert (busy["result"], busy["found"]) == ("ok", f"{server.url}: queue length 3")
    assert server.seen[0].request_line == "GET /prompt HTTP/1.1"
    assert silent["result"] == "warning"
    assert "Check comfyui.url" in silent["advice"]


# -- support-bundle --------------------------------------------------------------------------------


def bundle(home: Home, *args: str) -> dict[str, str]:
    """The members of a fresh bundle, by name."""
    path = home.state.parent / f"bundle-{len(args)}.tar.gz"
    done = home.run("support-bundle", "-o", str(path), *args)
    assert done.code == 0, done.err
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {
            name.removeprefix("syncd-support/"): file.read().decode()
            for name, file in members.items()
            if file is not None
        }


def test_a_bundle_holds_no_secret_and_no_name_unless_asked(home: Home, cloud: Sandbox) -> None:
    home.write("loras/secret project/unannounced.safetensors", weights(b"private"))
    home.env |= {
        "SYNCD_NETWORK__PROXY": f"http://{SECRETS[1]}:{SECRETS[0]}@127.0.0.1:9",
        "SYNCD_NAMING__MAP": '{"loras/secret project/": "loras/unannounced/"}',
        "SYNCD_SELECT__EXCLUDE": "loras/confidential*",
    }
    quoting = json.dumps({"error_message": "no unannounced models, please"})
    cloud.faults.add(
        Rule(
            Fault.ANSWER,
            call="presign",
            status=422,
            contains="unannounced",
            body=quoting,
            count=None,
        )
    )
    home.let_age()
    home.once()

    hidden, named = bundle(home), bundle(home, "--with-names")

    token = cloud.device_key.removeprefix("dk-")
    places = {name: text.encode() for name, text in (hidden | named).items()}
    assert leaks([token, *SECRETS], places | {n: t.encode() for n, t in hidden.items()}) == []
    for word in ("one.safe", "two.pt", "secret project", "unannounced", "confidential"):
        assert word not in "".join(hidden.values())
    assert "secret project/unannounced.safetensors" in named["status.json"]
    assert "no unannounced models, please" in named["history.json"]
    assert "secret project" in named["config.json"]


def test_a_bundle_is_made_of_what_is_broken_as_well(home: Home) -> None:
    home.state.mkdir()
    (home.state / "syncd.db").write_bytes(b"no database" * 1000)

    members = bundle(home)

    assert "syncd.db" in json.loads(members["status.json"])["error"]
    assert json.loads(members["versions.json"])["syncd"]


def test_a_bundle_overwrites_nothing(home: Home) -> None:
    there = home.state.parent / "there.tar.gz"
    there.write_bytes(b"mine")

    done = home.run("support-bundle", "-o", str(there))

    assert (done.code, there.read_bytes()) == (2, b"mine")
    assert "File exists. Name another file with -o." in done.said


# -- completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(home: Home, shell: str) -> None:
    done = home.run("completion", shell)

    assert done.code == 0
    assert "_SYNCD_COMPLETE" in done.out
    assert home.run("completion", "tcsh").code == 2


def test_bash_completes_commands_without_importing_them(home: Home) -> None:
    command = f"'{COMMAND[0]}' -X importtime -c 'from syncd.cli.fast_path import entry; entry()'"
    asked = {"_SYNCD_COMPLETE": "bash_complete", "COMP_WORDS": "syncd h", "COMP_CWORD": "1"}

    done = subprocess.run(
        ["bash", "-c", command], env={**home.environment(), **asked, "PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, check=True, cwd=home.state.parent,
    )  # fmt: skip

    assert done.stdout.split() == ["plain,history", "plain,health"]
    assert "pydantic" not in done.stderr
