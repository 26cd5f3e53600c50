"""Short trainings with Lightning's Trainer, bit-identical to a loop by hand."""

import copy
import csv
import functools
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import lightning_worker as worker
import two_ranks
from lightning_training import (
    BATCH,
    CLASSES,
    FEATURES,
    LAYERS,
    QUIET,
    ROWS,
    Lit,
    Plans,
    Saves,
    assert_same,
    assert_untouched,
    by_hand,
    fit,
    loader,
)
from manifold_mixup import Cut, ManifoldMixup, MixedTarget, MixPlan, Remix
from manifold_mixup.integrations.lightning import ManifoldMixupCallback
from with_positions import Maps, hand_split

pytestmark = QUIET


needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"
)
PAGE = Path(__file__).parents[2] / "docs" / "recipes" / "lightning.md"


# Equality with a loop by hand


def test_losses_plans_and_weights_are_those_of_a_loop_by_hand():
    lit = Lit()
    criterion, keys = lit.criterion, list(lit.state_dict())
    _, plans = fit(lit, ManifoldMixupCallback(LAYERS, seed=0))
    assert_same(lit, plans, by_hand())
    assert {layer for layer, _, _ in plans} == set(LAYERS)
    assert list(lit.state_dict()) == keys
    assert_untouched(lit, criterion)


class Given(Lit):
    """Gives the targets of each pass itself."""

    def training_step(self, batch, number):
        self.mixing.batch(batch[1])
        return super().training_step(batch, number)


RULES = {"pairs": "other_class", "label": Remix((30, 10, 3))}


@pytest.mark.parametrize("validate", [False, True])
def test_plans_that_depend_on_the_targets_are_given_those_of_the_batch(validate):
    lit = Lit()
    _, plans = fit(lit, ManifoldMixupCallback(LAYERS, seed=0, **RULES), validate=validate)
    assert_same(lit, plans, by_hand(**RULES))


def test_a_training_step_may_give_the_targets():
    lit = Given()
    lit.mixing = ManifoldMixupCallback(LAYERS, seed=0, targets_at=None, **RULES)
    lit.mixing.batch(torch.zeros(3))  # outside a fit there is nothing to give them to
    _, plans = fit(lit, lit.mixing)
    assert_same(lit, plans, by_hand(**RULES))


def test_targets_that_are_elsewhere_in_the_batch_are_asked_for():
    mixing = ManifoldMixupCallback(LAYERS, seed=0, targets_at="label", **RULES)
    with pytest.raises(TypeError, match="but the batch, a list, has none at 'label'"):
        fit(Lit(), mixing)


def test_the_first_loss_is_that_of_the_papers_equation():
    lit = Lit()
    net = copy.deepcopy(lit.model)
    _, plans = fit(lit, ManifoldMixupCallback(["stem"], seed=3))
    x, y = next(iter(loader()))
    _, lam, perm = plans[0]
    state = net.stem(x)
    state = torch.tanh(lam * state + (1 - lam) * state[perm])
    output = net.head(torch.tanh(net.body(state)))
    loss = lam * lit.criterion(output, y) + (1 - lam) * lit.criterion(output, y[perm])
    torch.testing.assert_close(lit.losses[0], loss.detach())


class OnImages(Lit):
    """Records what a loss by hand needs of each step: weights before it, batch and plan."""

    def __init__(self):
        super().__init__()
        self.model, self.steps = Maps(), []

    def training_step(self, batch, number):
        before = copy.deepcopy(self.model.state_dict())
        loss = super().training_step(batch, number)
        self.steps.append((before, batch, self.trainer.callbacks[0].mixup.plan))
        return loss


