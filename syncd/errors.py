"""
Errors, grouped by what happens next.

::

    SyncdError                      has an exit code; its text says what happened and what to do
    ├── ConfigError                 78  the configuration cannot be used; names the key and its origin
    ├── StateError                  74  the state directory cannot be written, or the database is damaged
    │   └── StateFull                   its disk is full or read-only; nothing was written, retry later
    ├── AccessDenied                77  this account may not read a path; names the path and its owner
    ├── AlreadyRunning              75  another instance holds the lock
    ├── RootUnavailable             66  a root is missing, unexpectedly empty, or unreadable
    │   └── RulesUnusable           78  its .syncdignore cannot be used, so nothing in it can be judged
    └── JobError                    a job's failure; names a row of the retry table
        ├── Retryable               RETRY: the same job, later
        ├── Permanent               REJECT: not before the file or the configuration changes
        ├── Hold                    RELEASE: all jobs wait, one of them probes
        │   ├── Offline
        │   ├── Throttled
        │   └── NeedsOperator
        └── Stale                   stop quietly
            ├── FileChanged         REPLACE: the file is not what the job was made for
            └── LeaseLost           the row is no longer ours

Each package converts the exceptions of the libraries that it uses into these. No code decides by
message text.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncd.types import Call, Kind


class SyncdError(Exception):
    """Base class of all errors that syncd raises."""

    exit_code = 70


class ConfigError(SyncdError):
    exit_code = 78


class StateError(SyncdError):
    exit_code = 74


class AccessDenied(SyncdError):
    exit_code = 77


class StateFull(StateError):
    """The disk of the state directory is full, or read-only; the transaction was rolled back."""


class AlreadyRunning(SyncdError):
    exit_code = 75


class RootUnavailable(SyncdError):
    exit_code = 66


class RulesUnusable(RootUnavailable):
    exit_code = 78


class JobError(SyncdError):
    """
    A failure of a job.

    Args:
        message: What happened, in one sentence, without secrets.
        retry_after_s: What the server asked for, in seconds, already clamped.
        advice: What an operator can do; None if nothing is needed.
        unclear: It is unknown whether the request took effect.
        timed_out: It occupied a connection until a timeout.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: "Kind",
        retry_after_s: float | None = None,
        advice: str | None = None,
        unclear: bool = False,
        timed_out: bool = False,
        call: "Call | None" = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.advice = advice
        self.unclear = unclear
        self.timed_out = timed_out
        self.call = call


class Retryable(JobError):
    """The job is retried; the retry table says how."""


class Permanent(JobError):
    """No retry will help until the file or the configuration changes."""


class Hold(JobError):
    """Not caused by this job: all jobs wait."""


class Offline(Hold):
    """The cloud cannot be reached."""


class Throttled(Hold):
    """The API asked for fewer requests."""


class NeedsOperator(Hold):
    """An operator must act: credentials, role, licence, quota, clock, trust."""


class Stale(JobError):
    """The job is outdated."""


class FileChanged(Stale):
    def __init__(self, message: str) -> None:
        from syncd.types import Kind

        super().__init__(message, kind=Kind.LOCAL_READ_ERROR)


class LeaseLost(Stale):
    def __init__(self, message: str) -> None:
        from syncd.types import Kind

        super().__init__(message, kind=Kind.STATE_ERROR)
