"""Claims a single job."""

from syncd.store.store import Store
from syncd.types import Job


def claim_one(store: Store, owner: str, now_ms: int) -> Job | None:
    """Lease the first due job, if there is one."""
    jobs, _ = store.jobs.claim(owner, now_ms, lambda sizes: min(1, len(sizes)))
    return next(iter(jobs), None)
