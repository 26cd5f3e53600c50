"""Compilation before the clock starts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from manifold_mixup import MixPlan, sample_plan
from manifold_mixup.lab.data.loader import parts
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.method import beside_clean
from manifold_mixup.lab.training.mixing import plan_options
from manifold_mixup.lab.training.partners import beside_partners


def warm_up(job: Job) -> None:
    """Compile every graph that the training needs; do nothing if the run does not compile.

    There is one graph per eligible layer and batch size; the last batch of an epoch may be smaller.
    Gradients and buffers are restored, so that the result of the training stays bit-identical.
    """
    if not job.run.compile:
        return
    before = {name: value.clone() for name, value in job.core.named_buffers()}
    job.model.train()
    with torch.random.fork_rng():
        for x, y in _shapes(job):
            for plan in _plans(job, x):
                _pass(job, x, y, plan)
    job.clear_gradients()
    with torch.no_grad():
        for name, value in job.core.named_buffers():
            value.copy_(before[name])


def _shapes(job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a batch part of every size that occurs in an epoch."""
    seen = set()
    for step in (0, len(job.loader) - 1):
        for x, y in parts(*next(job.loader.epoch(1, start_step=step)), job.run.accumulate):
            if len(y) not in seen:
                seen.add(len(y))
                yield x, y


def _plans(job: Job, x: Tensor) -> Iterator[MixPlan | None]:
    """Yield a plan of every kind that has a graph of its own; ``None`` mixes nothing."""
    run = job.run
    if not run.layers or run.p < 1 or run.ict_weight:  # labelled batches are not mixed in ICT
        yield None
    kinds = plan_options(run)
    for layer, kind in product(run.layers, kinds):
        plan = sample_plan(len(x), layers=[layer], alpha=1.0, per_sample=run.per_sample, **kind)
        if run.clean or run.pairs == "near":
            plan = beside_clean(plan) if run.clean else beside_partners(plan)
        yield plan.to(x.device)
        if run.pairs in ("other_class", "near_in_batch"):  # partners that repeat
            yield replace(plan, perm=torch.zeros_like(plan.perm)).to(x.device)


def _pass(job: Job, x: Tensor, y: Tensor, plan: MixPlan | None) -> None:
    mixing: AbstractContextManager[None] = nullcontext()
    if job.method.mixup is not None:
        mixing = job.method.mixup.using(plan)
    if job.run.clean or job.run.pairs == "near":
        x, y = torch.cat([x, x]), torch.cat([y, y])
    with mixing:
        output = job.model(x)
    job.accelerator.backward(job.method.criterion(output, y))
