"""outputs=: the tensors that the loss reads, among those that a model returns."""

import pytest
import torch
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._outputs import as_paths, is_named
from states import normal


class Talkative(nn.Module):
    """Returns its hidden states and an attention map besides its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        first = self.a(x).tanh()
        second = self.b(first).tanh()
        return {"logits": self.head(second), "hidden": (first, second), "map": first.softmax(1)}


def test_what_the_loss_does_not_read_bypasses_nothing():
    model, x = Talkative(), normal(6, 4)
    assert [row.name for row in find_layers(model, x).cuts] == ["a"]
    named = find_layers(model, x, outputs="logits")
    assert [row.name for row in named.cuts] == ["a", "b", "head"]
    assert [row.name for row in find_layers(model, x, outputs=["logits", "map"]).cuts] == ["a"]


def test_the_refusal_names_the_way_out_and_the_way_out_works():
    model, x = Talkative(), normal(6, 4)
    with pytest.raises(ValueError, match=r"'hidden.0' and 'map' .* set outputs='logits'"):
        ManifoldMixup(model, ["b"], example=x)
    mixup = ManifoldMixup(model, ["b"], example=x, outputs="logits")
    assert mixup._checks._outputs == ("logits",)
    mixup.assert_verified(x)
    plan = MixPlan("b", lam=torch.tensor(0.0), perm=torch.tensor([1, 2, 3, 4, 5, 0]))
    with mixup.paused():
        plain = model(x)["logits"]
    with mixup.using(plan):
        torch.testing.assert_close(model(x)["logits"], plain[plan.perm])


def test_a_layer_that_only_the_other_outputs_read_is_refused():
    class Aside(Talkative):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(self.a(x)), self.b(self.a.weight.sum() + x.repeat(1, 2))

    row = next(row for row in find_layers(Aside(), normal(6, 4), outputs="0") if row.name == "b")
    assert not row.cut
    assert "does not reach the model's outputs" in row.reason


def test_a_container_is_named_with_all_that_it_holds():
    assert is_named("hidden.0", ["hidden"])
    assert not is_named("hidden_states", ["hidden"])
    assert is_named("", [""])
    assert is_named("0", None)
    rows = find_layers(Talkative(), normal(6, 4), outputs="hidden")
    assert [row.name for row in rows.cuts] == ["a"]


@pytest.mark.parametrize("outputs", ["logit", "hidden.2", ["logits", "nothing"]])
def test_an_unknown_output_is_refused_with_those_there_are(outputs):
    says = (
        r"matches no output of this forward pass, which returned 'logits', 'hidden.0', 'hidden.1', "
    )
    with pytest.raises(ValueError, match=says):
        find_layers(Talkative(), normal(6, 4), outputs=outputs)
    mixup = ManifoldMixup(Talkative(), ["a"], outputs=outputs)
    with pytest.raises(ValueError, match=says):
        mixup._attachment.model(normal(6, 4))


def test_what_is_no_path_is_refused_before_anything_changes():
    model = Talkative()
    with pytest.raises(TypeError, match="or several paths, but is 3"):
        ManifoldMixup(model, ["a"], outputs=3)
    with pytest.raises(TypeError, match="such as 'logits'"):
        ManifoldMixup(model, ["a"], outputs=[0])
    with pytest.raises(ValueError, match="outputs is empty"):
        as_paths([])
    assert not model._forward_pre_hooks
