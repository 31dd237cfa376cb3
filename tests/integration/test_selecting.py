"""What the operator chooses: names, selections, further roots; from the command to the catalog."""

from pathlib import Path
from typing import Any

import pytest

from syncd.sandbox.server import Sandbox
from tests.integration.harness import Home, deeds, records, until
from tests.weights import HEADER, weights

ONE, TWO = "loras/one.safetensors", "vae/two.pt"
ODD = "loras/model (1).safetensors"
LINE = '"loras/model (1).safetensors" = "loras/model_1.safetensors"'


def configure(home: Home, toml: str) -> None:
    """From now on the home has this configuration file beside its variables."""
    folder = home.state.parent / ".config" / "syncd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(toml)


def plan_of(home: Home) -> dict[str, dict[str, Any]]:
    return {file["path"]: file for file in home.plan()["files"]}


# -- names -----------------------------------------------------------------------------------------


def test_refused_name_is_shown_with_characters_and_config_line(home: Home, cloud: Sandbox) -> None:
    home.write(ODD, weights(b"odd"))

    planned = plan_of(home)[ODD]
    done = home.once()
    shown = home.file(ODD)

    assert done.code == 1
    assert planned["action"] == shown["state"] == "refused"
    assert planned["reason"] == shown["reason"]
    for part in ("characters ( )", "[naming.map]", LINE):
        assert part in shown["reason"]


def test_shown_config_line_registers_the_file_only(home: Home, cloud: Sandbox) -> None:
    home.write(ODD, weights(b"odd"))
    home.once()
    before = len(deeds(cloud))
    configure(home, f"[naming.map]\n{LINE}\n")

    planned = plan_of(home)[ODD]
    done = home.once()

    assert planned["action"] == "upload"
    assert planned["model_path"] == "models/loras/model_1.safetensors"
    assert done.code == 0
    assert records(cloud)["models/loras/model_1.safetensors"] == home.sha256(ODD)
    assert len(records(cloud)) == 3
    sent = [call for call in deeds(cloud)[before:] if call in ("presign", "put_body", "register")]
    assert sent == ["presign", "put_body", "register"]
    assert home.counts() == {"registered": 3}


# -- selection -------------------------------------------------------------------------------------


def test_file_excluded_and_selected_again_stays_registered(home: Home, cloud: Sandbox) -> None:
    home.once()
    before = len(deeds(cloud))
    home.env["SYNCD_SELECT__EXCLUDE"] = "/loras/"
    without = home.once()
    left = home.file(ONE)
    del home.env["SYNCD_SELECT__EXCLUDE"]
    again = home.once()

    assert (without.code, again.code) == (0, 0)
    assert (left["state"], left["reason"]) == ("ignored", "excluded by /loras/ (select.exclude)")
    assert home.counts() == {"registered": 2}
    assert deeds(cloud)[before:] == []


def test_plan_names_the_rule_for_each_file(home: Home) -> None:
    home.write(".syncdignore", b"/unet/old*\n")
    home.write("unet/old_1.ckpt", b"x")
    home.write("unet/large.ckpt", b"x" * 5000)
    home.write("sams/a.pth", b"x")
    home.env |= {
        "SYNCD_SELECT__INCLUDE": "loras/,unet/,sams/",
        "SYNCD_SELECT__EXCLUDE": "/loras/test*,/sams/*",
        "SYNCD_LIMITS__MAX_FILE_SIZE": "4000",
    }
    home.write("loras/test.pt", b"x")

    rules = {path: file["rule"] for path, file in plan_of(home).items()}

    assert rules == {
        ".syncdignore": "not in a type folder",
        ONE: "included by loras/ (select.include)",
        TWO: "matches no line of select.include",
        "loras/test.pt": "excluded by /loras/test* (select.exclude)",
        "sams/a.pth": "excluded by /sams/* (select.exclude)",
        "unet/large.ckpt": "larger than limits.max_file_size, 4000 bytes",
        "unet/old_1.ckpt": "excluded by /unet/old* (.syncdignore)",
    }


def test_changed_ignore_file_is_applied_by_the_running_daemon(home: Home, cloud: Sandbox) -> None:
    home.write(".syncdignore", b"*.pt\n")
    with home.daemon() as daemon:
        until(lambda: home.counts().get("registered") == 1, "the file that is not left out")
        waiting = home.file(TWO)["reason"]
        home.write(".syncdignore", b"")
        until(lambda: home.counts().get("registered") == 2, "the one that was")
        daemon.stop()

    assert waiting == "excluded by *.pt (.syncdignore)"


