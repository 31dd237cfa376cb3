"""
One job from claim to its end.

A worker asks ``core.steps`` what a job needs next, does it, commits the fact, and asks again. It keeps
no memory of its own beside a live upload URL: whatever happens to the process, the next claim starts
from the facts. What an error leads to is the retry table's answer, not the worker's.

To be read in this order; each imports only what stands below it::

    worker      a claimed job, step by step, its lease kept: here it begins and ends
    upload      the steps that bring its bytes into the store
    parts       that one of them which sends an upload's parts, and has the file read beside it
    record      the steps that bring it into the catalog
    file        the step that reads its file, and the looks whether it is still the same
    ends        what an error leads to, and the other ways to let go of a job
    run         what is known of a job at work, and what it is worked with
    routes      in one request or in parts
    outcome     the names of the ends
"""

from syncd.worker.outcome import End, Outcome, Side
from syncd.worker.routes import Routes
from syncd.worker.run import Means
from syncd.worker.worker import Worker

__all__ = ["End", "Means", "Outcome", "Routes", "Side", "Worker"]
