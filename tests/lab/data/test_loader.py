"""The loader: every example once, reproducible, from any step and in several processes."""

import pytest
import torch

from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.data.augment import Augment
from manifold_mixup.lab.data.loader import Loader


def data(count=23):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return x, torch.arange(count)  # the label identifies the image


def epoch(loader, number=1, **options):
    return list(loader.epoch(number, **options))


@pytest.mark.parametrize("batch", [1, 4, 23, 100])
def test_an_epoch_holds_every_example_once_with_its_label(batch):
    x, y = data()
    loader = Loader(x, y, batch, seed=0)
    batches = epoch(loader)
    assert len(batches) == len(loader)
    assert all(len(labels) == batch for _, labels in batches[:-1])
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(labels.sort().values, y)
    for inputs, own in batches:
        assert torch.equal(inputs, as_input(x[own]))


def test_the_order_is_a_function_of_seed_and_epoch_and_nothing_else():
    x, y = data()

    def order(seed, number):
        return torch.cat(
            [labels for _, labels in epoch(Loader(x, y, 5, seed=seed), number)]
        ).tolist()

    before = torch.get_rng_state()
    assert order(0, 1) == order(0, 1)
    assert torch.equal(torch.get_rng_state(), before)
    orders = [order(seed, number) for seed in range(3) for number in range(3)]
    assert len({tuple(one) for one in orders}) == 9


@pytest.mark.parametrize("augment", [None, Augment(flip=True, crop=2)])
def test_an_epoch_can_be_taken_up_in_the_middle(augment):
    loader = Loader(*data(), 5, augment=augment, seed=0)
    whole, rest = epoch(loader), epoch(loader, start_step=2)
    assert len(rest) == len(whole) - 2
    for (x, y), (x_again, y_again) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("count", [20, 21, 22, 23, 24])
def test_processes_share_each_batch(world, count):
    x, y = data(count)
    augment = Augment(flip=True, crop=1)
    whole = epoch(Loader(x, y, 6, augment=augment, seed=0))
    parts = [
        epoch(Loader(x, y, 6, augment=augment, seed=0, rank=rank, world=world))
        for rank in range(world)
    ]
    steps = {len(part) for part in parts}
    assert len(steps) == 1
    assert len(whole) - 1 <= steps.pop() <= len(whole)
    for step, shares in enumerate(zip(*parts, strict=True)):
        assert all(len(labels) for _, labels in shares)
        assert torch.equal(torch.cat([inputs for inputs, _ in shares]), whole[step][0])
        assert torch.equal(torch.cat([labels for _, labels in shares]), whole[step][1])


def test_channels_last():
    (x, _), *_ = epoch(Loader(*data(), 5, seed=0, channels_last=True))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_vectors_are_not_augmented():
    with pytest.raises(ValueError, match=r"only images can be augmented, but .* shape \(7,\)"):
        Loader(torch.rand(5, 7), torch.arange(5), 2, augment=Augment(flip=True), seed=0)
    with pytest.raises(ValueError, match="3 processes cannot share 2 training examples"):
        Loader(torch.rand(2, 7), torch.arange(2), 2, seed=0, world=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_batch_waits_for_the_gpu():
    x, y = data()
    loader = Loader(x, y, 5, augment=Augment(flip=True, crop=2), seed=0, device="cuda")
    batches = loader.epoch(1)
    next(batches)  # the draws of an epoch are copied at once
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == len(loader) - 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