@pytest.mark.parametrize("per_sample", [False, True])
def test_losses_of_states_that_are_cut_are_those_by_hand(per_sample):
    layers, lit, by_hand = ["input", "conv1", "conv2"], OnImages(), Maps()
    data = TensorDataset(torch.randn(ROWS, 2, 8, 8), torch.arange(ROWS) % CLASSES)
    mixing = ManifoldMixupCallback(layers, seed=0, blend=Cut(), per_sample=per_sample)
    lit.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    fit(lit, mixing, data=DataLoader(data, BATCH))
    cut = 0
    for loss, (before, (x, y), plan) in zip(lit.losses, lit.steps, strict=True):
        by_hand.load_state_dict(before)
        output = hand_split(by_hand, x, plan)
        share = plan.weight.float().mean((1, 2))  # of the positions that each example keeps
        assert len(share) == (BATCH if per_sample else 1)
        own, partner = (
            functional.cross_entropy(output, target, reduction="none", label_smoothing=0.1)
            for target in (y, y[plan.perm])
        )
        torch.testing.assert_close(loss, (share * own + (1 - share) * partner).mean().detach())
        cut += bool((share != 1).any())
    assert cut > len(lit.losses) / 2


class CallsTheModel(Lit):
    def loss(self, x, y):
        return self.criterion(self.model(x), y)


class Flat(Lit):
    """A LightningModule with its own forward, which calls the layers of its model."""

    def forward(self, x):
        model = self.model
        return model.head(torch.tanh(model.body(torch.tanh(model.stem(x)))))


class LossFunction(Lit):
    """A loss in an attribute that is not a module."""

    def __init__(self):
        super().__init__()
        self.loss_function = functools.partial(
            functional.cross_entropy, weight=self.criterion.weight
        )

    def loss(self, x, y):
        return self.loss_function(self(x), y)


class LossMethod(Lit):
    def measure(self, output, target):
        return functional.cross_entropy(output, target, weight=self.criterion.weight)

    def loss(self, x, y):
        return self.measure(self(x), target=y)


class ByName(Lit):
    """A loss that is called with PyTorch's keyword arguments."""

    def loss(self, x, y):
        return self.criterion(input=self(x), target=y)


class NamedTarget(Lit):
    def loss(self, x, y):
        return self.criterion(self(x), target=y)


class OwnTarget(Lit):
    """A loss computed from the target, with a callback that the LightningModule configures."""

    mixing = None

    def loss(self, x, y):
        output = self(x)
        return self.mixing.target(y, output).loss(self.criterion, output)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CallsTheModel, {}),
        (Flat, {"module": None, "layers": ["model.stem", "model.body"]}),
        (LossFunction, {"criterion": "loss_function"}),
        (LossMethod, {"criterion": "measure"}),
        (ByName, {}),
        (NamedTarget, {}),
        (OwnTarget, {"criterion": None}),
    ],
)
def test_every_way_to_write_a_training_step(kind, options):
    lit = kind()
    before = dict(vars(lit))
    mixing = ManifoldMixupCallback(**({"layers": LAYERS, "seed": 0} | options))
    if kind is OwnTarget:
        lit.mixing = mixing
    _, plans = fit(lit, mixing, validate=True)
    losses, expected, state = by_hand()
    assert [(layer.removeprefix("model."), *rest) for layer, *rest in plans] == expected
    same_call = kind not in (LossFunction, LossMethod, ByName, NamedTarget)
    assert_same(lit, expected, (losses, expected, state), to_the_bit=same_call)
    assert vars(lit).get("loss_function") is before.get("loss_function")
    assert "measure" not in vars(lit)


class Weighted(Lit):
    """A loss with a weight per example, which belongs to the target."""

    def measure(self, output, target, weight):
        return (weight * functional.cross_entropy(output, target, reduction="none")).mean()

    def loss(self, x, y):
        return self.measure(self(x), y, weight=1.0 + x[:, 0].abs())


def test_a_further_argument_that_belongs_to_the_target():
    mixing = ManifoldMixupCallback(LAYERS, criterion="measure", with_target=["weight"], seed=0)
    lit = Weighted()
    net = copy.deepcopy(lit.model)
    _, ((layer, lam, perm), *_) = fit(lit, mixing)
    x, y = next(iter(loader()))
    weight = 1.0 + x[:, 0].abs()
    with ManifoldMixup(net, [layer]) as mixup:
        with mixup.using(MixPlan(layer, torch.tensor(lam), torch.tensor(perm))):
            output = net(x)
        mixup.target(None, output)
        own = lit.measure(output, y, weight)
        partner = lit.measure(output, y[perm], weight[perm])
    torch.testing.assert_close(lit.losses[0], (lam * own + (1 - lam) * partner).detach())
    with pytest.raises(ValueError, match="with_target needs a criterion, but criterion is None"):
        ManifoldMixupCallback(LAYERS, criterion=None, with_target=["weight"])


