"""The retry budget of a host."""

from syncd.core.jobs.retry_budget import FULL, REPEAT_COSTS, TIMEOUT_COSTS, Budget


def test_I16_retries_end_without_tokens() -> None:
    budget = Budget()

    repeats = 0
    while budget.spend(timeout=False):
        repeats += 1

    assert repeats == FULL // REPEAT_COSTS
    assert not budget.spend(timeout=False)


def test_I16_retry_after_timeout_costs_more() -> None:
    budget = Budget(tokens=TIMEOUT_COSTS)

    assert budget.spend(timeout=True)
    assert budget.tokens == 0
    assert not Budget(tokens=TIMEOUT_COSTS - 1).spend(timeout=True)
    assert Budget(tokens=TIMEOUT_COSTS - 1).spend(timeout=False)


def test_I16_successful_requests_earn_tokens_up_to_limit() -> None:
    budget = Budget(tokens=0)

    for _ in range(FULL + 5):
        budget.worked()

    assert budget.tokens == FULL


def test_I16_refused_retry_costs_nothing() -> None:
    budget = Budget(tokens=REPEAT_COSTS - 1)

    assert not budget.spend(timeout=False)
    assert budget.tokens == REPEAT_COSTS - 1
