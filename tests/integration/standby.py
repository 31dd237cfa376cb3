"""Everything imported and ready: reads an order a line, forks a ``syncd``, tells its exit code."""

import importlib
import json
import os
import pkgutil
import pwd  # noqa: F401
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import platformdirs
import rich.console
import rich.live
import rich.progress_bar
import rich.table

import syncd.cli.cloud_session
import syncd.cli.config
import syncd.cli.control
import syncd.cli.doctor
import syncd.cli.gc
import syncd.cli.inspect
import syncd.cli.login
import syncd.cli.plan
import syncd.cli.run
import syncd.cli.safe
import syncd.cli.status
import syncd.cli.support
import syncd.cli.verify
import syncd.cli.whoami
import syncd.daemon.service
from syncd.cli.fast_path import entry


def main() -> None:
    """Until the orders end."""
    for line in sys.stdin:
        order = json.loads(line)
        if order["account"] is not None:
            _import_everything()
        child = os.fork()
        if child == 0:
            _become(order)
            entry()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import_everything() -> None:
    """Another account may not be able to read the program, in a checkout below /root for example."""
    for package in (syncd, rich, platformdirs):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and module.name not in sys.modules:
                with suppress(ImportError):  # a part of rich is for Windows only
                    importlib.import_module(module.name)


def _become(order: Mapping[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["syncd", *order["args"]]
    files = (os.devnull, os.O_RDONLY), (order["out"], os.O_WRONLY), (order["err"], os.O_WRONLY)
    for number, (path, mode) in enumerate(files):
        fd = os.open(path, mode | os.O_CREAT | os.O_TRUNC if mode else mode, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    if order["account"] is not None:
        uid, groups = order["account"]
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
