"""outputs=: the tensors that the loss reads, among those that a model returns."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from manifold_mixup import Cut, ManifoldMixup, MixPlan, find_layers
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


class Both(NamedTuple):
    logits: Tensor
    hidden: Tensor


def test_a_field_of_a_named_tuple_is_named_as_the_model_names_it():
    class Named(Talkative):
        def forward(self, x: Tensor) -> Both:
            out = super().forward(x)
            return Both(out["logits"], out["hidden"][0])

    model, x = Named(), normal(6, 4)
    with pytest.raises(ValueError, match=r"'hidden' .* set outputs='logits'"):
        ManifoldMixup(model, ["b"], example=x)
    with pytest.raises(ValueError, match=r"outputs='0' matches no output.* 'logits', 'hidden'"):
        ManifoldMixup(model, ["b"], example=x, outputs="0")
    ManifoldMixup(model, ["b"], example=x, outputs="logits").assert_verified(x)


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


class Masked(nn.Module):
    """Returns what it makes of the data besides its logits, and what it makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, object]:
        logits = self.head(self.a(x).tanh())
        made = {"mask": x[:, 0] > 0, "ids": ids, "weight": ids.to(x.dtype) + 1}
        return {"logits": logits, "data": made, "guess": logits.argmax(1), "rows": len(x)}


def weighed(output, y, reduction="mean"):
    data = output["data"]
    losses = nn.functional.cross_entropy(output["logits"], y, reduction="none")
    losses = losses * (data["mask"] + data["ids"] * data["weight"]) + output["guess"]
    return losses if reduction == "none" else losses.mean()


def by_hand(plan, output, y):
    theirs = {**output, "data": {key: of[plan.perm] for key, of in output["data"].items()}}
    own, partner = weighed(output, y, "none"), weighed(theirs, y[plan.perm], "none")
    return (plan.lam * own + (1 - plan.lam) * partner).mean()


@pytest.mark.parametrize("each", [False, True], ids=["one λ", "a λ for each example"])
@pytest.mark.parametrize("said", ["wrap", "target"])
def test_data_that_the_model_returns_follow_the_targets(each, said):
    """A mask that is returned beside the logits is the example's own at its end only."""
    torch.manual_seed(0)
    model, y = Masked(), torch.tensor([0, 1, 2, 0, 1, 2])
    given = {"per_sample": each, "outputs": ["logits", "guess"], "seed": 0}
    mixup = ManifoldMixup(model, ["a", "head"], **given)
    for _ in range(3):
        output = model(normal(6, 4), torch.arange(6))
        if said == "wrap":
            loss = mixup.wrap(weighed)(output, y)
        else:
            loss = mixup.target(y, output).loss(weighed, output)
        torch.testing.assert_close(loss, by_hand(mixup.plan, output, y))
        loss.backward()
    with mixup.paused():
        output = model(normal(6, 4), torch.arange(6))
    torch.testing.assert_close(mixup.wrap(weighed)(output, y), weighed(output, y))


def test_what_is_made_of_the_mixed_state_does_not():
    rows = find_layers(Masked(), normal(6, 4), torch.arange(6), outputs="logits")
    assert {row.name: row.plain_outputs for row in rows} == {
        "a": ("data.mask", "data.ids", "data.weight"),
        "head": ("data.mask", "data.ids", "data.weight"),
    }
    assert rows.inputs[0].plain_outputs == ("data.ids", "data.weight")


class Twice(nn.Module):
    """Runs one module on two inputs, and returns what it makes of one of the results."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second = self.body(x), self.body(z)
        return self.head(torch.cat([first, second], 1)), first.argmax(1), z > 0


def test_of_all_runs_together_any_may_have_made_it():
    rows = find_layers(Twice(), normal(6, 4), normal(6, 4))
    assert next(row for row in rows if row.name == "body@*").plain_outputs == ("2",)


def test_a_view_of_returned_data_is_refused():
    model, y = Masked(), torch.zeros(6, dtype=torch.int64)
    mixup = ManifoldMixup(model, ["a"], outputs="logits", seed=0)
    output = model(normal(6, 4), torch.arange(6))
    criterion = mixup.wrap(lambda output, y: output[0].sum() + output[1].sum() + y.sum())
    with pytest.raises(ValueError, match=r"at '1' .* pass the part as a separate argument"):
        criterion((output["logits"], output["data"]["ids"][None]), y)
    own = mixup.wrap(lambda output, y, ids: output.sum() * (y + ids).sum(), with_target="ids")
    own(output["logits"], y, output["data"]["ids"]).backward()


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.a(x).tanh()), x[:, 0] > 0


def test_data_with_positions_do_not_follow_a_box():
    model, y = Segmenter(), torch.randint(3, (6, 8, 8))
    mixup = ManifoldMixup(model, ["a"], blend=Cut(), seed=0)

    def masked(output, y, mask):
        losses = nn.functional.cross_entropy(output, y, reduction="none")
        return (losses * mask).mean()

    output, mask = model(normal(6, 1, 8, 8))
    with pytest.raises(ValueError, match=r"mixes by position. .* with_target= names"):
        mixup.wrap(lambda output, y: masked(output[0], y, output[1]))((output, mask), y)
    loss = mixup.wrap(masked, with_target="mask")(output, y, mask)
    plan = mixup.plan
    kept = plan.weight.expand(6, 8, 8)
    selected = [torch.where(kept, own, own[plan.perm]) for own in (y, mask)]
    torch.testing.assert_close(loss, masked(output, *selected))


class IntoTheBatch(nn.Module):
    """Writes what it computes into the batch, and returns that."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch["states"] = self.a(batch["x"]).tanh()
        batch["logits"] = self.head(batch["states"])
        return batch


def test_a_batch_that_is_returned_follows_the_targets_if_the_outputs_are_named():
    model, y = IntoTheBatch(), torch.tensor([0, 1, 2, 0, 1, 2])

    def batch():
        return {"x": normal(6, 4), "ids": torch.arange(6)}

    says = r"'x' of the model would .* set outputs=\['states', 'logits'\]"
    with pytest.raises(ValueError, match=says):
        ManifoldMixup(model, ["a"], example=(batch(),))
    mixup = ManifoldMixup(model, ["a"], outputs=["states", "logits"], seed=0)

    def reading(output, y):
        losses = nn.functional.cross_entropy(output["logits"], y, reduction="none")
        return (losses * output["ids"] * output["x"][:, 0]).mean()

    output = model(batch())
    loss = mixup.wrap(reading)(output, y)
    perm, lam = mixup.plan.perm, mixup.plan.lam
    theirs = {**output, "ids": output["ids"][perm], "x": output["x"][perm]}
    expected = lam * reading(output, y) + (1 - lam) * reading(theirs, y[perm])
    torch.testing.assert_close(loss, expected)