def test_a_loss_by_name_has_an_accuracy_in_the_log(tmp_path):
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    options = {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1, "max_epochs": 1}
    fit(ByName(), mixing, **options)
    steps = [row for row in logged(tmp_path) if row["mixup_lam"]]
    assert len(steps) == ROWS // BATCH
    assert all(row["mixup_accuracy"] for row in steps)


def test_accumulated_gradients():
    lit = Lit()
    _, plans = fit(lit, ManifoldMixupCallback(LAYERS, seed=0), accumulate_grad_batches=2)
    assert_same(lit, plans, by_hand(accumulate=2))


def test_mixed_precision_and_a_lambda_per_sample():
    lit = Lit()
    mixing = ManifoldMixupCallback(LAYERS, seed=0, per_sample=True)
    fit(lit, mixing, precision="bf16-mixed", max_epochs=1)
    losses, _, state = by_hand(epochs=1, autocast=torch.bfloat16, per_sample=True)
    assert torch.equal(torch.stack(lit.losses), torch.stack(losses))
    assert torch.equal(lit.model.head.weight, state["head.weight"])


def test_evaluation_is_plain():
    lit = Lit()
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    trainer, plans = fit(lit, mixing, validate=True)
    assert_same(lit, plans, by_hand())  # the sanity check did not use up a plan either
    mixed, lit.validated = lit.validated[-3:], []
    trainer.validate(lit, loader(), verbose=False)
    assert mixed == lit.validated


# Compiled


@pytest.mark.parametrize("what", ["in place", "everything"])
def test_compiled(what, fresh_compiler):
    lit = Lit()
    compiled = torch.compile(lit, backend="eager") if what == "everything" else lit
    if what == "in place":
        lit.model.compile(backend="eager")
    _, plans = fit(compiled, ManifoldMixupCallback(LAYERS, seed=0))
    losses, expected, _ = by_hand()
    assert plans == expected
    torch.testing.assert_close(torch.stack(lit.losses), torch.stack(losses))


@pytest.mark.parametrize("before", ["with the callback", "without it"])
def test_a_submodule_that_was_compiled_and_trained_before(before, fresh_compiler):
    """Code compiled without the hooks, or with those of an earlier fit, is not used."""
    lit = Lit()
    lit.model = torch.compile(lit.model, backend="eager")
    state = copy.deepcopy(lit.state_dict())
    if before == "with the callback":
        fit(lit, ManifoldMixupCallback(LAYERS, seed=1), max_epochs=1)
    else:
        for x, y in loader():
            lit.loss(x, y).backward()
        lit.zero_grad()
    lit.load_state_dict(state)
    lit.losses = []
    fit(lit, ManifoldMixupCallback(LAYERS, seed=0), validate=True)
    torch.testing.assert_close(torch.stack(lit.losses), torch.stack(by_hand()[0]))


# Checkpoints and further fits


class Resumable:
    """A loader that resumes where it was saved, like torchdata's StatefulDataLoader."""

    def __init__(self):
        self.batches, self.given = list(loader()), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.given %= len(self)
        for batch in self.batches[self.given :]:
            self.given += 1
            yield batch

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


@pytest.mark.parametrize("step", [3, 4])  # at the end of an epoch, and within the next
def test_a_resumed_fit_ends_in_the_same_bits(step, tmp_path):
    path = tmp_path / "saved.ckpt"
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    fit(Lit(), mixing, data=Resumable(), max_steps=step, callbacks=[Saves(step, path)])
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["state_dict"].keys() == Lit().state_dict().keys()
    lit = Lit()
    mixing = ManifoldMixupCallback(LAYERS, seed=99)  # the seed in the checkpoint is used
    _, plans = fit(lit, mixing, data=Resumable(), max_epochs=3, ckpt_path=path)
    _, expected, state = by_hand(epochs=3)
    assert plans == expected[step:]
    assert all(torch.equal(state[name], value) for name, value in lit.model.state_dict().items())


