"""Wrong uses of the callback for Lightning, and data that is mixed already: refused by name."""

import functools
import random

import pytest
from timm.data import FastCollateMixup
from timm.data import Mixup as TimmMixup
from torch.nn import functional
from torch.utils.data import default_collate
from torchvision.transforms import v2

from lightning_training import (
    CLASSES,
    LAYERS,
    QUIET,
    Lit,
    Net,
    Saves,
    assert_untouched,
    fit,
    loader,
)
from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations.lightning import ManifoldMixupCallback

pytestmark = QUIET


class LossInside(Lit):
    """A loss that the callback does not know."""

    def loss(self, x, y):
        return functional.cross_entropy(self(x), y)


class NoLabels(Lit):
    def loss(self, x, y):
        return self(x).square().mean()


def frozen():
    lit = Lit()
    lit.model.eval()
    return lit


@pytest.mark.parametrize(
    ("lit", "options", "error", "fragments"),
    [
        (Lit, {"module": "net"}, ValueError, ["no submodule 'net'", "['model', 'criterion']"]),
        (Lit, {"criterion": "loss_fn"}, ValueError, ["no 'loss_fn'", "criterion=None"]),
        (Lit, {"layers": ["stm"]}, ValueError, ["Did you mean 'stem'"]),
        (Lit, {"layers": None}, ValueError, ["Pass example=x"]),
        (Lit, {"alhpa": 1.0}, TypeError, ["alhpa"]),
        (LossInside, {}, RuntimeError, ["targets were not mixed"]),
        (NoLabels, {}, RuntimeError, ["targets were not mixed"]),
        (frozen, {}, RuntimeError, ["module='model' is in eval mode", "call its train()"]),
    ],
)
def test_wrong_uses(lit, options, error, fragments):
    module = lit()
    criterion = module.criterion
    with pytest.raises(error) as caught:
        fit(module, ManifoldMixupCallback(**({"layers": LAYERS} | options)))
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert_untouched(module, criterion)


class CallsForward(Lit):
    def forward(self, x):
        return self.model.forward(x)


class CallsForwardAndMixesNothing(LossInside):
    def forward(self, x):
        return self.model.forward(x)


@pytest.mark.parametrize("lit", [LossInside, CallsForward])
def test_an_error_of_the_library_says_what_to_do_in_lightning(lit):
    with pytest.raises(RuntimeError) as caught:
        fit(lit(), ManifoldMixupCallback(LAYERS))
    (note,) = caught.value.__notes__
    assert "training_step must call module='model'" in note
    assert "criterion='criterion'" in note
    assert "callback.target(y, output).loss(" in note


class FreezesTooLate(Lit):
    def on_train_start(self):  # runs after the callbacks
        self.model.eval()


def test_a_module_that_is_put_in_eval_mode_as_the_training_starts():
    lit = FreezesTooLate()
    with pytest.raises(RuntimeError, match="module='model' is in eval mode"):
        fit(lit, ManifoldMixupCallback(LAYERS))
    assert len(lit.losses) == 1
    assert_untouched(lit, lit.criterion)


def test_a_resumed_fit_whose_module_is_never_called_is_found_out(tmp_path):
    path = tmp_path / "saved.ckpt"
    fit(Lit(), ManifoldMixupCallback(LAYERS), max_epochs=1, callbacks=[Saves(3, path)])
    with (
        pytest.warns(UserWarning, match="the attached Net itself is never called"),
        pytest.raises(RuntimeError, match="module='model' was never called in training"),
    ):
        fit(CallsForwardAndMixesNothing(), ManifoldMixupCallback(LAYERS), ckpt_path=path)


def test_a_module_that_is_never_called_is_found_out():
    with (
        pytest.warns(UserWarning, match="the attached Net itself is never called"),
        pytest.raises(RuntimeError, match="module='model' was never called in training"),
    ):
        fit(CallsForwardAndMixesNothing(), ManifoldMixupCallback(LAYERS))


def test_an_exception_of_the_users_own_detaches_and_gets_no_note():
    class Breaks(Lit):
        def on_train_epoch_end(self):
            raise RuntimeError("mine")

    lit, mixing = Breaks(), ManifoldMixupCallback(LAYERS, seed=0)
    criterion = lit.criterion
    with pytest.raises(RuntimeError, match="mine") as caught:
        fit(lit, mixing)
    assert not getattr(caught.value, "__notes__", ())
    assert_untouched(lit, criterion)
    fit(Lit(), mixing)  # the callback can be used again


def test_a_criterion_that_is_mixed_already_and_a_second_callback():
    lit = Lit()
    lit.criterion = ManifoldMixup(Net(), LAYERS).wrap(lit.criterion)
    with pytest.raises(TypeError, match="already wrapped"):
        fit(lit, ManifoldMixupCallback(LAYERS))

    class Second(ManifoldMixupCallback):
        pass

    lit = Lit()
    criterion = lit.criterion
    with pytest.raises(RuntimeError, match=r"already has ManifoldMixup\(.* attached"):
        fit(lit, ManifoldMixupCallback(LAYERS), callbacks=[Second(LAYERS)])
    assert_untouched(lit, criterion)


def test_two_callbacks_need_two_criteria():
    lit = Lit()
    criterion, lit.other = lit.criterion, Net()
    second = ManifoldMixupCallback(LAYERS, module="other")
    with pytest.raises(ValueError, match=r"both name criterion='criterion'.*_2 = nn.Cross"):
        fit(lit, ManifoldMixupCallback(LAYERS), callbacks=[second])
    assert_untouched(lit, criterion)


# Data that are mixed already

MIX = v2.MixUp(num_classes=CLASSES)
CHOICE = v2.RandomChoice([v2.CutMix(num_classes=CLASSES), MIX])
FAST = FastCollateMixup(num_classes=CLASSES)


def by_global(batch):
    return CHOICE(*default_collate(batch))


def by_closure(mixer=MIX):
    return lambda batch: mixer(*default_collate(batch))


def by_argument(batch, mixer):
    return mixer(*default_collate(batch))


class Collator:
    def __init__(self):
        self.mixer = TimmMixup(num_classes=CLASSES)

    def collate(self, batch):
        return self.mixer(*default_collate(batch))


@pytest.mark.parametrize(
    ("collate", "name"),
    [
        (by_global, "CutMix"),
        (by_closure(), "MixUp"),
        (functools.partial(by_argument, mixer=MIX), "MixUp"),
        (FAST, "FastCollateMixup"),
        (Collator().collate, "Mixup"),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_data_that_is_mixed_already(collate, name, several):
    data = loader(collate_fn=collate)
    lit = Lit()
    with pytest.raises(ValueError, match=rf"already mixed.*applies {name}\."):
        fit(lit, ManifoldMixupCallback(LAYERS), data={"a": data} if several else data)
    assert lit.losses == []


@pytest.mark.parametrize("collate", [default_collate, functools.partial(list), random.sample])
def test_data_that_is_not(collate):
    from manifold_mixup.integrations._loaders import refuse_mixed

    refuse_mixed(loader(collate_fn=collate))
