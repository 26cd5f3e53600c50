"""A layer in a branch of torch.cond is refused: nothing tells whether it ran."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup

pytestmark = [
    pytest.mark.filterwarnings("ignore:the layers .* were not checked"),
    # From torch.cond itself, outside of compiled code
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).abs()
Y = torch.arange(6) % 3


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.stem(x)
        h = torch.cond(x.sum() > 0, lambda h: self.one(h).sin(), lambda h: self.other(h), (h,))
        return self.head(h)


def built():
    torch.manual_seed(0)
    return Branching()


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("prepare", [lambda model: model, compiled])
@pytest.mark.parametrize("x", [X, -X], ids=["taken", "not taken"])
def test_a_layer_in_a_branch_is_refused(prepare, x, fresh_compiler):
    model = prepare(built())
    ManifoldMixup(model, ["one"], seed=0)
    with pytest.raises(RuntimeError, match=r"layer 'one' .* in a branch of torch.cond"):
        model(x)


@pytest.mark.parametrize("prepare", [lambda model: model, compiled])
@pytest.mark.parametrize("layer", ["stem", "head"])
@pytest.mark.parametrize("x", [X, -X], ids=["one", "other"])
def test_a_layer_outside_of_it_is_mixed(prepare, layer, x, fresh_compiler):
    model = prepare(built())
    mixup = ManifoldMixup(model, [layer], seed=0)
    loss = mixup.wrap(nn.CrossEntropyLoss())(model(x), Y)
    plan, by_hand = mixup.plan, built()

    def mixed(h, at):
        return torch.lerp(h[plan.perm], h, plan.lam) if at == layer else h

    h = mixed(by_hand.stem(x), "stem")
    out = mixed(by_hand.head(by_hand.one(h).sin() if x is X else by_hand.other(h)), "head")
    own, partner = cross_entropy(out, Y), cross_entropy(out, Y[plan.perm])
    torch.testing.assert_close(loss, torch.lerp(partner, own, plan.lam))
