"""Forbidden places outside the models directories."""

import pytest

from syncd.core.files.boundary import Boundary

BOUNDARY = Boundary(frozenset({"/srv/models"}), frozenset({"/srv/state", "/srv/token"}))


@pytest.mark.parametrize(
    ("path", "outside"),
    [("/srv/models/loras/x.pt", False), ("/srv/models2/x.pt", True), ("/mnt/big/x.pt", True)],
)
def test_file_is_outside_unless_below_a_root(path: str, outside: bool) -> None:
    assert BOUNDARY.is_outside(path) is outside


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/etc/ssl/x.pt", "/etc"),
        ("/proc/1/environ", "/proc"),
        ("/run/secrets/x.pt", "/run"),
        ("/home/me/.ssh/x.pt", "/home/me/.ssh"),
        ("/root/.config/a/x.pt", "/root/.config"),
        ("/run/media/me/.gnupg/x.pt", "/run/media/me/.gnupg"),
        ("/srv/state/auth/x.pt", "/srv/state"),
        ("/srv/token", "/srv/token"),
    ],
)
def test_I34_place_that_never_contains_models_is_forbidden(path: str, place: str) -> None:
    assert BOUNDARY.forbidden(path) == place


@pytest.mark.parametrize(
    "path", ["/mnt/big/x.pt", "/run/media/me/disk/x.pt", "/home/me/.cache/x.pt", "/etcetera/x.pt"]
)
def test_other_place_is_not_forbidden(path: str) -> None:
    assert BOUNDARY.forbidden(path) is None
