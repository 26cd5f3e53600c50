"""States that hold the batch at another dimension, or several rows of each example."""

import copy

import pytest
import torch
from torch import nn

from folded import TIME, WAYS, Folded
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._batch_dim import BatchDim, find, mix_rows

ROWS, PERM = 6, torch.tensor([3, 5, 1, 0, 2, 4])
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, ROWS)}
TARGET = torch.arange(ROWS) % 3

DIMS = {
    "time first": BatchDim(1),
    "features first": BatchDim(3),
    "folded": BatchDim(0, folded=True),
    "folded twice": BatchDim(0, folded=True),
    "grouped": BatchDim(0, folded=True, grouped=True),
    "time first, folded": BatchDim(1, folded=True),
    "time first, grouped": BatchDim(1, folded=True, grouped=True),
}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(model, mixup, x, plan, *, run=None):
    """Compare output and gradients under a plan with those of the pass by hand."""
    oracle = copy.deepcopy(model)
    expected = oracle.by_hand(x, plan)
    expected.square().sum().backward()
    with mixup.using(plan):
        output = model(x) if run is None else run(x)
        mixup.target(None, output)
        output.square().sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, TIME, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("way", WAYS)
def test_outputs_and_gradients_are_those_of_the_unfolded_state(way, lam, x):
    model = Folded(way)
    mixup = ManifoldMixup(model, ["a"], example=x)
    compare(model, mixup, x, MixPlan("a", LAMS[lam], PERM))


@pytest.mark.parametrize("way", WAYS)
def test_the_dimension_is_found_and_the_layers_are_proven(way, x):
    model = Folded(way)
    table = find_layers(model, x)
    rows = {row.name: row for row in table}
    assert rows["a"].cut
    assert rows["b"].cut
    # The order of folded rows is found by the proof.
    assert dict(rows["a"].batch_dims)[""].dim == DIMS[way].dim
    assert dict(rows["a"].batch_dims)[""].folded == DIMS[way].folded
    assert f"at dimension {DIMS[way].dim}" in str(table)
    mixup = ManifoldMixup(model, ["a", "b"], check=False)
    assert mixup.verify(x).ok
    assert mixup._attachment.row("a").batch_dims == (("", DIMS[way]),)
    compare(model, mixup, x, MixPlan("a", LAMS["one λ"], PERM))  # what is proven is what trains


@pytest.mark.parametrize("way", WAYS)
def test_without_an_example_it_is_found_on_the_first_batch(way, x):
    model = Folded(way)
    mixup = ManifoldMixup(model, ["a"], seed=0)
    output = model(x)
    mixup.target(None, output)
    lam, perm = mixup.plan.lam, mixup.plan.perm
    h = model.unfold(model.a(model.fold(model.stem(x).unflatten(2, (2, 3)))))
    expected = model.pooled(model.b(model.fold(lam * h + (1 - lam) * h[perm])))
    torch.testing.assert_close(output, expected)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("way", ["time first", "grouped", "time first, folded"])
def test_compiled_in_one_graph(way, x):
    model = Folded(way)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, ["a"], example=x)
    compare(model, mixup, x, MixPlan("a", LAMS["one λ"], PERM), run=compiled)


@pytest.mark.parametrize("way", ["time first", "grouped"])
def test_recomputed_by_a_checkpoint(way, x):
    model = Folded(way, checkpointed=True)
    mixup = ManifoldMixup(model, ["a"], example=x)
    compare(model, mixup, x, MixPlan("a", LAMS["one λ"], PERM))


@pytest.mark.parametrize("way", WAYS)
def test_a_view_with_the_batch_in_front_is_undone(way):
    at, state = DIMS[way], torch.randn(ROWS, TIME, 2, 3)
    folded = WAYS[way][0](state)
    front = at.to_front(folded, ROWS)
    assert front.data_ptr() == folded.data_ptr()
    assert front.shape == at.front_shape(folded.shape, ROWS)
    assert torch.equal(at.restore(front), folded)
    assert torch.equal(front[2].flatten().sort().values, state[2].flatten().sort().values)
    mixed = mix_rows(folded, at, torch.tensor(0.3), PERM)
    assert mixed.is_contiguous()  # so that the model may view it as before
    torch.testing.assert_close(mixed, WAYS[way][0](0.3 * state + 0.7 * state[PERM]))


