"""A criterion that reads something of each example that it is not given is warned of."""

import functools
import random
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manifold_mixup import ManifoldMixup
from manifold_mixup._target.arguments import Call, Roles
from manifold_mixup._target.order import order_matters
from states import normal

ROWS = 7
X, Y, WEIGHT = normal(ROWS, 4), torch.arange(ROWS) % 3, torch.arange(1.0, ROWS + 1)
SAYS = r"put in another order together with their targets.*with_target='weight'"


def weighed(output, y, weight):
    return (F.cross_entropy(output, y, reduction="none") * weight).mean()


class Holding(nn.Module):
    """Holds the weights of a batch, which are set beforehand."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = WEIGHT, 0

    def forward(self, output, y):
        self.calls += 1
        return weighed(output, y, self.weight)


def by_row(output, y, reduction="mean"):
    losses = F.cross_entropy(output, y, reduction="none") * WEIGHT
    return losses if reduction == "none" else losses.mean()


BATCH = types.SimpleNamespace(weight=WEIGHT)
READING = {
    "a variable": (lambda output, y: weighed(output, y, WEIGHT),),
    "a partial": (functools.partial(weighed, weight=WEIGHT),),
    "an attribute": (Holding(),),
    "an object": (lambda output, y, batch: weighed(output, y, batch.weight), BATCH),
    "some rows": (lambda output, y: F.cross_entropy(output[:3], y[:3]),),
    "a dict of losses": (lambda output, y: {"loss": weighed(output, y, WEIGHT)},),
    "unreduced": (lambda output, y: by_row(output, y, "none"),),
}


def attach(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    return model, ManifoldMixup(model, ["1"], seed=0, **options)


@pytest.mark.parametrize("holds", READING)
def test_it_is_warned_of_once(holds):
    criterion, *more = READING[holds]
    model, mixup = attach()
    wrapped = mixup.wrap(criterion)
    with pytest.warns(UserWarning, match=SAYS):
        wrapped(model(X), Y, *more)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped(model(X), Y, *more)


def test_with_a_lam_for_each_example():
    model, mixup = attach(per_sample=True)
    with pytest.warns(UserWarning, match=SAYS):
        mixup.wrap(by_row)(model(X), Y)


def test_the_way_out_mixes_what_it_reads():
    model, mixup = attach()
    output = model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = mixup.wrap(weighed, with_target="weight")(output, Y, weight=WEIGHT)
    plan = mixup.plan
    own, partner = weighed(output, Y, WEIGHT), weighed(output, Y[plan.perm], WEIGHT[plan.perm])
    torch.testing.assert_close(loss, plan.lam * own + (1 - plan.lam) * partner)
    with pytest.warns(UserWarning, match=SAYS):
        wrong = mixup.wrap(Holding())(output, Y)
    assert not wrong.allclose(loss)


def penalised(output, y):
    loss = F.cross_entropy(output, y)
    return loss + torch.autograd.grad(loss, output, create_graph=True)[0].square().sum()


OTHERS = {
    "a mean": lambda output, y: F.cross_entropy(output, y),
    "random numbers": lambda output, y: F.cross_entropy(F.dropout(output, 0.5), y),
    "a derivative": penalised,
    "a Dice loss": lambda output, y: 1 - output.softmax(1)[torch.arange(len(y)), y].sum() / len(y),
    "unreduced": lambda output, y: F.cross_entropy(output, y, reduction="none"),
    "as many classes": lambda output, y: output.new_zeros(ROWS).index_add(0, y, output[:, 0]),
    "nothing of it": lambda output, y: output.sum(),
    "rounding that is left": lambda output, y: 3 * (output - output.mean(0)).mean(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_not_warned_of(kind):
    model, mixup = attach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixup.wrap(OTHERS[kind])(model(X), Y)


def test_the_look_leaves_no_trace():
    def drawing(call):
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return call.args[0].sum() + noise

    def states():
        numpy = np.random.get_state()[2]  # noqa: NPY002
        return torch.get_rng_state().tolist(), random.getstate(), numpy

    before, roles = states(), Roles(0, 1, (), (), (), ())
    assert not order_matters(drawing, Call((X, Y), {}), roles, {1: Y}, ROWS, 0)
    assert states() == before
    model, mixup = attach()
    criterion = Holding()
    with pytest.warns(UserWarning, match=SAYS):
        mixup.wrap(criterion)(model(X), Y).backward()
    assert criterion.calls == 1  # counters count one batch


@pytest.mark.parametrize("reads", [True, False], ids=["warned of", "not warned of"])
def test_it_is_evaluated_as_often_whatever_it_reads(reads):
    """Processes whose criteria wait for each other stay together."""
    calls = []

    def counted(call):
        calls.append(1)
        return (call.args[0].sum(1) * (WEIGHT if reads else 1.0)).sum()

    roles = Roles(0, 1, (), (), (), ())
    assert order_matters(counted, Call((X, Y), {}), roles, {1: Y}, ROWS, 0) is reads
    assert len(calls) == 3


@pytest.mark.parametrize("kind", ["a function", "a module"])
def test_a_compiled_criterion_is_not_compiled_again(kind):
    model, mixup = attach()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    torch.compiler.reset()
    plain = by_row if kind == "a function" else Holding()
    with pytest.warns(UserWarning, match=SAYS):
        mixup.wrap(torch.compile(plain, backend=backend))(model(X), Y).backward()
    assert len(compiled) == 1


def test_time_may_come_first():
    """The rows are those of the dimension that holds the batch."""
    call = Call((normal(5, ROWS, 3), torch.zeros(5, ROWS)), {})
    roles, given = Roles(0, 1, (), (), (), ()), {1: call.args[1]}

    def summed(weight):
        return lambda call: (call.args[0].sum(-1) * weight).sum()

    assert order_matters(summed(WEIGHT), call, roles, given, ROWS, 1)
    assert not order_matters(summed(torch.arange(5.0)[:, None]), call, roles, given, ROWS, 1)


def test_pairs_of_examples_as_an_argument_are_explained():
    def ranked(output, y, before):
        score = output[:, 0]
        return F.cross_entropy(output, y) + (before * (score[:, None] - score).relu()).mean()

    def of_targets(output, y):
        return ranked(output, y, (y[:, None] < y).double())

    before = (Y[:, None] < Y).double()
    model, mixup = attach()
    model.double()
    with pytest.warns(match="of 7 rows and 7 columns holds pairs of examples.*in the criterion"):
        mixup.wrap(ranked, with_target="before")(model(X.double()), Y, before)
    model, mixup = attach()
    model.double()
    output = model(X.double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = mixup.wrap(of_targets)(output, Y)
    lam, perm = mixup.plan.lam, mixup.plan.perm
    partner = ranked(output, Y[perm], before[perm][:, perm])
    torch.testing.assert_close(loss, lam * ranked(output, Y, before) + (1 - lam) * partner)
