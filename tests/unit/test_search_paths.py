from syncd.core.files.search_paths import Folder, Tree, tops_of


def folder(type_key: str, *, is_default: bool = False, top: str | None = None) -> Folder:
    return Folder(type_key, "/x", "/x", is_default, top)


def test_two_folders_of_a_kind_shadow_in_order() -> None:
    tree = Tree(1)

    assert tree.before(1, "clip/sub/a.pt") == [(1, "text_encoders/sub/a.pt")]
    assert tree.after(1, "unet/a.pt") == [(1, "diffusion_models/a.pt")]
    assert tree.before(1, "unet/a.pt") == []


def test_extra_folders_follow_and_defaults_precede() -> None:
    tree = Tree(
        1,
        [
            (2, folder("loras")),
            (3, folder("loras", is_default=True)),
            (4, folder("loras", is_default=True)),
            (5, folder("vae")),
        ],
    )

    assert tree.before(2, "a.pt") == [(4, "a.pt"), (3, "a.pt"), (1, "loras/a.pt")]
    assert tree.after(1, "loras/a.pt") == [(2, "a.pt")]
    assert tree.kind_and_name(5, "sub/a.pt") == ("vae", "sub/a.pt")


def test_repeated_folder_keeps_place_unless_default() -> None:
    once = [(2, folder("loras")), (3, folder("loras")), (2, folder("loras"))]
    raised = [*once, (3, folder("loras", is_default=True))]

    assert Tree(1, once).before(3, "a.pt") == [(1, "loras/a.pt"), (2, "a.pt")]
    assert Tree(1, raised).before(2, "a.pt") == [(3, "a.pt"), (1, "loras/a.pt")]


def test_default_folder_of_models_comes_first() -> None:
    tree = Tree(1, [(1, folder("clip", is_default=True, top="clip"))])

    assert tree.before(1, "text_encoders/a.pt") == [(1, "clip/a.pt")]


def test_models_folder_of_unknown_type_comes_last() -> None:
    tree = Tree(1, [(2, folder("sams"))])

    assert tree.before(1, "sams/a.pt") == [(2, "a.pt")]


def test_old_type_names_map_to_one_kind() -> None:
    assert folder("clip").kind == "text_encoders"
    assert tops_of("text_encoders") == ("text_encoders", "clip")
    assert tops_of("sams") == ("sams",)
    assert tops_of("t2i_adapter") == ()


def test_repr_of_equal_trees_is_equal() -> None:
    assert repr(Tree(1, [(2, folder("loras"))])) == repr(Tree(1, [(2, folder("loras"))]))
    assert repr(Tree(1, [(2, folder("loras"))])) != repr(Tree(1))
