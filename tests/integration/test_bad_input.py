"""What is wrong gets a clear error: an exit code, what happened to what, what to do. Nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from syncd.types import Call
from tests.integration.harness import PROJECT, RUN_S, Home, records, until
from tests.weights import weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"


def says(text: str, *words: str) -> None:
    """Each of *words* occurs in *text*, and no traceback does."""
    assert [word for word in words if word not in text] == [], text
    assert "Traceback" not in text


# -- the tree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["missing", "a file"])
def test_a_root_that_is_no_folder_is_not_judged(home: Home, cloud: Sandbox, what: str) -> None:
    shutil.rmtree(home.models)
    if what == "a file":
        home.models.write_bytes(b"no folder")

    done = home.once()

    assert done.code == 66
    says(done.said, os.fspath(home.models), "missing or cannot be read", "Check models_dir")
    assert cloud.history.count() == 0


def test_a_root_that_held_models_and_is_empty_is_not_judged_and_all_is_remembered(
    home: Home, cloud: Sandbox
) -> None:
    home.once()
    before, called = home.status(), cloud.history.count()
    shutil.move(home.models, home.state.parent / "away")
    home.models.mkdir()

    done, after = home.once(), home.status()
    home.models.rmdir()
    shutil.move(home.state.parent / "away", home.models)
    back = home.once()

    assert done.code == 66
    says(done.said, os.fspath(home.models), "contains no model, although it did", "is mounted")
    assert after == before
    assert back.code == 0
    later = [entry.call for entry in cloud.history.entries()[called:]]
    assert later == [Call.LIST_MODELS]  # the look at the catalog that ends each run


@pytest.mark.parametrize(
    ("name", "characters"),
    [
        ("ink (1).safetensors", "( )"),
        ("bell\x07\x1b[31m.pt", r"\x07 \x1b"),
        (os.fsdecode(b"latin-\xe9.pt"), r"\udce9 (not UTF-8)"),
        ("new\nline.pt", r"\n"),
    ],
)
@pytest.mark.cell("F18-settle")
def test_a_name_that_the_server_would_refuse_is_shown_with_what_is_wrong_in_it(
    home: Home, cloud: Sandbox, name: str, characters: str
) -> None:
    (home.models / "loras" / name).write_bytes(b"weights")

    done = home.once()

    (left,) = [file for file in home.status()["files"] if file["state"] == "refused"]
    assert done.code == 1
    says(left["reason"], characters, "renaming the file or folder helps")
    says(done.out, left["path"], "refused", characters)
    assert sorted(records(cloud)) == [f"models/{ONE}", f"models/{TWO}"]


def test_a_tree_at_a_place_of_any_name_is_handled_like_another(home: Home, cloud: Sandbox) -> None:
    place = Path(os.fsdecode(os.fsencode(home.state.parent) + b"/mod\xe9ls\x1b[31m\n"))
    home.models = home.models.rename(place)
    home.env["SYNCD_MODELS_DIR"] = os.fspath(home.models)
    cloud.faults.add(Rule(Fault.DELAY, "put_body", contains=ONE, delay_s=4))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(home.once)
        until(lambda: cloud.history.count("presign") == 2, "both presign calls")
        home.write(ONE, weights(b"other bytes"))
        done = running.result()

    assert done.code == 0, done.err
    assert records(cloud) == {f"models/{path}": home.sha256(path) for path in (ONE, TWO)}
    assert home.plan()["root"] == home.status()["roots"][0]["path"]
    assert "\x1b" not in done.out + done.err


# -- the credential --------------------------------------------------------------------------------


def test_without_a_credential_nothing_is_tried(home: Home, cloud: Sandbox) -> None:
    del home.env["SYNCD_API__TOKEN"]

    done = home.once()

    assert done.code == 77
    says(done.said, "No credential", "api.token_file", "SYNCD_API__TOKEN")
    assert cloud.history.count() == 0


def test_a_credential_that_is_refused_is_told_with_the_call_and_held_until_it_is_another(
    home: Home, cloud: Sandbox
) -> None:
    good = home.env["SYNCD_API__TOKEN"]
    home.env["SYNCD_API__TOKEN"] = "dk-revoked0000000000"

    done = home.once()
    asked = cloud.history.count("list_models", "presign")
    (hold,) = home.status()["holds"]
    home.env["SYNCD_API__TOKEN"] = good
    again = home.once()

    assert done.code == 77
    says(done.out, "list_models: HTTP 401", "replace the device key")
    assert (hold["kind"], hold["needs_operator"]) == ("operator", True)
    assert asked <= 2, "the refused key was sent on and on"
    assert again.code == 0
    assert home.status()["holds"] == []
    assert sorted(records(cloud)) == [f"models/{ONE}", f"models/{TWO}"]


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("sk-0123456789", ["sk- key", "use a device key"]),
        ("ak-0123456789", ["ak- key", "use a device key"]),
        ("nonsense", ["neither a device key nor a session token"]),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", ["api.team_id", "SYNCD_API__TEAM_ID"]),
    ],
)
def test_a_token_of_no_use_here_is_a_mistake_in_the_configuration(
    home: Home, token: str, words: list[str]
) -> None:
    home.env["SYNCD_API__TOKEN"] = token

    done = home.once()

    assert done.code == 78
    says(done.said, "SYNCD_API__TOKEN", *words)
    assert token not in done.err


# -- the machine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["below a file", "where nothing may be written"])
@pytest.mark.cell("F21-watch")
def test_a_state_directory_that_cannot_be_written_is_named(
    home: Home, cloud: Sandbox, where: str
) -> None:
    file = home.models.parent / "file"
    file.touch()
    state = os.fspath(file / "state") if where == "below a file" else "/proc/syncd"
    home.env["SYNCD_STATE_DIR"] = state

    done = home.once()

    assert done.code == 74
    says(done.said, state, "cannot be used", "state_dir")
    assert cloud.history.count() == 0


@pytest.mark.cell("F22-watch")
def test_a_damaged_database_is_named_with_what_to_do(home: Home, cloud: Sandbox) -> None:
    home.once()
    (home.state / "syncd.db").write_bytes(b"not a database" * 1000)

    done, status = home.once(), home.run("status")

    assert (done.code, status.code) == (74, 74)
    for command in (done, status):
        says(command.said, os.fspath(home.state / "syncd.db"), "is damaged", "Move the file aside")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[settle]\nquiet_seconds = 3\n", [":2:", "settle.quiet_seconds", "settle.quiet_s"]),
        ("\n[upload]\nfiles = 0\n", [":3:", "upload.files", "must be a whole number 1 to 16"]),
        ("models_dir = '/a'\nmodels_dir\n", [":2:", "not valid TOML"]),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_key_and_line(
    home: Home, text: str, words: list[str]
) -> None:
    config = home.state.parent / "config.toml"
    config.write_text(text)

    done = home.run("--config", os.fspath(config), "--once")

    assert done.code == 78
    says(done.said, os.fspath(config), *words)


# -- the cloud -------------------------------------------------------------------------------------


ELSEWHERE = """
import sys
from syncd.fs import mounts
from syncd.cli.fast_path import entry
mounts.network_filesystem.__kwdefaults__["table"] = sys.argv.pop(1)
entry()
"""


def on_nfs(home: Home, *args: str) -> "subprocess.CompletedProcess[str]":
    """``syncd`` with *args*, whose state directory lies on a network file system."""
    mounts = home.state.parent / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"30 22 0:30 / {home.state} rw - nfs4 10.0.0.5:/export rw\n"
    )
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE, mounts, *args],
        cwd=PROJECT,
        env=home.environment(),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


def test_a_state_directory_on_a_network_file_system_is_refused_and_the_doctor_says_so(
    home: Home,
) -> None:
    once, done = on_nfs(home, "--once"), on_nfs(home, "doctor", "--json", "--offline")

    assert (once.returncode, done.returncode) == (74, 74)
    says(once.stderr, os.fspath(home.state), "network file system (nfs4)", "Set state_dir")
    assert not (home.state / "syncd.db").exists()
    (told,) = [each for each in json.loads(done.stdout)["checks"] if each["result"] == "failed"]
    assert (told["name"], told["found"]) == ("state directory", f"{home.state}: on nfs4")
    assert "local disk" in told["advice"]


def test_R29_upload_url_with_impossible_host_is_a_bad_answer_and_asked_for_again(
    home: Home, cloud: Sandbox
) -> None:
    answer = {"upload_url": "https://xn--a.example/k", "upload_headers": {}, "storage_key": "k"}
    cloud.faults.add(Rule(Fault.ANSWER, "presign", status=200, body=json.dumps(answer)))

    done = home.once()

    assert done.code == 0
    assert [line for line in done.events() if line["level"] == "error"] == []
    assert (cloud.history.count("presign"), cloud.history.count("put_body")) == (3, 2)


def test_state_directory_that_others_may_write_is_refused_and_doctor_says_so(
    home: Home, cloud: Sandbox
) -> None:
    home.state.mkdir()
    home.state.chmod(0o702)
    done, doctor, login = home.once(), home.run("doctor"), home.run("login")

    assert (done.code, doctor.code, login.code) == (74, 74, 74)
    says(done.said, "is writable by every user", f"chmod go-w '{home.state}'")
    says(doctor.out, "is writable by every user", f"chmod go-w '{home.state}'")
    assert cloud.history.count() == 1  # doctor's own question
    home.state.chmod(0o700)
    assert home.once().code == 0


@pytest.mark.needs("root")
def test_state_directory_that_a_foreign_group_may_write_is_refused(home: Home) -> None:
    home.state.mkdir()
    os.chown(home.state, os.geteuid(), os.getegid() + 4711)
    home.state.chmod(0o770)
    foreign = home.once()
    os.chown(home.state, os.geteuid(), os.getegid())

    assert foreign.code == 74
    says(foreign.said, f"is writable by the group {os.getegid() + 4711}")
    assert home.once().code == 0
