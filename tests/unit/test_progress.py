"""The progress counters of a run."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from syncd.monitoring.progress import Meter, Phase, Running
from syncd.types import Fingerprint, Job, State, Target


def job(number: int, size: int = 100) -> Job:
    return Job(
        id=number,
        root_id=1,
        rel_path=f"loras/{number}",
        fingerprint=Fingerprint(1, number, size, 0, 0),
        target=Target(f"models/loras/{number}", "loras", str(number), str(number)),
        state=State.LEASED,
        attempt=1,
        run_after=0,
    )


def test_job_is_expected_then_running_then_finished() -> None:
    meter = Meter()
    meter.expect(1, 100)
    meter.begin(job(1))
    meter.phase(1, Phase.HASHING)
    meter.add_hashed(1, 100)
    before = meter.snapshot()
    meter.end(1, registered=True)
    after = meter.snapshot()

    assert before.running == (Running(1, "loras/1", 100, Phase.HASHING, hashed=100),)
    assert (before.expected_files, before.expected, before.finished) == (1, 100, 0)
    assert after.running == ()
    assert (after.finished_files, after.finished, after.registered_files) == (1, 100, 1)
    assert (after.expected_files, after.expected) == (1, 100)


def test_each_end_has_its_own_counter() -> None:
    meter = Meter()
    for number in (1, 2, 3, 4):
        meter.begin(job(number))
    meter.end(1, registered=True)
    meter.end(2, adopted=True)
    meter.end(3, failed=True)
    meter.end(4)  # released, not finished

    seen = meter.snapshot()
    assert (seen.registered_files, seen.adopted_files, seen.failed_files) == (1, 1, 1)
    assert (seen.finished_files, seen.finished, seen.expected_files) == (3, 300, 4)


def test_failed_try_is_subtracted_from_file_not_from_total() -> None:
    meter = Meter()
    meter.begin(job(1))
    meter.add_sent(1, 60)
    meter.add_sent(1, -60)
    meter.add_sent(1, 100)

    assert meter.snapshot().running[0].sent == 100
    assert meter.snapshot().sent == 160


def test_resumed_upload_has_stored_parts() -> None:
    meter = Meter()
    meter.begin(job(1))
    meter.parts(1, total=5, done=2, sent=40)
    meter.part_done(1)

    running = meter.snapshot().running[0]
    assert (running.parts_done, running.parts, running.sent) == (3, 5, 40)
    assert meter.snapshot().sent == 0  # sent by an earlier run


class Watch:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


def test_rate_covers_last_minute() -> None:
    watch = Watch()
    meter = Meter(watch)
    meter.begin(job(1))
    for _ in range(24):  # two minutes at 100 bytes a second
        meter.add_sent(1, 500)
        watch.at_s += 5
    busy = meter.snapshot()
    watch.at_s += 60
    idle = meter.snapshot()

    assert busy.sent_rate == pytest.approx(100, rel=0.1)
    assert (idle.sent_rate, idle.idle_s) == (0, 65)


def sent_and_lost(meter: Meter, watch: Watch, count: int) -> None:
    """Run a try of 180 s that sends *count* bytes and fails."""
    meter.begin(job(1))
    meter.add_sent(1, count)
    watch.at_s += 180
    meter.add_sent(1, -count)
    meter.end(1)


def test_I30_bytes_sent_again_to_the_same_place_are_no_progress() -> None:
    watch = Watch()
    meter = Meter(watch)
    watch.at_s += 8 * 3600
    for _ in range(4):
        sent_and_lost(meter, watch, 100)
    stuck = meter.snapshot()
    meter.begin(job(1))
    meter.add_sent(1, 101)

    assert stuck.idle_s == 3 * 180
    assert meter.snapshot().idle_s == 0


def test_I30_bytes_sent_after_a_try_that_got_further_are_progress() -> None:
    watch = Watch()
    meter = Meter(watch)
    sent_and_lost(meter, watch, 400)
    meter.begin(job(1))
    for _ in range(4):
        watch.at_s += 600
        meter.add_sent(1, 90)

        assert meter.snapshot().idle_s == 0


def test_dropped_job_is_not_expected() -> None:
    meter = Meter()
    meter.expect(1, 100)
    meter.begin(job(2))
    meter.drop(1)
    meter.drop(2)

    assert meter.snapshot().running == ()
    assert meter.snapshot().expected_files == 0


def test_counters_are_thread_safe() -> None:
    meter = Meter()
    meter.begin(job(1, size=10**9))

    def send() -> None:
        for _ in range(2000):
            meter.add_sent(1, 3)
            meter.part_done(1)

    with ThreadPoolExecutor(4) as pool:
        for task in [pool.submit(send) for _ in range(4)]:
            task.result()

    assert meter.snapshot().sent == meter.snapshot().running[0].sent == 4 * 2000 * 3
    assert meter.snapshot().running[0].parts_done == 4 * 2000
