from syncd.core.files.search_paths import Folder, Tree, tops_of


def folder(type_key: str, *, is_default: bool = False, top: str | None = None) -> Folder:
    return Folder(type_key, "/x", "/x", is_default, top)


def test_a_model_of_one_directory_has_no_rival() -> None:
    tree = Tree(1)

    for rel_path in ("loras/a.pt", "ipadapter/a.pt", "a.pt"):
        assert tree.before(1, rel_path) == tree.after(1, rel_path) == []


def test_the_folders_of_a_pair_are_rivals_in_their_order() -> None:
    tree = Tree(1)

    assert tree.before(1, "clip/sub/a.pt") == [(1, "text_encoders/sub/a.pt")]
    assert tree.after(1, "unet/a.pt") == [(1, "diffusion_models/a.pt")]
    assert tree.before(1, "unet/a.pt") == []


def test_extra_folders_stand_behind_and_defaults_in_front_the_last_one_first() -> None:
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


def test_a_folder_named_twice_keeps_its_place_unless_it_is_made_default() -> None:
    once = [(2, folder("loras")), (3, folder("loras")), (2, folder("loras"))]
    raised = [*once, (3, folder("loras", is_default=True))]

    assert Tree(1, once).before(3, "a.pt") == [(1, "loras/a.pt"), (2, "a.pt")]
    assert Tree(1, raised).before(2, "a.pt") == [(3, "a.pt"), (1, "loras/a.pt")]


def test_a_folder_of_models_made_default_goes_to_the_front_of_its_kind() -> None:
    tree = Tree(1, [(1, folder("clip", is_default=True, top="clip"))])

    assert tree.before(1, "text_encoders/a.pt") == [(1, "clip/a.pt")]


def test_the_models_folder_of_an_unknown_type_comes_after_the_named_ones() -> None:
    tree = Tree(1, [(2, folder("sams"))])

    assert tree.before(1, "sams/a.pt") == [(2, "a.pt")]


def test_old_names_are_other_names_of_one_kind_and_a_new_type_is_none_of_models() -> None:
    assert folder("clip").kind == "text_encoders"
    assert tops_of("text_encoders") == ("text_encoders", "clip")
    assert tops_of("sams") == ("sams",)
    assert tops_of("t2i_adapter") == ()


def test_another_order_is_another_tree() -> None:
    assert repr(Tree(1, [(2, folder("loras"))])) != repr(Tree(1))
