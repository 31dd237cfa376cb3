from syncd.core.files.search_paths import Folder, Tree, tops_of


def folder(type_key: str, *, is_default: bool = False, top: str | None = None) -> Folder:
    return Folder(type_key, "/x", "/x", is_default, top)


def test_old_type_names_map_to_one_kind() -> None:
    assert folder("clip").kind == "text_encoders"
    assert tops_of("text_encoders") == ("text_encoders", "clip")
    assert tops_of("sams") == ("sams",)
    assert tops_of("t2i_adapter") == ()


def test_repr_of_equal_trees_is_equal() -> None:
    assert repr(Tree(1, [(2, folder("loras"))])) == repr(Tree(1, [(2, folder("loras"))]))
    assert repr(Tree(1, [(2, folder("loras"))])) != repr(Tree(1))
