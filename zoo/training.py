"""One resumable training loop for every part of the zoo."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CHECKPOINT_SECONDS = 60.0


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Plan:
    """How long and how fast: AdamW under a linear warm-up and a cosine down to zero."""

    steps: int
    rate: float
    warmup: int = 50
    weight_decay: float = 1e-4
    average: float = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps none."""

    def rate_at(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))


class Training:
    """Trains ``module`` by ``loss``, which draws a batch with the generator that it is given.

    Step s draws with a generator seeded by (seed, s), so a run that was killed and goes on
    from its checkpoint sees the batches that an unbroken run sees.
    """

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        loss: Callable[[torch.Generator], torch.Tensor],
        plan: Plan,
        *,
        seed: int,
        work: Path | None,
    ) -> None:
        self.name, self.module, self.loss, self.plan, self.seed = name, module, loss, plan, seed
        self.checkpoint = None if work is None else work / f"{name}.checkpoint.pt"
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.rate, betas=(0.9, 0.99), weight_decay=plan.weight_decay
        )
        self.averages = [p.detach().clone() for p in self.parameters]
        self.step, self.shown = 0, math.nan

    def run(self) -> None:
        """Train to the end and leave the averaged weights (if any) in the module."""
        self.resume()
        saved = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.4f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, refresh_per_second=1) as progress:
            bar = progress.add_task(
                self.name, total=self.plan.steps, completed=self.step, loss=math.nan
            )
            while self.step < self.plan.steps:
                self.advance()
                progress.update(bar, completed=self.step, loss=self.shown)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
        self.save()
        if self.plan.average:
            with torch.no_grad():
                for parameter, average in zip(self.parameters, self.averages, strict=True):
                    parameter.copy_(average)
        self.module.eval()

    def advance(self) -> None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        value = self.loss(generator)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self.shown = (
            value.item() if math.isnan(self.shown) else 0.98 * self.shown + 0.02 * value.item()
        )
        if self.plan.average:
            decay = min(self.plan.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)
        if self.step % 50 == 0:
            print(f"{self.name} {self.step}/{self.plan.steps} loss {self.shown:.4f}", flush=True)

    def save(self) -> None:
        if self.checkpoint is None:
            return
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "averages": self.averages,
            },
            partial,
        )
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averages = state["averages"]
        self.step = state["step"]
