import pytest
import torch

from quantize.pocket.pace import set_pace


@pytest.mark.parametrize(
    ("step", "spent", "rate"),
    [(0, 0.0, 0.02), (24, 0.0, 0.5), (49, 0.0, 1.0), (999, 0.5, 0.5), (999, 1.0, 0.0)],
)
def test_it_rises_and_falls_to_zero_with_the_budget(step, spent, rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)
    set_pace(optimizer, 1.0, step, spent, warm_up=50)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=2e-6)
