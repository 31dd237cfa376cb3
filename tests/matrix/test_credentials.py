"""Credentials that come, go and are renewed while the daemon runs; none of it wants a restart."""

import asyncio

from syncd.sandbox.faults import Fault, Rule
from syncd.types import Call
from tests.matrix.stage import HOUR_S, LARGE, SMALL, Stage, staged

HOURLY = {"access_token_lifetime_s": 3600, "reuse_ends_chain": True}


def renewals(stage: Stage) -> list[int | None]:
    return [entry.status for entry in stage.calls(Call.REFRESH)]


@staged(session=False)
async def test_sign_in_ends_needs_sign_in_without_a_restart(stage: Stage) -> None:
    stage.write(LARGE)
    stage.start()
    job = await stage.until(
        lambda: (j := stage.job(LARGE)) and j["held_class"] == "large" and j, "a held file"
    )
    assert "syncd login --large-files" in job["last_advice"]
    stage.sign_in()
    await stage.arrives(LARGE)
    assert len(stage.started) == 1
    assert stage.query("SELECT team_id FROM cloud")[0]["team_id"] == stage.far.accounts.team_id


@staged(session=False, switches=HOURLY)
async def test_idle_daemon_renews_its_session(stage: Stage) -> None:
    stage.sign_in()
    stage.start()
    await asyncio.sleep(10 * HOUR_S)
    assert set(renewals(stage)) == {200}
    assert 9 <= len(renewals(stage)) <= 12
    stage.write(LARGE)
    await stage.arrives(LARGE)


@staged(session=False, switches=HOURLY)
async def test_lost_renewal_is_a_hold_that_a_sign_in_ends(
    stage: Stage,
) -> None:
    stage.sign_in()
    stage.start()
    stage.inject(Rule(Fault.LOST_ANSWER, call=Call.REFRESH))
    await asyncio.sleep(3 * HOUR_S)
    assert renewals(stage) == [200, 401]
    stage.write(SMALL)
    hold = await stage.until(lambda: next(iter(stage.holds()), None), "a hold")
    assert hold["kind"] == "operator"
    assert "was lost" in hold["reason"]
    assert "syncd login --large-files" in hold["advice"]
    await asyncio.sleep(3 * HOUR_S)
    assert renewals(stage) == [200, 401]  # no loop
    assert not stage.registered(SMALL)  # nor by the key that is there, too: one catalog
    stage.clear_faults()
    stage.sign_in()
    await stage.arrives(SMALL)
    assert len(stage.started) == 1
