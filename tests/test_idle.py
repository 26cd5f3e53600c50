"""Training in eval mode, where nothing is mixed, causes a warning; nothing else does."""

import warnings

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup
from zoo import TARGET, build, example


def attach():
    model = build("mlp").eval()  # like a pretrained model
    mixup = ManifoldMixup(model, ["fc1"], seed=0)
    return model, mixup, mixup.wrap(nn.CrossEntropyLoss())


def step(model, criterion, optimizer):
    criterion(model(example(model)), TARGET).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "optimize",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
        lambda p: torch.optim.AdamW(p, fused=True),
    ],
    ids=["loop", "foreach", "fused"],
)
def test_the_second_training_step_in_eval_mode_warns_once(optimize):
    model, _, criterion = attach()
    optimizer = optimize(model.parameters())
    step(model, criterion, optimizer)
    with pytest.warns(UserWarning, match=r"trained in eval mode.*model.train\(\)") as seen:
        step(model, criterion, optimizer)
    assert seen[0].filename == __file__  # the line that called backward
    step(model, criterion, optimizer)  # a second warning would be an error


def test_a_target_by_hand_is_watched_too():
    model, mixup, _ = attach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def by_hand(output, y):
        return mixup.target(y, output).loss(nn.functional.cross_entropy, output)

    step(model, by_hand, optimizer)
    with pytest.warns(UserWarning, match="trained in eval mode"):
        step(model, by_hand, optimizer)


def test_validation_and_attacks_before_training_are_no_training():
    model, _, criterion = attach()
    for seed in range(3):
        with torch.no_grad():
            criterion(model(example(model, seed)), TARGET)
        x = example(model, seed).requires_grad_()
        criterion(model(x), TARGET).backward()  # an attack, which changes only the input
    model.train()
    criterion(model(example(model)), TARGET).backward()


def test_evaluation_after_training_may_go_backward_between_steps():
    """An example is adversarial validation after every epoch."""
    model, _, criterion = attach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        step(model.train(), criterion, optimizer)
        criterion(model.eval()(example(model).requires_grad_()), TARGET).backward()
    model.train()
    step(model, criterion, optimizer)


def test_a_model_that_stays_in_eval_mode_after_validation_is_warned_of():
    model, _, criterion = attach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        step(model.train(), criterion, optimizer)
    model.eval()
    with torch.no_grad():
        criterion(model(example(model)), TARGET)
    step(model, criterion, optimizer)  # model.train() is forgotten
    with pytest.warns(UserWarning, match="after validation"):
        step(model, criterion, optimizer)
    step(model, criterion, optimizer)  # a second warning would be an error


def test_a_removed_mixup_says_nothing():
    model, mixup, criterion = attach()
    mixup.remove()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        step(model, criterion, optimizer)


# Training that never calls the model


class WithItsOwnLoss(nn.Module):
    """As flair's models do, its training calls a method that calls its parts."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def forward_loss(self, x, y):
        return nn.functional.cross_entropy(self.head(self.body(x)), y)


def test_layers_that_run_in_training_without_a_call_of_the_model_warn_once():
    model, x, y = WithItsOwnLoss(), torch.randn(6, 4), torch.tensor([0, 1, 2, 1, 0, 2])
    mixup = ManifoldMixup(model, ["body"], check=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            model.forward_loss(x, y).backward()
            optimizer.step()
        for _ in range(4):  # none of this is training with mixing
            with mixup.paused():
                model.forward_loss(x, y)
            with torch.no_grad():
                model.forward_loss(x, y)
        model.eval()
        model.forward_loss(x, y)
        model.train()
    seen = "'body' runs in training.*WithItsOwnLoss itself is never called.*forward_loss"
    with pytest.warns(UserWarning, match=seen):
        model.forward_loss(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.forward_loss(x, y)


def test_parts_that_run_often_before_the_model_in_a_step_do_not_warn():
    model, x = WithItsOwnLoss(), torch.randn(6, 4)
    mixup = ManifoldMixup(model, ["body"], check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):  # as with several crops of each image
            model.body(x).sum().backward()
        mixup.target(None, model(x))


def test_a_layer_that_also_runs_on_its_own_does_not_warn():
    model, x = WithItsOwnLoss(), torch.randn(6, 4)
    mixup = ManifoldMixup(model, ["body"], check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixup.target(None, model(x))
        for _ in range(5):
            model.body(x)
