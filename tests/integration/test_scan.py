import errno
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.fs import mounts, scanner
from syncd.types import Fingerprint, FoundFile, Mount
from tests.accounts import as_other_account
from tests.scale import scaled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


def put(path: Path, content: bytes = b"model") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found_paths(root: Path, below: str = "", **options: Any) -> list[str]:
    """Paths found, where nothing may go wrong."""
    return [f.rel_path for f in files(root, below, **options)]


def files(root: Path, below: str = "", **options: Any) -> list[FoundFile]:
    def problem(rel_path: str, error: OSError) -> None:
        raise AssertionError(f"{rel_path}: {error}")

    return list(
        scanner.files_in(scanner.scan(str(root), 7, below=below, problem=problem, **options))
    )


def paths_and_problems(root: Path, below: str = "") -> tuple[list[str], dict[str, int | None]]:
    problems: dict[str, int | None] = {}

    def problem(rel_path: str, error: OSError) -> None:
        problems[rel_path] = error.errno

    batches = scanner.scan(str(root), 7, below=below, problem=problem)
    return [f.rel_path for f in scanner.files_in(batches)], problems


def test_found_file_has_the_fingerprint_of_stat(root: Path) -> None:
    path = put(root / "loras" / "x.pt", b"12345")

    st_ = path.stat()
    (found,) = files(root)

    assert found == FoundFile(
        7,
        "loras/x.pt",
        Fingerprint(st_.st_dev, st_.st_ino, 5, st_.st_mtime_ns, st_.st_ctime_ns),
        st_.st_blocks * 512,
    )
    assert scanner.find_file(str(root), 7, "loras/x.pt") == found


names = st.binary(min_size=1, max_size=4).filter(
    lambda n: n not in (b".", b"..") and not n.startswith(b".") and b"/" not in n and b"\0" not in n
)


@settings(max_examples=min(scaled(300), 2_000))
@given(st.lists(st.lists(names, min_size=1, max_size=3), max_size=12))
def test_I26_any_bytes_that_the_disk_holds_come_through_in_order(paths: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = set()
        for segments in paths:
            path = os.path.join(os.fsencode(directory), *segments)
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            except OSError:  # a file where a folder would be, or the other way round
                continue
            made.add(b"/".join(segments))

        found = [os.fsencode(rel_path) for rel_path in found_paths(Path(directory))]

    assert found == sorted(made)


def test_folders_without_models_are_skipped(root: Path) -> None:
    for folder in (".cache", "__pycache__", "models--a--b", "loras"):
        put(root / folder / "x.pt")

    assert found_paths(root) == ["loras/x.pt"]
    assert found_paths(root, ".cache") == []


def test_I25_only_regular_files_are_found_and_nothing_waits_for_a_fifo(root: Path) -> None:
    os.mkfifo(root / "fifo.pt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.pt"))
        (root / "null.pt").symlink_to("/dev/null")
        put(root / "x.pt")

        assert found_paths(root) == ["x.pt"]
        for name in ("fifo.pt", "socket.pt", "null.pt"):
            assert scanner.find_file(str(root), 7, name) is None


def test_links_to_files_and_folders_are_followed_under_their_own_names(
    root: Path, tmp_path: Path
) -> None:
    put(tmp_path / "elsewhere" / "sub" / "x.pt")
    (root / "loras").symlink_to(tmp_path / "elsewhere")
    (root / "vae").symlink_to(tmp_path / "elsewhere")
    (root / "y.pt").symlink_to(tmp_path / "elsewhere" / "sub" / "x.pt")

    found = files(root)

    assert [f.rel_path for f in found] == ["loras/sub/x.pt", "vae/sub/x.pt", "y.pt"]
    assert len({f.fingerprint for f in found}) == 1
    assert found_paths(root, "vae/sub") == ["vae/sub/x.pt"]


def test_I25_cycles_of_links_end(root: Path) -> None:
    put(root / "loras" / "x.pt")
    for link in ("one", "two", "loras/up"):  # two to the root alone would be 2 ** 40 folders
        (root / link).symlink_to(root)
    (root / "vae").mkdir()
    (root / "vae" / "to_loras").symlink_to(root / "loras")
    (root / "loras" / "to_vae").symlink_to(root / "vae")

    assert found_paths(root) == ["loras/x.pt", "vae/to_loras/x.pt"]
    assert found_paths(root, "one/loras") == []


def test_I20_a_link_to_nowhere_that_may_stand_for_a_folder_is_a_problem(root: Path) -> None:
    (root / "vae").mkdir()
    for name in ("volume", "volume-v1.5", "gone.pt", ".hidden"):
        (root / "vae" / name).symlink_to(root / "nothing")
    (root / "outside").symlink_to("/nothing/there")

    def met(symlinks: scanner.Symlinks) -> list[str]:
        problems: list[str] = []
        batches = scanner.scan(
            str(root), 7, symlinks=symlinks, problem=lambda path, error: problems.append(path)
        )
        assert list(batches) == []
        return problems

    assert met("follow") == ["outside", "vae/volume", "vae/volume-v1.5"]
    assert met("within_roots") == ["vae/volume", "vae/volume-v1.5"]
    assert met("skip") == []


