import pytest

from syncd.core.files import naming
from syncd.core.files.naming import Refusal, target_of, unwanted
from syncd.types import Target


def refused(rel_path: str) -> Refusal:
    answer = target_of(rel_path, prefix="models/")
    assert isinstance(answer, Refusal)
    return answer


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.safetensors",
        "~syncthing~x.safetensors",
        "Unconfirmed 123.safetensors",
        "x.safetensors.part",
        "x.crdownload",
        "x.safetensors.aria2",
        "x.safetensors.!qB",
        "x.safetensors~",
        "x.safetensors.6eF5e5Da",
        "x.safetensors3141592653",
    ],
)
def test_unfinished_or_hidden_name_is_unwanted(name: str) -> None:
    assert unwanted(f"loras/{name}", 100) in (
        "hidden or temporary name",
        "name of an unfinished download",
    )


@pytest.mark.parametrize("folder", [".cache", "__pycache__", "models--org--name"])
def test_folder_without_models_is_not_entered(folder: str) -> None:
    assert naming.never_enter(folder)
    for rel_path in (f"loras/{folder}/x.safetensors", f"{folder}/x.safetensors"):
        assert folder in (unwanted(rel_path, 100) or "")


@pytest.mark.parametrize(
    ("rel_path", "size", "reason"),
    [
        ("x.safetensors", 100, "not in a type folder"),
        ("configs/v1.ckpt", 100, "configs/ contains ComfyUI's own settings"),
        ("loras/put_loras_here", 100, "placeholder"),
        ("loras/x.yaml", 100, "not a model ending: .yaml"),
        ("loras/x.\n", 100, "not a model ending: .\\n"),
        ("loras/x.safetensors", 0, "empty file"),
    ],
)
def test_unwanted_file_has_a_reason(rel_path: str, size: int, reason: str) -> None:
    assert unwanted(rel_path, size) == reason


def test_typed_root_accepts_files_at_its_top() -> None:
    assert unwanted("x.safetensors", 1, type_key="loras") is None
    assert unwanted("configs/x.safetensors", 1, type_key="loras") is None


def test_target_is_prefix_and_path_with_type_of_first_folder() -> None:
    target = target_of("ultralytics/bbox/Face v2_x-1.tar.pt", prefix="models/")

    assert target == Target(
        "models/ultralytics/bbox/Face v2_x-1.tar.pt",
        "ultralytics",
        "Face v2_x-1.tar.pt",
        "Face v2_x-1.tar",
    )


def test_target_in_typed_root_starts_with_its_type() -> None:
    target = target_of("sub/x.pt", prefix="models/", type_key="loras")

    assert target == Target("models/loras/sub/x.pt", "loras", "x.pt", "x")
    assert isinstance(target_of("x.pt", prefix="", type_key="loras"), Target)


@pytest.mark.parametrize(
    ("rel_path", "offending"),
    [
        ("loras/a..b.pt", ".."),
        ("loras/../x.pt", ".."),
        ("loras/ x.pt", " x.pt"),
        ("loras/x.pt ", "x.pt "),
        ("loras/" + "a" * 253 + ".pt", "a" * 253 + ".pt"),
        ("x.pt", "x.pt"),
        ("l" * 51 + "/x.pt", "l" * 51),
    ],
)
def test_refusal_quotes_bad_segment(rel_path: str, offending: str) -> None:
    refusal = refused(rel_path)

    assert refusal.offending == offending
    assert "renaming" in refusal.reason


def test_longest_names_are_accepted() -> None:
    assert isinstance(target_of("l" * 50 + "/" + "a" * 252 + ".pt", prefix="models/"), Target)

    longest = "loras/" + "/".join(["d" * 190] * 5) + "/"
    name = "n" * (1000 - len("models/" + longest) - 3) + ".pt"
    assert isinstance(target_of(longest + name, prefix="models/"), Target)
    assert refused(longest + "n" + name).offending == "1001 bytes"


