"""The tokens that repeats of requests cost."""

from syncd.core.jobs.retry_budget import FULL, REPEAT_COSTS, TIMEOUT_COSTS, Budget


def test_I16_repeats_end_when_the_tokens_do() -> None:
    budget = Budget()

    repeats = 0
    while budget.spend(timeout=False):
        repeats += 1

    assert repeats == FULL // REPEAT_COSTS
    assert not budget.spend(timeout=False)


def test_I16_a_repeat_after_a_timeout_costs_more() -> None:
    budget = Budget(tokens=TIMEOUT_COSTS)

    assert budget.spend(timeout=True)
    assert budget.tokens == 0
    assert not Budget(tokens=TIMEOUT_COSTS - 1).spend(timeout=True)
    assert Budget(tokens=TIMEOUT_COSTS - 1).spend(timeout=False)


def test_I16_requests_that_work_earn_tokens_back_up_to_the_full_number() -> None:
    budget = Budget(tokens=0)

    for _ in range(FULL + 5):
        budget.worked()

    assert budget.tokens == FULL


def test_I16_a_refused_repeat_takes_nothing() -> None:
    budget = Budget(tokens=REPEAT_COSTS - 1)

    assert not budget.spend(timeout=False)
    assert budget.tokens == REPEAT_COSTS - 1