@pytest.fixture
def linked(root: Path, tmp_path: Path) -> Path:
    """A root with links to a file and a folder inside it, in another root, and outside of both."""
    inside = put(root / "inside" / "x.pt")
    other = put(tmp_path / "other" / "x.pt")
    outside = put(tmp_path / "models2" / "x.pt")  # begins like the root, and is none
    for name, target in (("inside", inside), ("other", other), ("outside", outside)):
        (root / f"file_{name}.pt").symlink_to(target)
        (root / f"folder_{name}").symlink_to(target.parent)
    return root


def test_F17_links_are_all_skipped_where_the_rule_says_so(linked: Path) -> None:
    assert found_paths(linked, symlinks="skip") == ["inside/x.pt"]
    assert found_paths(linked, "folder_inside", symlinks="skip") == []


def test_F17_links_that_leave_all_roots_are_skipped_where_the_rule_says_so(
    linked: Path, tmp_path: Path
) -> None:
    alone = ["file_inside.pt", "folder_inside/x.pt", "inside/x.pt"]
    both = [*alone, "file_other.pt", "folder_other/x.pt"]

    assert found_paths(linked, symlinks="within_roots") == alone
    found = found_paths(linked, symlinks="within_roots", roots=[str(tmp_path / "other")])
    assert found == sorted(both)


@pytest.mark.parametrize("link", ["file_{}.pt", "folder_{}/x.pt"])
@pytest.mark.cell("F17-settle")
def test_F17_find_file_follows_the_same_rule(linked: Path, link: str) -> None:
    def sees(where: str, rule: scanner.Symlinks) -> bool:
        return scanner.find_file(str(linked), 7, link.format(where), symlinks=rule) is not None

    assert sees("outside", "follow")
    assert not sees("outside", "within_roots")
    assert sees("inside", "within_roots")
    assert not sees("inside", "skip")
    assert scanner.find_file(str(linked), 7, "inside/x.pt", symlinks="skip") is not None


def test_I20_a_missing_root_is_a_problem_of_everything(root: Path) -> None:
    assert paths_and_problems(root / "missing") == ([], {"": errno.ENOENT})
    assert paths_and_problems(root / "missing", "loras") == ([], {"": errno.ENOENT})
    assert paths_and_problems(put(root / "file")) == ([], {"": errno.ENOTDIR})


def test_a_vanished_folder_below_a_root_simply_holds_nothing(root: Path) -> None:
    assert found_paths(root, "loras/deeper") == []


def test_folders_too_deep_are_a_problem_and_not_gone(root: Path) -> None:
    deep = "/".join(["d"] * scanner.DEPTH_MAX)
    put(root / deep / "x.pt")
    put(root / deep / "d" / "y.pt")

    assert paths_and_problems(root) == ([f"{deep}/x.pt"], {f"{deep}/d": errno.ENAMETOOLONG})


@pytest.fixture
def locked() -> Iterator[Path]:
    """A root that anybody may read, but for a folder and a file in it."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        for name in ("a/x.pt", "closed/x.pt", "closed/sub/y.pt", "private.pt"):
            put(root / name)
        (root / "linked.pt").symlink_to(root / "closed" / "x.pt")
        (root / "private.pt").chmod(0)
        (root / "closed").chmod(0)
        yield root
        (root / "closed").chmod(0o755)


def test_I20_what_cannot_be_read_is_a_problem_and_not_gone(locked: Path) -> None:
    with as_other_account():
        found, problems = paths_and_problems(locked)
        below = paths_and_problems(locked, "closed/sub")

    assert found == ["a/x.pt", "private.pt"]
    assert problems == {"closed": errno.EACCES, "linked.pt": errno.EACCES}
    assert below == ([], {"closed": errno.EACCES})


def test_find_file_below_unreadable_folder_raises(locked: Path) -> None:
    with as_other_account():
        with pytest.raises(PermissionError):
            scanner.find_file(str(locked), 7, "closed/x.pt")
        with pytest.raises(PermissionError):
            scanner.unfinished_downloads(str(locked), "closed")


def test_I20_running_out_of_descriptors_is_a_problem_and_not_an_empty_folder(root: Path) -> None:
    put(root / "x.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)

    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # enough to open, not to list
    try:
        answer = paths_and_problems(root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert answer == ([], {"": errno.EMFILE})


@pytest.mark.parametrize("rel_path", ["nothing.pt", "x.pt/below.pt", "folder"])
def test_find_file_of_non_file_returns_none(root: Path, rel_path: str) -> None:
    put(root / "x.pt")
    (root / "folder").mkdir()

    assert scanner.find_file(str(root), 7, rel_path) is None


def test_unfinished_downloads_are_listed_with_their_markers(root: Path) -> None:
    for name in ("x.pt", "x.pt.aria2", "y.pt", "z.pt"):
        put(root / "loras" / name)
    (root / "loras" / ".y.pt.parts_17").mkdir()

    assert scanner.unfinished_downloads(str(root), "loras") == {
        "x.pt": "x.pt.aria2",
        "y.pt": ".y.pt.parts_17",
    }
    assert scanner.unfinished_downloads(str(root), "missing") == {}


TABLE = rb"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /mnt/nas rw shared:4 master:1 - nfs4 10.0.0.5:/export rw
31 22 0:31 /sub\040dir /mnt/my\040models rw - fuse.juicefs JuiceFS:my\134vol rw
32 22 0:32 / /mnt/twice rw - tmpfs under rw
33 32 0:33 / /mnt/twice rw - cifs //box/share rw
34 22 0:34 / /mnt/raw rw - fuseblk /dev/sdb1 rw
35 22 0:35 / /mnt/box rw - fuse.fuse-overlayfs fuse-overlayfs rw
"""


