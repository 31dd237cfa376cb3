"""
The persistent memory: a SQLite database in the state directory, and the right to write it.

No SQL, row or connection leaves this package; what it hands out are the values of ``syncd.model``.
Each name is imported when it is asked for first, since ``syncd status`` is done before all of it is.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncd.core.tree import PathKey as PathKey
    from syncd.store.db import reading as reading
    from syncd.store.files import Admission as Admission
    from syncd.store.files import Files as Files
    from syncd.store.files import KnownFiles as KnownFiles
    from syncd.store.files import RootRow as RootRow
    from syncd.store.files import Wanted as Wanted
    from syncd.store.holds import HOLD_KINDS as HOLD_KINDS
    from syncd.store.holds import PAUSED as PAUSED
    from syncd.store.jobs import LEASE_TTL_MS as LEASE_TTL_MS
    from syncd.store.outline import FILE_STATES as FILE_STATES
    from syncd.store.outline import Amount as Amount
    from syncd.store.outline import FileReport as FileReport
    from syncd.store.outline import HoldRow as HoldRow
    from syncd.store.outline import NextTry as NextTry
    from syncd.store.outline import Outline as Outline
    from syncd.store.outline import PassedOver as PassedOver
    from syncd.store.outline import RootReport as RootReport
    from syncd.store.records import Records as Records
    from syncd.store.records import Retiring as Retiring
    from syncd.store.records import Standing as Standing
    from syncd.store.report import EventReport as EventReport
    from syncd.store.report import FileDetail as FileDetail
    from syncd.store.report import Named as Named
    from syncd.store.report import Registered as Registered
    from syncd.store.report import Report as Report
    from syncd.store.store import Store as Store
else:

    def __getattr__(name: str) -> object:
        """See PEP 562."""
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(home), name)


_HOMES = {
    "syncd.core.tree": ("PathKey",),
    "syncd.store.db": ("reading",),
    "syncd.store.files": ("Admission", "Files", "KnownFiles", "RootRow", "Wanted"),
    "syncd.store.holds": ("HOLD_KINDS", "PAUSED"),
    "syncd.store.jobs": ("LEASE_TTL_MS",),
    "syncd.store.records": ("Records", "Retiring", "Standing"),
    "syncd.store.report": ("EventReport", "FileDetail", "Named", "Registered", "Report"),
    "syncd.store.store": ("Store",),
    "syncd.store.outline": (
        "FILE_STATES",
        "Amount",
        "FileReport",
        "HoldRow",
        "NextTry",
        "Outline",
        "PassedOver",
        "RootReport",
    ),
}
