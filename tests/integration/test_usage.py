"""What a wrong command line, or a wrong value in it, is answered with: the reason, and its exit code."""

import json
from dataclasses import replace

import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home
from tests.weights import weights

ONE, TWO, ODD = "loras/one.safetensors", "vae/two.pt", "loras/ink (1).safetensors"


@pytest.mark.parametrize("command", ["--once", "status", "sandbox"])
def test_unknown_log_level_is_refused(home: Home, command: str) -> None:
    done = home.run("--log-level", "loud", command)

    assert done.code == 2
    assert "--log-level" in done.err
    assert "'debug', 'info', 'warning', 'error'" in done.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--port", "99999"], "'--port'"),
        (["--fault", "x"], "'x' is not JSON such as"),
        (["--fault", "[]"], "Input should be a dictionary"),
        (["--fault", "{}"], "fault: Field required"),
        (["--fault", '{"fault": "x"}'], "fault: Input should be 'answer', 'delay'"),
        (
            ["--fault", '{"fault": "delay", "delay_s": "x"}'],
            "delay_s: Input should be a valid number",
        ),
        (["--fault", '{"fault": "delay", "often": 1}'], "often: Unexpected keyword argument"),
        (["--fault", '{"fault": "delay", "skip": -1}'], "skip, delay_s, late_s"),
        (["--switch", "x"], "'x' is not NAME=VALUE"),
        (["--switch", "x=1"], "no such switch: x; there are access_token_lifetime_s"),
        (["--switch", "listing_off=gone"], "listing_off: Input should be a valid integer"),
    ],
    ids=str,
)
def test_sandbox_with_a_wrong_value_is_a_usage_error_that_names_the_option(
    home: Home, args: list[str], said: str
) -> None:
    done = home.run("sandbox", *args)

    assert done.code == 2, done.err
    assert f"'{args[0]}'" in done.err
    assert said in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("env", "args", "said"),
    [
        ({"SYNCD_MODELS_DIR": "models"}, [], "SYNCD_MODELS_DIR: models_dir: must be an absolute"),
        ({}, ["--models-dir", "models"], "--models-dir: must be an absolute path"),
        ({"SYNCD_SETTLE__ONCE_WAIT_S": "1"}, [], "settle.once_wait_s: is too short"),
    ],
    ids=str,
)
def test_setting_that_cannot_be_meant_is_refused_with_78_and_the_reason(
    home: Home, env: dict[str, str], args: list[str], said: str
) -> None:
    home.env |= env

    checked, once = home.run(*args, "config", "check"), home.run(*args, "--once")

    assert (checked.code, once.code) == (78, 78)
    assert said in checked.err
    assert said in once.err
    assert not home.state.exists()


# -- retry -----------------------------------------------------------------------------------------


def test_retry_all_does_not_claim_to_retry_what_has_no_job(home: Home) -> None:
    home.write(ODD, weights(b"a name that the server refuses"))
    home.let_age()
    home.once()

    shown = home.run("retry", "--all")
    home.once()
    document = home.run("retry", "--all", "--json")

    assert (shown.code, shown.out) == (0, f"to be examined again: {ODD}\n")
    assert json.loads(document.out) == {"files": [], "examined": [ODD], "left": {}}


def test_retry_of_a_file_that_waits_for_its_bundle_leaves_it_and_says_why(
    home: Home, cloud: Sandbox
) -> None:
    home.env["SYNCD_SELECT__BUNDLES"] = "diffusers"
    bundle = "diffusers/a"
    home.write(f"{bundle}/model_index.json", b"{}")
    home.write(f"{bundle}/unet/model.safetensors", weights(b"unet"))
    home.let_age()
    refusal = Rule(Fault.ANSWER, "presign", contains="unet", count=None, status=422)
    cloud.faults.add(replace(refusal, performed=False))
    home.once()
    waiting = {file["path"]: file["state"] for file in home.status()["files"]}

    named = home.run("retry", f"{bundle}/model_index.json")
    everything = home.run("retry", "--all")

    assert waiting[f"{bundle}/model_index.json"] == "waiting"
    assert named.code == 1
    assert "it is stored and waits for another file of its bundle" in named.err
    assert everything.out == f"queued again: {bundle}/unet/model.safetensors\n"
