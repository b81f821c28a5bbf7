import random

from edgegen.frontends.mqtt.backoff import backoff_s
from edgegen.frontends.mqtt.throttle import ProgressThrottle


def test_backoff_grows_to_a_minute_and_is_never_the_same():
    rng = random.Random(1)
    assert all(0.5 <= backoff_s(0, rng) <= 1.0 for _ in range(100))
    assert all(2.0 <= backoff_s(2, rng) <= 4.0 for _ in range(100))
    late = [backoff_s(10_000, rng) for _ in range(100)]
    assert min(late) >= 30 and max(late) <= 60 and len(set(late)) > 90


def test_first_and_last_step_pass_and_few_between():
    throttle = ProgressThrottle(0.25)
    passed = [step for step in range(101) if throttle.passes("a", step, 100, now=step * 0.01)]
    assert passed == [0, 25, 50, 75, 100]


def test_jobs_are_throttled_apart_and_anew():
    throttle = ProgressThrottle(0.25)
    assert throttle.passes("a", 0, 9, 0.0) and throttle.passes("b", 0, 9, 0.0)
    assert not throttle.passes("a", 1, 9, 0.1)
    throttle.forget("a")
    assert throttle.passes("a", 0, 9, 0.1)
