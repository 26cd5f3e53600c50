"""Neighbours, compared with scikit-learn, and features, compared with a model split by hand."""

from collections import OrderedDict

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from manifold_mixup.lab.evaluate.neighbours import features, knn_error


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    x = torch.randn(count, 8, generator=generator)
    return x + 1.2 * torch.eye(8)[y] + 10, y


def clear(train: torch.Tensor, test: torch.Tensor, k: int, metric: str) -> torch.Tensor:
    """Return whether the ``k``-th neighbour of each row is clearly nearer than the next.

    In float32, squared distances have errors up to 7e-6, and cosine distances up to 4e-7.
    """
    train, test = (part.double() - 10 * (metric == "euclidean") for part in (train, test))
    if metric == "cosine":
        train, test = (nn.functional.normalize(part) for part in (train, test))
    nearest = torch.cdist(test, train).square().sort(1).values
    least = {"euclidean": 2e-4, "cosine": 1e-5}[metric]
    return nearest[:, k] - nearest[:, k - 1] > least


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_the_error_equals_scikit_learn(k, metric):
    (train, y_train), (test, y_test) = clusters(400, seed=0), clusters(1203, seed=1)
    told = clear(train, test, k, metric)
    test, y_test = test[told], y_test[told]
    assert len(test) > 1000  # several chunks
    theirs = KNeighborsClassifier(k, metric=metric, algorithm="brute")
    theirs.fit(train.double().numpy(), y_train.numpy())
    right = theirs.score(test.double().numpy(), y_test.numpy())
    ours = knn_error(train, y_train, test, y_test, k=k, metric=metric)
    assert ours == pytest.approx(100 - 100 * right)
    assert 20 < ours < 60


def test_features_far_from_the_origin_lose_no_neighbours():
    (train, y_train), (test, y_test) = clusters(400, seed=0), clusters(300, seed=1)
    near = knn_error(train - 10, y_train, test - 10, y_test)
    assert knn_error(train + 1000, y_train, test + 1000, y_test) == pytest.approx(near, abs=0.7)


def test_cosine_leaves_lengths_out():
    train, y = torch.tensor([[1.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
    test = torch.tensor([[90.0, 10.0], [0.1, 0.2]])
    assert knn_error(train, y, test, y, k=1, metric="cosine") == 0
    assert knn_error(train, y, test, y, k=1, metric="euclidean") == 50


def test_a_training_example_is_its_own_neighbour():
    x, y = clusters(200, seed=0)
    assert knn_error(x, y, x, y, k=1) == 0


@pytest.mark.parametrize("k", [0, 201])
def test_k_is_at_most_the_number_of_examples(k):
    x, y = clusters(200, seed=0)
    with pytest.raises(ValueError, match=rf"k is {k}\. Expected 1 to 200"):
        knn_error(x, y, x, y, k=k)


@pytest.fixture
def model() -> nn.Sequential:
    layers = OrderedDict(
        stage=nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)),
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        hidden=nn.Linear(4, 6),
        relu=nn.ReLU(),
        head=nn.Linear(6, 3),
    )
    return nn.Sequential(layers).train()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(1100, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def test_features_are_what_the_layer_returns_pooled(model, x):
    found = features(model, x, layer="stage")
    assert model.training
    assert model.stage[1].num_batches_tracked == 0
    with torch.no_grad():
        assert torch.allclose(found, model.eval().stage(x).mean((2, 3)), atol=1e-6)


def test_by_default_they_are_what_the_last_linear_layer_takes(model, x):
    with torch.no_grad():
        expected = model.eval()[:5](x)
    assert torch.allclose(features(model, x), expected, atol=1e-6)
    assert torch.equal(features(model, x), features(model, x, layer="relu"))


def test_bytes_are_pixels(model):
    x = torch.randint(256, (4, 1, 5, 5), dtype=torch.uint8)
    assert torch.equal(features(model, x), features(model, x.float() / 255))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_no_hook_is_left_behind_not_even_after_an_error(model, x):
    features(model, x)
    features(model, x, layer="pool")
    with pytest.raises(RuntimeError):
        features(model, x[:, :, :2, :2])
    assert hooks(model) == 0
    assert model.training


class Twice(nn.Module):
    """A layer that runs twice, one that never runs, and one that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.idle, self.recurrent = nn.Linear(3, 3), nn.ReLU(), nn.GRU(3, 3)

    def forward(self, x):
        return self.recurrent(self.shared(self.shared(x)))[0]


def test_layers_without_features_are_refused(model, x):
    with pytest.raises(ValueError, match=r"has no layer 'hiden'.* Did you mean 'hidden'"):
        features(model, x, layer="hiden")
    odd, x = Twice(), torch.rand(4, 3)
    with pytest.raises(RuntimeError, match="'shared' ran 2 times"):
        features(odd, x, layer="shared")
    with pytest.raises(RuntimeError, match="'idle' ran 0 times"):
        features(odd, x, layer="idle")
    with pytest.raises(TypeError, match="'recurrent' returns a tuple"):
        features(odd, x, layer="recurrent")
    with pytest.raises(RuntimeError, match="the last linear layer ran 0 times"):
        features(nn.ReLU(), x)
