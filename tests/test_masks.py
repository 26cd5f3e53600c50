"""Masks of every form: what they stand for mixed, what they say is present, their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manifold_mixup import MixPlan
from manifold_mixup import _masks as masks
from padded import BATCH, FORMS, PERM, TIME, VALID


@given(
    st.floats(0, 1, width=32),
    st.integers(0, 2**16),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_additive_masks_mix_what_they_stand_for(lam, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(BATCH, 1, TIME, TIME, generator=generator, dtype=dtype)
    hidden = torch.rand(mask.shape, generator=generator) < 0.3
    mask = mask.masked_fill(hidden & ~torch.eye(TIME).bool(), -math.inf)  # each sees itself
    mixed = masks.mix_mask(mask, torch.tensor(lam), PERM, VALID, dtype=torch.float32, weights=False)
    assert mixed.dtype == dtype
    assert mixed.isfinite().all()
    lam = torch.tensor(lam).double()
    expected = lam * mask.double().exp() + (1 - lam) * mask[PERM].double().exp()
    torch.testing.assert_close(mixed.double().exp(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_where_a_query_is_padding_its_partner_s_row_shows_the_keys_that_are_there(form):
    square = VALID[:, None, None] & VALID[:, None, :, None]
    mask = square if form == "bool" else torch.where(square, 0.0, -math.inf)
    lam = torch.linspace(0.1, 0.9, BATCH)
    options = {"dtype": torch.float32, "weights": False}
    mixed = masks.mix_mask(mask, lam, PERM, VALID, **options).exp()
    lam = lam[:, None]
    keys = lam * VALID + (1 - lam) * VALID[PERM]
    union = VALID | VALID[PERM]
    torch.testing.assert_close(mixed.squeeze(1), keys[:, None] * union[..., None])


def test_a_causal_query_in_the_padding_sees_no_later_keys():
    valid = VALID.flip(1)
    mask = valid[:, None, None] & torch.ones(TIME, TIME).tril().bool()
    lam = torch.tensor(0.3)
    options = {"dtype": torch.float32, "weights": False}
    mixed = masks.mix_mask(mask, lam, PERM, valid, **options).exp()
    torch.testing.assert_close(mixed, lam * mask + (1 - lam) * mask[PERM])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_booleans_become_finite_logarithms(dtype):
    lam = torch.tensor(0.25)
    mixed = masks.mix_mask(VALID, lam, PERM, VALID, dtype=dtype, weights=False)
    assert mixed.dtype == dtype
    assert mixed.isfinite().all()
    weights = 0.25 * VALID.double() + 0.75 * VALID[PERM].double()
    torch.testing.assert_close(mixed.double().exp(), weights, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_what_is_present(form):
    name = "pad_mask" if form == "pad" else "mask"
    assert torch.equal(masks.valid_positions(FORMS[form], name), VALID)
    full = {"pad": VALID.logical_xor(VALID), "additive": torch.zeros(BATCH, TIME)}
    everything = full.get(form, torch.ones(BATCH, TIME))
    assert masks.valid_positions(everything, name).all()


@pytest.mark.parametrize("form", FORMS)
def test_shortened_masks_differ_between_neighbours(form):
    name = "pad_mask" if form == "pad" else "mask"
    full = {"pad": torch.zeros(4, 10).bool(), "additive": torch.zeros(4, 10)}
    mask = full.get(form, torch.ones(4, 10, dtype=FORMS[form].dtype))
    assert masks.valid_positions(masks.shortened(mask, name), name).sum(1).tolist() == [10, 8, 6, 4]
    shorter = masks.valid_positions(masks.shortened(FORMS[form], name), name)
    assert shorter.any(1).all()
    assert not (shorter & ~VALID).any()


def test_states_take_gradients_of_their_weights():
    x = torch.randn(BATCH, TIME, 2, dtype=torch.float64, requires_grad=True)
    lam = torch.rand(BATCH)
    assert torch.autograd.gradcheck(lambda x: masks.mix_states(x, lam, PERM, VALID), x)
    assert torch.autograd.gradgradcheck(lambda x: masks.mix_states(x, lam, PERM, VALID), x)


def test_where_nothing_is_padding_it_is_the_plain_mix():
    x, plan = torch.randn(BATCH, TIME, 5), MixPlan("x", torch.tensor(0.3), PERM)
    full = torch.ones(BATCH, TIME).bool()
    from manifold_mixup import mix

    assert torch.equal(masks.mix_states(x, plan.lam, plan.perm, full), mix(x, plan))
