"""States that hold each example's rows in a row: how many an example has may change later."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from manifold_mixup import ManifoldMixup, MixPlan

BATCH, TIME = 4, 8
Y = torch.tensor([0, 2, 1, 2])
LAM, PERM = 0.25, torch.tensor([1, 2, 3, 0])
EVEN = torch.tensor([8, 8, 8, 8])
UNEVEN = torch.tensor([8, 8, 7, 5])  # as many rows as seven for each


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rnn = nn.Linear(5, 8), nn.LSTM(8, 8, batch_first=True)
        self.last, self.head = nn.Linear(8, 6), nn.Linear(6, 3)


class Packs(Network):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True)
        states, _ = self.rnn(PackedSequence(self.first(packed.data), packed.batch_sizes))
        states = PackedSequence(self.last(states.data), states.batch_sizes)
        return self.head(pad_packed_sequence(states, batch_first=True)[0].mean(1))


class AnyOrder(Network):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states = packed._replace(data=self.first(packed.data))
        states, _ = self.rnn(states)
        states = states._replace(data=self.last(states.data))
        return self.head(pad_packed_sequence(states, batch_first=True)[0].mean(1))


class Bags(Network):
    """Bags of instances, in one tensor."""

    def forward(self, x, lengths):
        sizes = lengths.tolist()
        rows = torch.cat([bag[:size] for bag, size in zip(x, sizes, strict=False)])
        rows = self.last(self.first(rows).tanh())
        return self.head(torch.stack([bag.mean(0) for bag in rows.split(sizes)]))


class Hidden(Packs):
    """Packs by lengths that it finds out itself."""

    def forward(self, x):
        return super().forward(x, (x[..., 0] != 0).sum(1))


def sequences(lengths=EVEN, seed=0):
    x = torch.randn(BATCH, TIME, 5, generator=torch.Generator().manual_seed(seed))
    return x.masked_fill((torch.arange(TIME) >= lengths[:, None])[..., None], 0)


def states_by_hand(h, of):
    """Mix rows of the examples where all have as many."""
    data = h.data if isinstance(h, PackedSequence) else h
    shape = (TIME, BATCH, -1) if of is Packs else (BATCH, TIME, -1)
    apart, dim = data.view(*shape), 1 if of is Packs else 0
    mixed = LAM * apart + (1 - LAM) * apart.index_select(dim, PERM)
    return mixed.flatten(0, 1)


@pytest.mark.parametrize(
    ("make", "layer"), [(Packs, "first"), (Packs, "last"), (Bags, "first"), (Bags, "last")]
)
def test_they_are_mixed_while_all_have_as_many_and_then_refused(make, layer):
    model = make()
    with ManifoldMixup(model, [layer], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for step in range(3):
            x = sequences(seed=step)
            with mixup.using(MixPlan(layer, LAM, PERM)):
                loss = criterion(model(x, EVEN), Y)
            hook = model.get_submodule(layer).register_forward_hook(
                lambda _, args, h: states_by_hand(h, make)
            )
            with mixup.paused():
                output = model(x, EVEN)
            hook.remove()
            ends = cross_entropy(output, Y), cross_entropy(output, Y[PERM])
            torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])
        before = mixup.state_dict()
        for _ in range(2):
            with pytest.raises(ValueError, match=f"layer '{layer}' cannot be mixed"):
                model(sequences(UNEVEN), UNEVEN)
        assert mixup.state_dict() == before
        criterion(model(sequences(), EVEN), Y).backward()


@pytest.mark.parametrize("lengths", [[UNEVEN], [EVEN, EVEN, UNEVEN, EVEN, UNEVEN]])
def test_sequences_that_are_packed_in_one_order_are_refused_with_a_way_out(lengths):
    """Nothing can be reordered, so nothing is known of the model when the lengths differ."""
    model = Packs()
    with ManifoldMixup(model, ["head"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for those in lengths[:-1]:
            criterion(model(sequences(those), those), Y)
        with pytest.raises(ValueError, match="with enforce_sorted=False, they may come in any"):
            model(sequences(lengths[-1]), lengths[-1])


@pytest.mark.parametrize("make", [AnyOrder, Bags])
def test_a_layer_that_has_a_row_for_each_stays_right(make):
    model = make()
    with ManifoldMixup(model, ["head"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for lengths in (EVEN, EVEN, UNEVEN, EVEN, UNEVEN, UNEVEN, EVEN):
            x = sequences(lengths)
            with mixup.using(MixPlan("head", LAM, PERM)):
                loss = criterion(model(x, lengths), Y)
            with mixup.paused():
                output = model(x, lengths)
            output = LAM * output + (1 - LAM) * output[PERM]
            ends = cross_entropy(output, Y), cross_entropy(output, Y[PERM])
            torch.testing.assert_close(loss, LAM * ends[0] + (1 - LAM) * ends[1])


def test_a_packed_output_says_itself_that_it_is_uneven():
    model = Hidden()
    refused = pytest.raises(ValueError, match="of 4 sequences, only 2 of which have the last step")
    with ManifoldMixup(model, ["rnn"], check=False, seed=0), refused:
        model(sequences(UNEVEN))


def test_lengths_that_are_looked_at_once_more_do_not_stop_others(monkeypatch):
    from manifold_mixup._checks import Checks

    looks, first_batch = [], Checks.first_batch
    monkeypatch.setattr(
        Checks, "first_batch", lambda *given: (looks.append(given), first_batch(*given))[1]
    )

    class Windows(Network):
        def forward(self, x, weights):
            rows = self.last(self.first(x.flatten(0, 1)))
            return self.head(rows.unflatten(0, (len(x), -1)).mean(1))

    model = Windows()
    with ManifoldMixup(model, ["first"], seed=0) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for weights in (EVEN, EVEN, UNEVEN, EVEN, UNEVEN):
            criterion(model(sequences(), weights), Y).backward()
    assert len(looks) == 2


def test_packing_that_needs_an_order_is_explained():
    with pytest.raises(ValueError, match="with enforce_sorted=False, they may come in any order"):
        ManifoldMixup(Packs(), ["head"], example=(sequences(UNEVEN), UNEVEN))