@pytest.mark.parametrize(
    ("path", "mount", "network"),
    [
        ("/mnt", Mount("ext4", "/dev/vda", "/"), None),
        ("/mnt/nas/loras", Mount("nfs4", "10.0.0.5:/export", "/"), "nfs4"),
        ("/mnt/nas2", Mount("ext4", "/dev/vda", "/"), None),
        ("/mnt/my models", Mount("fuse.juicefs", "JuiceFS:my\\vol", "/sub dir"), "fuse.juicefs"),
        ("/mnt/twice/x", Mount("cifs", "//box/share", "/"), "cifs"),
        ("/mnt/raw", Mount("fuseblk", "/dev/sdb1", "/"), None),
        ("/mnt/box", Mount("fuse.fuse-overlayfs", "fuse-overlayfs", "/"), None),
    ],
)
def test_mounts_are_read_as_the_kernel_writes_them(
    tmp_path: Path, path: str, mount: Mount, network: str | None
) -> None:
    table = put(tmp_path / "mountinfo", TABLE)

    assert mounts.mount_of(path, table=str(table)) == mount
    assert mounts.network_filesystem(path, table=str(table)) == network


def test_mounts_in_a_root_are_those_below_it_and_those_behind_links(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "vae").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "disk").mkdir()
    for name, target in (("linked", "disk"), ("inside", "plain"), ("gone", "nowhere")):
        (root / name).symlink_to(tmp_path / target)
    at, beside = os.fsencode(root), os.fsencode(tmp_path / "disk")
    lines = (
        b"22 1 253:1 / / rw - ext4 /dev/vda rw",
        b"30 22 8:1 / %s/vae rw - xfs /dev/sda1 rw" % at,
        b"31 22 8:2 /sub %s/deep/er rw - xfs /dev/sdb1 rw" % at,
        b"32 22 8:3 / %s rw - xfs /dev/sdc1 rw" % beside,
        b"33 22 8:4 / %s2/vae rw - xfs /dev/sdd1 rw" % at,
    )
    table = put(tmp_path / "mountinfo", b"\n".join(lines))
    links = ["linked", "inside", "gone", "vae"]

    assert mounts.mounts_in(str(root), links, table=str(table)) == {
        "": Mount("ext4", "/dev/vda", "/"),
        "vae": Mount("xfs", "/dev/sda1", "/"),
        "deep/er": Mount("xfs", "/dev/sdb1", "/sub"),
        "linked": Mount("xfs", "/dev/sdc1", "/"),
    }


def test_bind_mount_of_a_folder_onto_itself_changes_no_mount(tmp_path: Path) -> None:
    """A service manager's read-only folders: only the service sees them as mounts."""
    lines = (
        b"22 1 253:1 / / rw - ext4 /dev/vda rw",
        b"30 22 253:1 /home /home ro - ext4 /dev/vda rw",
        b"31 22 0:9 / /srv rw - nfs4 nas:/srv rw",
        b"32 31 0:9 /models /srv/models ro - nfs4 nas:/srv rw",
        b"33 22 253:1 /home /mnt ro - ext4 /dev/vda rw",
    )
    table = str(put(tmp_path / "mountinfo", b"\n".join(lines)))

    assert mounts.mount_of("/home/user/models", table=table) == Mount("ext4", "/dev/vda", "/")
    assert mounts.mounts_in("/srv", table=table) == {"": Mount("nfs4", "nas:/srv", "/")}
    assert mounts.mount_of("/mnt", table=table) == Mount("ext4", "/dev/vda", "/home")