def test_companion_leads_to_its_owner() -> None:
    companions = [
        "x.safetensors.aria2",
        "x.safetensors.aria2__temp",
        "x.safetensors.st",
        "x.safetensors.lftp-pget-status",
        "x.safetensors.part",
        "x.safetensors.runpoddirect.part",
        ".x.safetensors.parts_4f",
    ]

    assert {naming.owner_of(name) for name in companions} == {"x.safetensors"}


@pytest.mark.parametrize("name", ["x.safetensors", ".part", ".x.pt.parts", "x.pt.parts_1"])
def test_ordinary_name_is_not_a_companion(name: str) -> None:
    assert naming.owner_of(name) is None


def test_paths_that_differ_in_case_clash() -> None:
    assert naming.clash_key("models/Loras/X.PT") == naming.clash_key("models/loras/x.pt")
    assert naming.clash_key("models/loras/x.pt") != naming.clash_key("models/loras/y.pt")


@pytest.mark.parametrize("rel_path", ["diffusers/flux/unet/model.safetensors", "LLM/qwen/a.bin"])
def test_file_of_bundle_type_is_unwanted_alone(rel_path: str) -> None:
    assert "models of several files" in (naming.unwanted(rel_path, 100) or "")
    assert naming.unwanted("loras/" + rel_path, 100) is None


# Names of the operator's choice


@pytest.mark.parametrize(
    ("rel_path", "remedy"),
    [
        (
            "loras/model (1).safetensors",
            '"loras/model (1).safetensors" = "loras/model_1.safetensors"',
        ),
        ("loras/a+b,c.pt", '"loras/a+b,c.pt" = "loras/a_b_c.pt"'),
        ("loras/Crème brûlée.pt", '"loras/Crème brûlée.pt" = "loras/Creme brulee.pt"'),
        ("loras/漢字.pt", '"loras/漢字.pt" = "loras/model.pt"'),
        ('loras/a"\\\n\x1b.pt', '"loras/a\\"\\\\\\U0000000A\\U0000001B.pt" = "loras/a.pt"'),
        ("loras/[Pony]/x.pt", '"loras/[Pony]/" = "loras/Pony/"'),
    ],
)
def test_refusal_suggests_a_naming_line(rel_path: str, remedy: str) -> None:
    refusal = refused(rel_path)

    assert refusal.remedy == remedy
    assert remedy in refusal.reason
    assert "[naming.map]" in refusal.reason


@pytest.mark.parametrize(
    "rel_path", ["loras/caf\udce9.pt", "x.pt", "l" * 51 + "/x.pt", "a/" + "b/" * 500 + "x.pt"]
)
def test_refusal_suggests_no_line_that_cannot_help(rel_path: str) -> None:
    refusal = refused(rel_path)

    assert refusal.remedy is None
    assert "[naming.map]" not in refusal.reason


NAMES = {
    "loras/a (1).pt": "loras/renamed/a_1.pt",
    "loras/[Pony]/": "loras/Pony/",
    "loras/[Pony]/(x)/": "loras/x/",
    "loras/[Pony]/special.pt": "vae/special.pt",
}


@pytest.mark.parametrize(
    ("rel_path", "model_path"),
    [
        ("loras/a (1).pt", "models/loras/renamed/a_1.pt"),
        ("loras/[Pony]/b.pt", "models/loras/Pony/b.pt"),
        ("loras/[Pony]/sub/b.pt", "models/loras/Pony/sub/b.pt"),
        ("loras/[Pony]/(x)/b.pt", "models/loras/x/b.pt"),
        ("loras/[Pony]/special.pt", "models/vae/special.pt"),
        ("loras/other.pt", "models/loras/other.pt"),
    ],
)
def test_naming_map_uses_nearest_line(rel_path: str, model_path: str) -> None:
    target = target_of(rel_path, prefix="models/", names=NAMES)

    assert isinstance(target, Target)
    assert target.model_path == model_path
    assert target.model_type == model_path.split("/")[1]
    assert target.file_name == model_path.rpartition("/")[2]
