"""Properties of search paths and plans."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.core.catalog.plan import Action, Known, RouteLimits, plan_files
from syncd.core.files.naming import clash_key
from syncd.core.files.search_paths import Folder, Tree
from syncd.core.files.selection import Rules, judge
from syncd.types import Fingerprint, FoundFile

TOPS = ["loras", "Loras", "vae", "clip", "text_encoders", "unet", "configs", "diffusers", ".git"]
BELOW = ["", "a b/", "é/", "loras/", "../", "a b/.git/"]
NAMES = [
    "x.safetensors", "X.safetensors", "y.gguf", "y.gguf.aria2", "z.pt.part", "n.txt", ".hidden.pt", "a b",
]  # fmt: skip
rel_paths = st.sampled_from(
    [*NAMES, *(f"{top}/{below}{name}" for top in TOPS for below in BELOW for name in NAMES)]
)
print_ = Fingerprint(1, 2, 10, 4, 5)


def file(rel_path: str, size: int = 10, root_id: int = 1) -> FoundFile:
    return FoundFile(root_id, rel_path, print_._replace(size=size), size)


# --- search paths

MODELS = 1
keys = st.sampled_from(
    ["loras", "clip", "text_encoders", "unet", "diffusion_models", "vae", "mine"]
)
folders = st.lists(st.tuples(keys, st.booleans(), st.booleans()), max_size=5)


def tree_of(added: list[tuple[str, bool, bool]]) -> Tree:
    return Tree(
        MODELS,
        [
            (
                MODELS if below else number,
                Folder(key, f"/{number}", f"/{number}", first, key if below else None),
            )
            for number, (key, first, below) in enumerate(added, start=2)
            if not (below and key == "mine")
        ],
    )


@given(folders, rel_paths)
def test_search_order_is_total(added: list[tuple[str, bool, bool]], rel_path: str) -> None:
    tree = tree_of(added)
    own = (MODELS, rel_path)
    before, after = tree.before(*own), tree.after(*own)
    alike = [*before, own, *after]

    assert len(set(alike)) == len(alike)
    for at, place in enumerate(alike):
        assert tree.kind_and_name(*place) == tree.kind_and_name(*own)
        assert (tree.before(*place), tree.after(*place)) == (alike[:at], alike[at + 1 :])


# --- the plan

found_files = st.lists(
    st.builds(file, rel_paths, st.integers(0, 30), st.sampled_from([1, 2])),
    max_size=6,
    unique_by=lambda found: (found.root_id, found.rel_path),
)


@given(found_files, st.sets(st.integers(0, 5)), st.sampled_from(["registered", "failed", "queued"]))
def test_plan_has_one_entry_per_file_and_no_target_twice(
    found: list[FoundFile], known_at: set[int], state: str
) -> None:
    known = {
        (each.root_id, each.rel_path): Known(
            each.fingerprint, state, None, f"models/{each.rel_path}"
        )
        for at, each in enumerate(found)
        if at in known_at
    }
    steps = plan_files(
        found,
        known,
        RouteLimits(20, session=False),
        lambda each: judge(Rules(), each.rel_path, each.fingerprint.size),
    )

    assert [(s.root_id, s.rel_path) for s in steps] == [(f.root_id, f.rel_path) for f in found]
    going = (Action.UPLOAD, Action.NEEDS_SIGN_IN, Action.REGISTERED, Action.FAILED)
    places = [clash_key(s.model_path) for s in steps if s.action in going and s.model_path]
    assert len(set(places)) == len(places)
    for step in steps:
        alike = [
            s
            for s in steps
            if s.model_path and clash_key(s.model_path) == clash_key(step.model_path or "")
        ]
        assert step.action is not Action.CONFLICT or len(alike) > 1
        if step.action is Action.REGISTERED:
            assert (state, (step.root_id, step.rel_path) in known) == ("registered", True)
        assert step.reason