def test_a_state_without_numbers_stays_so():
    for at, shape in ((BatchDim(1), (0, ROWS, 3)), (BatchDim(1, folded=True), (2, 2 * ROWS, 0))):
        assert mix_rows(torch.zeros(shape), at, torch.tensor(0.3), PERM).shape == shape


@pytest.mark.parametrize(
    ("shape", "resized", "found"),
    [
        ((6, 4), (5, 4), BatchDim(0)),
        ((4, 6), (4, 5), BatchDim(1)),
        ((6, 6), (6, 5), BatchDim(1)),
        ((24, 3), (20, 3), BatchDim(0, folded=True)),
        ((3, 12), (3, 10), BatchDim(1, folded=True)),
        ((36, 3), (25, 3), None),  # pairs
        ((7, 3), (6, 3), None),  # one row more
        ((6, 6), (5, 5), None),
        ((6, 4), (6, 4), None),
        ((6, 4), (5, 4, 1), None),
        ((), (), None),
    ],
)
def test_which_dimension_follows_the_batch(shape, resized, found):
    assert find(shape, 6, resized, 5) == found


def test_another_shape_in_training_is_refused(x):
    model = Folded("folded")
    ManifoldMixup(model, ["a"], example=x, seed=0)
    model.fold = lambda h: h.flatten(0, 1)[1:]
    with pytest.raises(ValueError, match=r"'a' should mix 6 examples.*\(23, 2, 3\)"):
        model(x)


class Attend(nn.Module):
    """PyTorch's attention, with either order of dimensions; classifies by the first token."""

    def __init__(self, *, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.stem, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
            for _ in range(2)
        )

    def forward(self, ids, padding_mask):
        h = self.stem(ids)
        h = h if self.batch_first else h.transpose(0, 1)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=padding_mask)
        return self.head(h[:, 0] if self.batch_first else h[0])


@pytest.mark.parametrize("lam", LAMS)
def test_a_padding_mask_is_mixed_with_time_first_as_with_batch_first(lam):
    torch.manual_seed(0)
    ids, lengths = torch.randint(1, 30, (ROWS, 7)), torch.tensor([7, 4, 5, 2, 6, 3])
    padding, outputs = torch.arange(7) >= lengths[:, None], []
    for batch_first in (True, False):
        model = Attend(batch_first=batch_first)
        mixup = ManifoldMixup(model, ["blocks.0"], mask="padding_mask", example=(ids, padding))
        with mixup.using(MixPlan("blocks.0", LAMS[lam], PERM)):
            outputs.append(model(ids, padding))
            mixup.target(None, outputs[-1])
    torch.testing.assert_close(*outputs)


class Recurrent(nn.Module):
    """Reads the last hidden state of an LSTM, of shape (layers, batch, width)."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[1][0][-1])


def test_the_table_says_which_output_holds_the_batch_elsewhere():
    """The shape shown is that of the first output, which holds the batch at dimension 0."""
    table = str(find_layers(Recurrent(), torch.randn(4, 10, 3)))
    assert "(4, 10, 8)  the batch at dimension 1 of '1.0'\n" in table


def test_a_model_that_returns_a_distribution_is_refused_with_the_way_out():
    class Normal(Recurrent):
        def forward(self, x):
            return torch.distributions.Normal(super().forward(x), 1.0)

    x, y = torch.randn(4, 10, 3), torch.randn(4, 2)
    with pytest.raises(ValueError, match="parameters of a distribution as tensors, and make"):
        ManifoldMixup(Normal(), ["lstm"], example=x)
    model = Recurrent()
    mixup = ManifoldMixup(model, ["lstm"], example=x)
    mixup.wrap(lambda o, y: -torch.distributions.Normal(o, 1.0).log_prob(y).mean())(model(x), y)
