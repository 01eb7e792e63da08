"""A killed training run goes on as if it had not been killed."""

from pathlib import Path

import pytest
import torch

from zoo.training import Plan, Training

PLAN = Plan(steps=12, rate=0.05, warmup=2, average=0.9)


def train(work: Path | None, stop_at: int | None = None) -> tuple[torch.nn.Linear, Training]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)

    def loss(generator: torch.Generator) -> torch.Tensor:
        if stop_at is not None and training.step == stop_at:
            training.save()
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        return (module(x) - x.sum(1, keepdim=True)).square().mean()

    training = Training("line", module, loss, PLAN, seed=1, work=work)
    training.run()
    return module, training


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_at=7)
    resumed, training = train(tmp_path)
    assert training.step == PLAN.steps
    torch.testing.assert_close(resumed.weight, unbroken.weight, rtol=0, atol=0)


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [PLAN.rate_at(step) for step in range(PLAN.steps + 1)]
    assert max(rates) == PLAN.rate
    assert rates[0] < rates[1]
    assert rates[-1] == pytest.approx(0, abs=1e-9)
