"""Which API calls a server has: those that have answered, and those that it does not know."""

from collections.abc import Callable, Collection

from syncd.core.jobs.error_mapping import to_error
from syncd.types import Call, Kind

NO_SUCH_CALL = frozenset({Kind.ROUTE_UNKNOWN, Kind.REQUEST_REFUSED, Kind.NOT_ALLOWED})
"""Errors that mean that this server does not let syncd change or delete a record."""

NO_LISTING = NO_SUCH_CALL | {Kind.OTHER_CLIENT_ERROR}
"""Errors that mean that this server does not list its models."""

_MULTIPART = frozenset({Call.INITIATE, Call.SIGN_PART, Call.COMPLETE})


class ServerCapabilities:
    """What is known about the calls of one server; *on_answered* is called once for each new one."""

    def __init__(
        self,
        answered: Collection[Call] = (),
        *,
        on_answered: Callable[[Call], None] = lambda call: None,
    ) -> None:
        self._answered = set(answered)
        self._on_answered = on_answered
        self._missing: dict[Call, str] = {}
        self.update_method = "PUT"
        """The method that updates a record is a guess: PUT, or PATCH if the server has no PUT."""

    @property
    def multipart(self) -> bool:
        return not _MULTIPART & self._missing.keys()

    def has_answered(self, call: Call) -> bool:
        return call in self._answered

    def note_answered(self, call: Call) -> None:
        if call not in self._answered:
            self._answered.add(call)
            self._on_answered(call)

    def assume_answered(self, call: Call) -> None:
        """Treat *call* as known to this server: its answer may be the one that was lost."""
        self._answered.add(call)

    def note_missing(self, call: Call, reason: str) -> None:
        """
        Send *call* no more; *reason* is quoted whenever it is asked for.

        A record is always asked for again: the check of a device key and of a lost answer need it,
        and one wrong answer of a gateway must not stop both until a restart.
        """
        if call is not Call.GET_MODEL:
            self._missing.setdefault(call, reason)

    def require(self, call: Call) -> None:
        """Raise ``ROUTE_UNKNOWN`` if *call* is missing; one multipart call needs the other two."""
        needed = _MULTIPART if call in _MULTIPART else {call}
        for missing in self._missing.keys() & needed:
            message = f"{call}: not available on this server: {self._missing[missing]}"
            raise to_error(Kind.ROUTE_UNKNOWN, message, call=call)