def test_a_state_that_is_restored_after_the_fit_has_started():
    """The Trainer does this if the strategy first shards the model."""

    class Restores(Callback):
        def on_train_start(self, trainer, lit):
            trainer.callbacks[0].load_state_dict({"seed": 0, "step": 3, "stream": 2})

    _, plans = fit(Lit(), ManifoldMixupCallback(LAYERS), max_epochs=1, callbacks=[Restores()])
    assert plans == by_hand()[1][3:]


def test_a_trainer_that_goes_on_draws_on_and_a_new_one_anew():
    lit, mixing = Lit(), ManifoldMixupCallback(LAYERS, seed=0)
    trainer, plans = fit(lit, mixing, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(lit, loader())
    losses, expected, _ = by_hand()
    assert trainer.callbacks[1].seen == expected
    assert torch.equal(
        torch.stack(lit.losses[:4]), torch.stack(losses[:4])
    )  # later ones differ by momentum
    _, anew = fit(Lit(), mixing, max_epochs=1)
    assert anew == plans[: len(anew)]
    assert mixing.state_dict() == {"seed": 0, "step": 3, "stream": 2}


class Two(Lit):
    """Two networks, each with a criterion and a callback of its own."""

    def __init__(self):
        super().__init__()
        self.other, self.criterion_2 = copy.deepcopy(self.model), nn.CrossEntropyLoss()

    def loss(self, x, y):
        return super().loss(x, y) + self.criterion_2(self.other(x), y)


def two_callbacks(*seeds):
    names = {"module": "other", "criterion": "criterion_2"}
    first, second = seeds
    return ManifoldMixupCallback(LAYERS, seed=first), ManifoldMixupCallback(
        ["body"], seed=second, **names
    )


def test_two_callbacks_in_one_trainer(tmp_path):
    path, lit = tmp_path / "saved.ckpt", Two()
    first, second = two_callbacks(0, 1)
    others, options = [second, Saves(3, path)], {"logger": CSVLogger(tmp_path)}
    _, plans = fit(lit, first, callbacks=others, log_every_n_steps=1, **options)
    assert plans == by_hand()[1]
    (row, *_) = [row for row in logged(tmp_path) if row["mixup_lam_model"]]
    assert float(row["mixup_lam_model"]) == pytest.approx(plans[0][1])
    assert (row["mixup_layer_other"], row["mixup_accuracy_other"] != "") == ("0.0", True)
    resumed = two_callbacks(8, 9)  # the seeds in the checkpoint are used
    fit(Two(), resumed[0], callbacks=[resumed[1]], ckpt_path=path)
    assert [each.state_dict() for each in resumed] == [
        each.state_dict() for each in (first, second)
    ]


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint:UserWarning")
def test_a_checkpoint_from_before_callbacks_had_keys_of_their_own(tmp_path):
    path = tmp_path / "saved.ckpt"
    _, plans = fit(Lit(), ManifoldMixupCallback(LAYERS, seed=0), callbacks=[Saves(3, path)])
    lit = Lit()
    lit.net = lit.model
    of_net = ManifoldMixupCallback(LAYERS, module="net", seed=9)
    assert "ManifoldMixupCallback" in torch.load(path, weights_only=True)["callbacks"]
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = lit.state_dict()
    torch.save(checkpoint, path)
    _, resumed = fit(lit, of_net, ckpt_path=path)
    assert resumed == plans[3:]


# Logs


def logged(folder):
    (path,) = Path(folder).rglob("metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_what_was_mixed_is_logged(tmp_path):
    class Accuracies(Plans):
        def on_train_batch_end(self, trainer, lit, *_):
            self.seen.append(self.mixing.mixup.plan)

    mixing = ManifoldMixupCallback(LAYERS, seed=0, p=0.6)
    lit, plans = Lit(), Accuracies(mixing)
    lit.criterion = nn.CrossEntropyLoss(ignore_index=1)
    outputs = []
    lit.model.register_forward_hook(lambda module, args, output: outputs.append(output))
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]
    fit(lit, mixing, logger=loggers, log_every_n_steps=1, max_epochs=1, callbacks=[plans])
    rows = logged(tmp_path)
    steps = [row for row in rows if row["mixup_lam"]]
    assert {plan is None for plan in plans.seen} == {True, False}
    for row, plan in zip(steps, plans.seen, strict=True):
        assert float(row["mixup_lam"]) == pytest.approx(1.0 if plan is None else float(plan.lam))
        assert float(row["mixup_layer"]) == (-1 if plan is None else LAYERS.index(plan.layer))
    accuracies = [
        float(MixedTarget(y, plan).accuracy(output, ignore_index=1))
        for (_, y), plan, output in zip(loader(), plans.seen, outputs, strict=True)
    ]
    assert [float(row["mixup_accuracy"]) for row in steps] == pytest.approx(accuracies)


class CountsLogs(Lit):
    logs = 0

    def log_dict(self, *args, **kwargs):
        self.logs += 1
        super().log_dict(*args, **kwargs)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, [1, 3, 5, 7, 9, 11]), (2, [1, 3, 5, 7])])
