"""skorch: nets, and scikit-learn's searches over the layers and α."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn

from manifold_mixup import Cut, ManifoldMixup, Remix
from with_positions import Maps, hand_split

skorch = pytest.importorskip("skorch")
from manifold_mixup.integrations.skorch import ManifoldMixupCallback  # noqa: E402

GENERATOR = np.random.default_rng(0)
Y = np.arange(60) % 3
X = (GENERATOR.normal(size=(60, 5)) + 2 * np.eye(3, 5)[Y]).astype(np.float32)


class Net(nn.Module):
    """A net that ends in a softmax, as skorch expects for NLLLoss."""

    def __init__(self, probabilities=True, outputs=3):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, outputs)
        self.probabilities = probabilities

    def forward(self, x):
        scores = self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return scores.softmax(1) if self.probabilities else scores


def classifier(callback, kind=None, **options):
    torch.manual_seed(0)
    kind = kind or skorch.NeuralNetClassifier
    callbacks = [("mixup", callback)] if callback else []
    settings = {"max_epochs": 3, "batch_size": 20, "lr": 0.1, "train_split": None, "verbose": 0}
    return kind(Net, callbacks=callbacks, iterator_train__shuffle=False, **settings | options)


def weights(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def by_hand(criterion, epochs=3, probabilities=True, y=Y, outputs=3, **options):
    """The same training in a plain loop."""
    torch.manual_seed(0)
    model = Net(probabilities, outputs)
    mixup = ManifoldMixup(model, ["input", "fc1", "fc2"], seed=3, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mixed = mixup.wrap(criterion)
    for _ in range(epochs):
        for rows in (slice(0, 20), slice(20, 40), slice(40, 60)):
            if mixup.needs_targets:
                mixup.batch(torch.from_numpy(y[rows]))
            output = model(torch.from_numpy(X[rows]))
            if probabilities:
                output = torch.log(output + torch.finfo(torch.float32).eps)
            optimizer.zero_grad()
            mixed(output, torch.from_numpy(y[rows])).backward()
            optimizer.step()
    return model.state_dict()


def mixed_by(**options):
    return ManifoldMixupCallback(["input", "fc1", "fc2"], seed=3, **options)


@pytest.mark.parametrize("rules", [{"pairs": "other_class"}, {"label": Remix((9, 3, 1))}])
def test_plans_that_depend_on_the_targets_are_given_those_of_the_batch(rules):
    net = classifier(mixed_by(**rules), criterion=nn.NLLLoss)
    net.fit(X, Y)
    torch.testing.assert_close(weights(net), dict(by_hand(nn.NLLLoss(), **rules)))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_fit_is_the_training_written_out(per_sample, probabilities):
    criterion = nn.NLLLoss if probabilities else nn.CrossEntropyLoss
    net = classifier(
        mixed_by(per_sample=per_sample), criterion=criterion, module__probabilities=probabilities
    )
    net.fit(X, Y)
    expected = by_hand(criterion(), probabilities=probabilities, per_sample=per_sample)
    torch.testing.assert_close(weights(net), dict(expected))
    plain = classifier(None, criterion=criterion, module__probabilities=probabilities).fit(X, Y)
    assert not torch.equal(plain.module_.fc1.weight, net.module_.fc1.weight)
    assert type(net.criterion_) is criterion
    assert "forward" not in vars(net.criterion_)
    assert not net.module_._forward_hooks
    assert net.predict(X).shape == Y.shape


class Steps(skorch.callbacks.Callback):
    """Records what a loss by hand needs of each step, and the loss."""

    def __init__(self, mixing):
        self.mixing = mixing

    def initialize(self):
        self.seen = []
        return self

    def on_batch_begin(self, net, batch=None, training=False, **_):
        self.before = copy.deepcopy(net.module_.state_dict())

    def on_batch_end(self, net, batch=None, training=False, loss=None, **_):
        self.seen.append((self.before, *batch, self.mixing.mixup_.plan, loss.detach()))


def test_losses_of_states_that_are_cut_are_those_by_hand():
    images = np.random.default_rng(0).normal(size=(60, 2, 8, 8)).astype(np.float32)
    mixing = ManifoldMixupCallback(["input", "conv1", "conv2"], blend=Cut(), seed=3)
    settings = {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0}
    settings |= {"max_epochs": 2, "batch_size": 20, "lr": 0.1}
    net = skorch.NeuralNetClassifier(Maps, callbacks=[mixing, Steps(mixing)], **settings)
    net.fit(images, Y)
    model, cut = Maps(), 0
    seen = net.callbacks[1].seen
    for before, x, y, plan, loss in seen:
        model.load_state_dict(before)
        output, criterion = hand_split(model, x, plan), nn.CrossEntropyLoss()
        share = plan.weight.float().mean()  # of the positions that each example keeps
        by_hand = share * criterion(output, y) + (1 - share) * criterion(output, y[plan.perm])
        torch.testing.assert_close(loss, by_hand.detach())
        cut += bool(share != 1)
    assert len(seen) == 6
    assert cut > 3


def test_partial_fit_and_pickled_nets_go_on_with_the_plans():
    whole = classifier(mixed_by(), max_epochs=4).fit(X, Y)
    halves = classifier(mixed_by(), max_epochs=2).fit(X, Y)
    halves = pickle.loads(pickle.dumps(halves)).partial_fit(X, Y)
    torch.testing.assert_close(weights(halves), weights(whole), rtol=0, atol=0)
    again = copy.deepcopy(halves).fit(X, Y)  # from the start
    assert dict(again.callbacks_)["mixup"].state_["step"] == 6


def test_layers_are_chosen_by_the_first_batch():
    net = classifier(ManifoldMixupCallback(seed=0)).fit({"x": X}, Y)
    mixup = dict(net.callbacks_)["mixup"].mixup_
    assert mixup.layers[0] == "input"
    assert len(mixup.layers) > 1


def test_scikit_learn_searches_over_alpha_and_layers():
    net = classifier(ManifoldMixupCallback(["fc1"], seed=0), max_epochs=2)
    scores = cross_val_score(net, X, Y, cv=3)
    assert scores.shape == (3,)
    grid = {
        "callbacks__mixup__alpha": [0.2, 2.0],
        "callbacks__mixup__layers": [["input"], ["fc1", "fc2"]],
    }
    search = GridSearchCV(net, grid, cv=2, error_score="raise").fit(X, Y)
    assert len(search.cv_results_["params"]) == 4
    found = dict(search.best_estimator_.callbacks_)["mixup"]
    assert list(found.mixup_.layers) == search.best_params_["callbacks__mixup__layers"]
    assert found.state_["step"] == 2 * 3


def test_regression_mixes_the_numbers():
    y = X[:, :1] * 2
    net = classifier(mixed_by(), skorch.NeuralNetRegressor, module__outputs=1,
                     module__probabilities=False)  # fmt: skip
    net.fit(X, y)
    assert dict(net.callbacks_)["mixup"].state_["step"] == 9
    expected = by_hand(nn.MSELoss(), probabilities=False, y=y, outputs=1)
    torch.testing.assert_close(weights(net), dict(expected))


def test_a_fit_that_failed_leaves_the_next_one_free():
    net = classifier(ManifoldMixupCallback(["fc3"]))
    with pytest.raises(ValueError, match="Net has no layer 'fc3'"):
        net.fit(X, Y)
    net.set_params(callbacks__mixup__layers=["fc1"]).fit(X, Y)
    net.partial_fit(X, Y)


def test_the_recipe_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "recipes" / "skorch.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    exec(compile(code, page.name, "exec"), {})
    assert "callbacks__mixup__alpha" in capsys.readouterr().out


WEIGHTS = torch.linspace(0.1, 2, 60)


def weighted(output, y, weight):
    return (weight * nn.functional.cross_entropy(output, y, reduction="none")).mean()


class Weighted(nn.Module):
    """What a warning advises."""

    def forward(self, output, y, weight):
        return weighted(output, y, weight)


class Weighting(skorch.NeuralNet):
    """Passes weights to its criterion, or weights the losses itself, as skorch's FAQ does."""

    inside = True

    def get_loss(self, y_pred, y_true, X=None, *args, **options):
        weight = X["weight"]
        if self.inside:
            return self.criterion_(y_pred, y_true, weight)
        return (weight * super().get_loss(y_pred, y_true, X, *args, **options)).mean()


class OfDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(probabilities=False)

    def forward(self, x, weight):
        return self.net(x)


def test_weights_of_examples_go_to_the_criterion():
    data = {"x": X, "weight": WEIGHTS.numpy()}
    options = {"batch_size": 20, "lr": 0.1, "train_split": None, "verbose": 0, "max_epochs": 3}
    torch.manual_seed(0)
    layers = ["input:x", "net.fc1", "net.fc2"]
    callback = ManifoldMixupCallback(layers, seed=3, with_target="weight")
    net = Weighting(
        OfDict, Weighted, callbacks=[("mixup", callback)], iterator_train__shuffle=False, **options
    ).fit(data, Y)

    torch.manual_seed(0)
    model = OfDict()
    mixup = ManifoldMixup(model, layers, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for rows in (slice(0, 20), slice(20, 40), slice(40, 60)):
            weight, y = WEIGHTS[rows], torch.from_numpy(Y[rows])
            output = model(torch.from_numpy(X[rows]), weight)
            lam, perm = mixup.plan.lam, mixup.plan.perm
            loss = lam * weighted(output, y, weight)
            loss = loss + (1 - lam) * weighted(output, y[perm], weight[perm])
            mixup.target(y, output).loss(lambda output, y: output.sum(), output)  # the claim
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in net.module_.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])


def test_weights_that_are_multiplied_to_mixed_losses_cause_a_warning():
    data = {"x": X, "weight": WEIGHTS.numpy()}
    options = {"train_split": None, "verbose": 0, "max_epochs": 1, "criterion__reduction": "none"}
    callback = ManifoldMixupCallback(["net.fc1"], seed=3)
    net = Weighting(OfDict, nn.CrossEntropyLoss, callbacks=[("mixup", callback)], **options)
    net.inside = False
    said = r"Weighting.get_loss .*with_target='weight'"
    with pytest.warns(UserWarning, match="weighted differently"), pytest.warns(match=said):
        net.fit(data, Y)


def test_a_loss_that_is_not_the_criterion_raises():
    class Own(skorch.NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            return nn.functional.nll_loss(y_pred.log(), y_true)

    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        classifier(mixed_by(), Own).fit(X, Y)