def test_invalid_ignore_file_stops_uploads(home: Home, cloud: Sandbox) -> None:
    home.write(".syncdignore", b"fine\n!\n")

    planned, done = home.run("plan"), home.once()

    assert (planned.code, done.code) == (78, 78)
    for run in (planned, done):
        assert f"{home.models}/.syncdignore:2: is not a pattern" in run.err
    assert records(cloud) == {}


# -- further roots ---------------------------------------------------------------------------------


@pytest.fixture
def extra(home: Home) -> Path:
    """A directory beside the models that extra_model_paths.yaml names as loras, not there yet."""
    file = home.state.parent / "extra_model_paths.yaml"
    file.write_text("other:\n  base_path: other\n  loras: l\n")
    home.env["SYNCD_COMFYUI__EXTRA_MODEL_PATHS"] = str(file)
    return home.state.parent / "other" / "l"


def put(path: Path, data: bytes) -> None:
    """A whole model that holds *data*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights(data))


def test_extra_model_path_is_registered_under_its_type(
    home: Home, cloud: Sandbox, extra: Path
) -> None:
    put(extra / "sub/mine.pt", b"more weights")
    put(extra / "odd (2).pt", b"odd weights")

    done = home.once()

    assert done.code == 1
    assert set(records(cloud)) == {
        "models/loras/one.safetensors",
        "models/vae/two.pt",
        "models/loras/sub/mine.pt",
    }
    assert home.file("sub/mine.pt")["root"] == str(extra)
    assert '"loras/odd (2).pt" = "loras/odd_2.pt"' in home.file("odd (2).pt")["reason"]
    assert f"{extra}/odd (2).pt" in done.out


def test_daemon_watches_extra_model_path_that_appears_later(
    home: Home, cloud: Sandbox, extra: Path
) -> None:
    with home.daemon() as daemon:
        until(lambda: len(records(cloud)) == 2, "the models that are there")
        put(extra / "late.pt", b"late")
        until(lambda: "models/loras/late.pt" in records(cloud), "the first file of the folder")
        put(extra / "later.pt", b"later")
        until(lambda: "models/loras/later.pt" in records(cloud), "a file shown by the kernel")
        daemon.stop()


def test_missing_extra_model_path_that_held_models_is_a_hold(
    home: Home, cloud: Sandbox, extra: Path
) -> None:
    put(extra / "mine.pt", b"mine")
    home.once()
    extra.rename(extra.parent / "away")

    done = home.once()

    assert done.code == 66
    assert str(extra) in done.err
    assert home.file("mine.pt")["state"] == "registered"


def test_file_that_comfyui_loads_is_sent_of_two_with_one_name(
    home: Home, cloud: Sandbox, extra: Path
) -> None:
    put(extra / "one.safetensors", b"the other one")
    home.write("text_encoders/t.pt", weights(b"loaded"))
    home.write("clip/t.pt", weights(b"shadowed"))

    planned, done = home.plan(), home.once()
    by_place = {(file["root"], file["path"]): file for file in home.status()["files"]}
    other, clip = by_place[str(extra), "one.safetensors"], by_place[str(home.models), "clip/t.pt"]

    assert done.code == 0
    assert records(cloud)["models/loras/one.safetensors"] == home.sha256(ONE)
    assert "models/clip/t.pt" not in records(cloud)
    assert (other["state"], clip["state"]) == ("shadowed", "shadowed")
    assert other["reason"] == f"ComfyUI loads {home.models}/{ONE} under this name"
    assert planned["files_by_action"] == {"upload": 3, "shadowed": 2}


def test_shadowed_file_is_sent_while_the_loaded_one_is_gone(
    home: Home, cloud: Sandbox, extra: Path
) -> None:
    put(extra / "one.safetensors", b"the other one")
    with home.daemon() as daemon:
        until(lambda: len(records(cloud)) == 2, "the two that are loaded")
        (home.models / ONE).rename(home.models / "loras/renamed.safetensors")
        until(lambda: home.counts().get("registered") == 3, "the one that was shadowed")
        taken = [record["file_size"] for record in cloud.records()]
        home.write(ONE, weights(b"back again"))
        until(lambda: home.counts().get("shadowed") == 1, "it gives way")
        daemon.stop()

    assert sorted(taken) == [HEADER + len(b"the other one"), 2000, 3000, 3000]


def test_models_directory_with_other_spelling_is_the_same_root(home: Home, cloud: Sandbox) -> None:
    home.once()
    before = len(deeds(cloud))
    (home.state.parent / "workspace").symlink_to(home.models)
    home.env["SYNCD_MODELS_DIR"] = str(home.state.parent / "workspace")

    planned, done = home.plan(), home.once()

    assert planned["files_by_action"] == {"registered": 2}
    assert done.code == 0
    assert home.counts() == {"registered": 2}
    assert deeds(cloud)[before:] == []