def test_it_is_logged_at_the_steps_that_the_trainer_logs_alone(accumulate, steps, tmp_path):
    """Logging is more expensive than mixing."""
    lit, mixing = CountsLogs(), ManifoldMixupCallback(LAYERS, seed=0)
    options = {"log_every_n_steps": 2, "accumulate_grad_batches": accumulate}
    fit(lit, mixing, logger=CSVLogger(tmp_path), max_epochs=4, **options)
    assert [int(row["step"]) for row in logged(tmp_path) if row["mixup_lam"]] == steps
    assert lit.logs < 12  # the number of batches


def test_soft_targets_have_no_accuracy_and_log_can_be_left_out(tmp_path):
    class Soft(Lit):
        def loss(self, x, y):
            return self.criterion(self(x), functional.one_hot(y, CLASSES).float())

    for number, log in enumerate([True, False]):
        folder = tmp_path / str(number)
        mixing = ManifoldMixupCallback(LAYERS, log=log)
        fit(Soft(), mixing, logger=CSVLogger(folder), log_every_n_steps=1, max_epochs=1)
        names = set().union(*logged(folder)) if log else set()
        assert {name for name in names if name.startswith("mixup")} == (
            {"mixup_lam", "mixup_layer"} if log else set()
        )


def test_barebones():
    lit = Lit()
    barebones = {"barebones": True, "enable_checkpointing": None, "enable_progress_bar": None}
    mixing = ManifoldMixupCallback(LAYERS, seed=0)
    trainer = Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=[mixing])
    trainer.fit(lit, loader())
    assert barebones
    assert torch.equal(torch.stack(lit.losses), torch.stack(by_hand(epochs=1)[0]))


# Layers chosen from an example


@pytest.mark.parametrize("given", ["example", "example_input_array"])
def test_layers_from_an_example(given):
    lit, options = Lit(), {"seed": 0}
    if given == "example":
        options["example"] = torch.zeros(2, FEATURES)
    else:
        lit.example_input_array = torch.zeros(2, FEATURES)
    mixing = ManifoldMixupCallback(**options)
    fit(lit, mixing, max_epochs=1)
    assert "input" in mixing.mixup.layers


# Two processes


@needs_gloo
@pytest.mark.slow
def test_two_processes_train_one_model_by_plans_of_their_own(tmp_path):
    two_ranks.start(worker.__file__, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(rank["hooks"] == 0 for rank in ranks)
    assert all("wraps Lit and calls it around" in rank["refused"] for rank in ranks)
    # By hand: the gradient is the mean over the ranks.
    lit = worker.Lit()
    mixup = ManifoldMixup(lit.model, worker.LAYERS)
    criterion = mixup.wrap(lit.criterion)
    optimizer = lit.configure_optimizers()
    steps = list(zip(*(rank["steps"] for rank in ranks), strict=True))
    assert len(steps) == worker.EPOCHS * worker.ROWS // worker.BATCH // 2
    for of_ranks in steps:
        for (x, y), plan in of_ranks:
            with mixup.using(MixPlan(*plan)):
                (criterion(lit.model(x), y) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        lams = [plan[1] for _, plan in of_ranks]
        assert lams[0] != lams[1]
    for rank in ranks:
        torch.testing.assert_close(rank["weights"], lit.model.state_dict())


# The documentation


def test_the_recipes_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(block, names)
    assert names["callback"].state_dict()["step"] == names["trainer"].global_step > 0
