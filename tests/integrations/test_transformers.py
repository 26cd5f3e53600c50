"""The Trainer of Transformers with ``add_to_trainer``, compared with loops by hand."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch.nn import functional

import trainer_worker
import two_ranks
from manifold_mixup import Cut, ManifoldMixup, MixPlan
from manifold_mixup.integrations.transformers import add_to_trainer
from trainer_training import (
    BATCH,
    CASES,
    CLASSES,
    COUNT,
    IN_BERT,
    attach,
    bert,
    build,
    drawn,
    make_trainer,
    padded,
    trained,
)
from with_positions import by_positions, mixed_tokens

ROOT = Path(__file__).parents[2]
THOROUGH = pytest.mark.thorough
ALIKE = ("padded numbers", "convnext", "resnet")


# The oracle: loops and losses by hand


def hand_loss(case, logits, y, plan):
    """Return the sum over the items of a batch, mixed by hand."""
    lam, partner = plan.target_lam, y[plan.perm]
    if "number" in case:
        return ((logits[:, 0] - (lam * y + (1 - lam) * partner)) ** 2).sum()
    if case == "several":
        soft = lam * y + (1 - lam) * partner
        return functional.binary_cross_entropy_with_logits(logits, soft, reduction="sum")
    scores = logits.transpose(1, -1)
    own, other = (functional.cross_entropy(scores, t, reduction="sum") for t in (y, partner))
    return lam * own + (1 - lam) * other


def trained_by_hand(case, watch, accumulate=1):
    """Train on the recorded batches without a Trainer, with plans that are drawn again.

    Return the model, and the mean of the steps' losses.
    """
    model = CASES[case][0]().train()
    mixup = attach(case, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    epoch = -(-COUNT // BATCH)
    for start in range(0, len(watch.batches), epoch):
        batches = watch.batches[start : start + epoch]
        for first in range(0, epoch, accumulate):
            step = batches[first : first + accumulate]
            total = sum(int((batch["labels"] != -100).sum()) for batch in step)
            losses.append(0.0)
            for batch in step:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                logits = model(**inputs).logits
                mixup.target(None, logits)
                loss = hand_loss(case, logits, batch["labels"], mixup.plan) / total
                loss.backward()
                losses[-1] += loss.item()
            optimizer.step()
            optimizer.zero_grad()
    return model, sum(losses) / len(losses)


def assert_same(ours, theirs, rtol=1e-4, atol=1e-6):
    theirs = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_plans_that_depend_on_the_targets_are_given_those_of_the_batch(tmp_path):
    _, watch = trained("classes", tmp_path, mixup={"pairs": "same_class"}, eval_strategy="no")
    for plan, batch in zip(watch.plans, watch.batches, strict=True):
        assert torch.equal(batch["labels"][plan.perm], batch["labels"])
    trainer, watch = trained("classes", tmp_path, mixup={"pairs": "other_class"})
    for plan, batch in zip(watch.plans, watch.batches, strict=True):
        assert (batch["labels"][plan.perm] != batch["labels"]).all()
    trainer.evaluate(CLASSES)  # needs none


# "padded numbers" is "a number" with the mask of "padded"; to mix images, "vit" is enough.
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=THOROUGH if case in ALIKE else ()) for case in CASES],
)
def test_it_trains_what_a_loop_by_hand_does(case, tmp_path):
    trainer, watch = trained(case, tmp_path, mixup={"check": True}, gradient_accumulation_steps=4)
    assert {plan.layer for plan in watch.plans} == set(CASES[case][1])
    model, loss = trained_by_hand(case, watch, accumulate=4)
    assert_same(trainer.model, model)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("case", ["vit", pytest.param("convnext", marks=THOROUGH), "resnet"])
def test_losses_of_states_that_are_cut_are_those_by_hand(case, tmp_path):
    cuts = {"blend": Cut(), "check": True}  # the check finds which dimensions are positions
    trainer, watch = trained(case, tmp_path, mixup=cuts, epochs=2, logging_steps=1)
    seen = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    model = CASES[case][0]().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch, plan, logged in zip(watch.batches, watch.plans, seen, strict=True):
        logits = cut_by_hand(model, batch["pixel_values"], plan)
        loss = hand_loss(case, logits, batch["labels"], plan) / len(logits)
        assert logged == pytest.approx(loss.item(), abs=1e-4)  # it has four digits
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(trainer.model, model)
    assert {plan.layer for plan in watch.plans} == set(CASES[case][1])
    assert sum(0 < float(plan.target_lam) < 1 for plan in watch.plans) > 4


def cut_by_hand(model, x, plan):
    """Return the logits of a model whose input or layer is cut as a plan says."""

    def cut(h):
        if h.ndim == 3:  # a class token, then patches
            patched = SimpleNamespace(FIRST=1, GRID=plan.weight.shape[1:])
            return mixed_tokens(h, plan.weight, plan.perm, plan.target_lam, patched)
        return by_positions(h, plan.weight, plan.perm, (2, 3))

    assert torch.equal(plan.target_lam, plan.weight.float().mean())
    if plan.layer == "input":
        return model(cut(x)).logits
    module = model.get_submodule(plan.layer)
    with module.register_forward_hook(lambda module, args, output: cut(output)):
        return model(x).logits


@pytest.mark.parametrize("case", ["classes", "tokens", "several", "a number"])
def test_without_mixing_it_is_the_loss_of_the_model_itself(case, tmp_path):
    smoothing = 0.1 if case in ("classes", "tokens") else 0.0
    settings = {"label_smoothing_factor": smoothing}
    ours, _ = trained(case, tmp_path, mixup={"p": 0.0}, **settings)
    theirs, _ = trained(case, tmp_path, mix=False, **settings)
    assert_same(ours.model, theirs.model)
    losses = [trainer.evaluate(CASES[case][2][:20])["eval_loss"] for trainer in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    if case in ("several", "a number"):  # pipelines read this
        assert ours.model.config.problem_type == theirs.model.config.problem_type


def test_the_label_smoothing_is_the_present_one(tmp_path):
    """As a search for hyperparameters sets it, after the Trainer was made."""
    model = bert()
    trainer = make_trainer(model, CLASSES, tmp_path)
    add_to_trainer(trainer, attach("classes", model))
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    for smoothing in (0.2, 0.0):
        trainer.args.label_smoothing_factor = smoothing
        with torch.no_grad():
            loss = trainer.compute_loss_func({"logits": logits}, labels, num_items_in_batch=4)
        expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("case", ["classes", "tokens", "several", "a number"])
def test_accumulated_batches_are_one_big_batch(case, tmp_path):
    ours, _ = trained(case, tmp_path, mixup={"p": 0.0}, gradient_accumulation_steps=2)
    theirs, _ = trained(case, tmp_path, mixup={"p": 0.0}, per_device_train_batch_size=2 * BATCH)
    assert_same(ours.model, theirs.model)


# Settings


def test_a_lam_for_every_example(tmp_path):
    trainer, watch = trained("classes", tmp_path, mixup={"per_sample": True})
    alone = bert().train()
    mixup = ManifoldMixup(alone, IN_BERT, seed=0, per_sample=True, check=False)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for batch in watch.batches:
        logits = alone(input_ids=batch["input_ids"]).logits
        soft = mixup.target(batch["labels"], logits).soft(3)
        (-soft * logits.log_softmax(1)).sum(1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert watch.plans[-1].lam.shape == (4,)
    assert_same(trainer.model, alone)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_model_that_the_trainer_compiles(tmp_path):
    settings = {"torch_compile": True, "torch_compile_backend": "eager"}
    options = {"epochs": 2, "dataloader_drop_last": True}  # which draw both layers
    trainer, watch = trained("classes", tmp_path, **options, **settings)
    assert {plan.layer for plan in watch.plans} == set(IN_BERT)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert_same(trainer.model, trained_by_hand("classes", watch)[0])


def test_activation_checkpointing(tmp_path):
    trainer, watch = trained("classes", tmp_path, activation_checkpointing=True)
    assert trainer.model.is_activation_checkpointing
    assert_same(trainer.model, trained_by_hand("classes", watch)[0])


def test_autocast(tmp_path):
    trainer, watch = trained("vit", tmp_path, bf16=True)
    assert {plan.layer for plan in watch.plans} == set(CASES["vit"][1])
    assert_same(trainer.model, trained_by_hand("vit", watch)[0], rtol=0.05, atol=0.01)


def test_a_model_in_half_precision(tmp_path):
    trainer, _ = trained("half precision", tmp_path)
    logits = torch.randn(8, 3, dtype=torch.bfloat16)
    labels = torch.arange(8) % 3
    with torch.no_grad():
        loss = trainer.compute_loss_func((logits,), labels, num_items_in_batch=8)
    torch.testing.assert_close(loss, functional.cross_entropy(logits.float(), labels))


def test_a_compute_loss_func_gets_mixed_targets(tmp_path):
    weight = torch.tensor([1.0, 2.0, 3.0])

    def weighted(outputs, labels, num_items_in_batch):
        losses = functional.cross_entropy(outputs.logits, labels, weight, reduction="sum")
        return losses / num_items_in_batch

    model = bert()
    given = {"compute_loss_func": weighted}
    trainer = make_trainer(model, CLASSES, tmp_path, given=given)
    mixup, seen = ManifoldMixup(model, IN_BERT, seed=0, check=False), []
    add_to_trainer(trainer, mixup)
    mixed = trainer.compute_loss_func

    def watched(outputs, labels, num_items_in_batch):
        loss = mixed(outputs, labels, num_items_in_batch=num_items_in_batch)
        targets = (labels, labels[mixup.plan.perm])
        own, partner = (weighted(outputs, target, num_items_in_batch) for target in targets)
        seen.append(loss.detach())
        torch.testing.assert_close(loss, mixup.plan.lam * own + (1 - mixup.plan.lam) * partner)
        return loss

    trainer.compute_loss_func = watched
    trainer.train()
    assert len(seen) == 6


def test_evaluation_is_plain_and_draws_nothing(tmp_path):
    trainer, watch = trained("classes", tmp_path)
    step = watch.mixup.state_dict()["step"]
    with torch.no_grad():
        ids = torch.stack([row["input_ids"] for row in CLASSES[:16]])
        expected = trainer.model.eval()(ids, labels=torch.arange(16) % 3).loss
    found = trainer.evaluate(CLASSES[:16])["eval_loss"]
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert watch.mixup.state_dict()["step"] == step == 6


def test_what_is_logged(tmp_path):
    expected = []
    model = bert()
    last_plain = {"alpha": lambda step: None if step == 5 else 1.0}
    mixup = ManifoldMixup(model, IN_BERT, seed=0, check=False, **last_plain)
    trainer = make_trainer(model, CLASSES, tmp_path, logging_steps=3)
    add_to_trainer(trainer, mixup)
    inner = trainer.compute_loss_func

    def watched(outputs, labels, num_items_in_batch):
        hit = (outputs.logits.argmax(1) == labels).float()
        if mixup.plan is not None:
            other = (outputs.logits.argmax(1) == labels[mixup.plan.perm]).float()
            hit = mixup.plan.lam * hit + (1 - mixup.plan.lam) * other
        expected.append((hit.mean().item(), mixup.plan))
        return inner(outputs, labels, num_items_in_batch=num_items_in_batch)

    trainer.compute_loss_func = watched
    trainer.train()
    first, second = (row for row in trainer.state.log_history if "mixup_lam" in row)
    (hit, plan), (last_hit, _) = expected[2], expected[5]
    assert first["mixup_accuracy"] == pytest.approx(hit)
    assert second["mixup_accuracy"] == pytest.approx(last_hit)
    assert (first["mixup_lam"], IN_BERT[first["mixup_layer"]]) == (plan.lam.item(), plan.layer)
    assert (second["mixup_lam"], second["mixup_layer"], second["step"]) == (1.0, -1, 6)
    losses = [row["step"] for row in trainer.state.log_history if "loss" in row]
    assert losses == [3, 6]


# Resuming


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_run_ends_as_an_uninterrupted_one(restore, tmp_path):
    settings = {
        "epochs": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,  # within the first epoch of three steps
        "restore_callback_states_from_checkpoint": restore,
    }
    through, watch = trained("with dropout", tmp_path, **settings)
    at_two = str(tmp_path / "checkpoint-2")
    # Another seed; the one in the checkpoint is used.
    resumed, after = trained("with dropout", tmp_path, resume=at_two, mixup={"seed": 9}, **settings)
    assert len(watch.plans) == 12
    assert drawn(after) == drawn(watch)[4:]
    assert_same(resumed.model, through.model, rtol=0, atol=0)


def test_a_run_can_start_mixing_at_a_checkpoint_without(tmp_path):
    settings = {"save_strategy": "epoch"}
    trained("classes", tmp_path, mix=False, **settings)
    _, watch = trained("classes", tmp_path, resume=True, epochs=2, **settings)
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["manifold_mixup"] == {"seed": 0, "step": 6, "stream": 2}
    assert len(watch.plans) == 6


# Two processes


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Each process draws its own plans; gradients equal those of one process with all batches."""
    two_ranks.start(trainer_worker.__file__, tmp_path)
    first, second = (torch.load(tmp_path / f"rank.{rank}") for rank in (0, 1))
    assert first["plans"] != second["plans"]
    model, optimizer = bert().train(), None
    mixup = ManifoldMixup(model, IN_BERT, check=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(len(first["plans"])):
        ranks = [(run["batches"][step], run["plans"][step]) for run in (first, second)]
        total = sum(len(batch["labels"]) for batch, _ in ranks)
        for batch, (layer, lam, perm) in ranks:
            plan = MixPlan(layer, lam=torch.tensor(lam), perm=torch.tensor(perm))
            with mixup.using(plan):
                logits = model(input_ids=batch["input_ids"]).logits
            mixup.target(None, logits)
            (hand_loss("classes", logits, batch["labels"], plan) / total).backward()
        optimizer.step()
        optimizer.zero_grad()
    for run in (first, second):
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(run["weights"][name], tensor, rtol=1e-4, atol=1e-6)
        resumed = run["resumed"]
        assert resumed["plans"] == run["plans"][-len(resumed["plans"]) :]
        for name, tensor in run["weights"].items():
            assert torch.equal(resumed["weights"][name], tensor), name


# Documentation


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")  # without a GPU
def test_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "recipes" / "transformers.md").read_text()
    assert '"num_hidden_layers": 3' in page
    page = page.replace('"num_hidden_layers": 3', '"num_hidden_layers": 2')  # in less time
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
        assert names["mixup"].state_dict()["step"] == names["trainer"].state.global_step == 8
    assert_last_tokens_weigh_as_their_examples(names["mixup"], names["decoder"], names["padded"])


def assert_last_tokens_weigh_as_their_examples(mixup, model, rows):
    batch = transformers.default_data_collator([{**row, "labels": 0} for row in rows[:4]])
    del batch["labels"]
    masks = {"right": batch["attention_mask"], "left": batch["attention_mask"].flip(1)}
    states, perm = [], torch.tensor([1, 2, 3, 0])
    model.eval().last.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    for side, mask in masks.items():
        mixup.assert_verified(batch["input_ids"], mask)
        last = mask.sum(1) - 1 if side == "right" else torch.full((4,), 11)
        for lam in (torch.tensor(0.3), torch.tensor(1.0)):
            with mixup.using(MixPlan("decoder.layers.0", lam, perm)), torch.no_grad():
                logits = model(batch["input_ids"], mask)["logits"]
            own, partner = states[-1][range(4), last], states[-1][range(4), last[perm]]
            expected = model.score(lam * own + (1 - lam) * partner)
            torch.testing.assert_close(logits, expected)


class PicksTheLastPosition(torch.nn.Module):
    def __init__(self):
        super().__init__()
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.LlamaConfig(vocab_size=30, intermediate_size=32, **sizes)
        self.body, self.score = transformers.LlamaModel(config), torch.nn.Linear(16, 3)

    def forward(self, input_ids, attention_mask, labels=None):
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return {"logits": self.score(states[:, -1])}


def test_a_last_position_behind_padding_on_the_left_trains(tmp_path):
    data = padded(CLASSES)
    for row in data:
        row["attention_mask"] = row["attention_mask"].flip(0)
        row["input_ids"] = row["input_ids"].flip(0)
    model = PicksTheLastPosition()
    mixup = ManifoldMixup(model, ["body.layers.0"], mask="attention_mask", seed=0, check=False)
    trainer = make_trainer(model, data, tmp_path)
    add_to_trainer(trainer, mixup)
    trainer.train()
    batch = {
        name: torch.stack([row[name] for row in data[:4]])
        for name in ("input_ids", "attention_mask")
    }
    mixup.assert_verified(**batch)


def test_a_language_model_with_a_loss_that_shifts_the_labels(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=8, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = build(transformers.GPT2LMHeadModel, config)
    before = build(transformers.GPT2LMHeadModel, config)

    def shifted(outputs, labels, num_items_in_batch=None):
        scores = outputs["logits"] if isinstance(outputs, dict) else outputs
        return functional.cross_entropy(scores[:, :-1].transpose(1, 2), labels[:, 1:])

    rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in CLASSES[:BATCH]]
    mixup = ManifoldMixup(model, ["transformer.wte", "transformer.h.0"], seed=0)
    given = {"compute_loss_func": shifted}
    trainer = make_trainer(model, rows, tmp_path, given=given, data_seed=0)
    add_to_trainer(trainer, mixup)
    seen = []
    model.register_forward_pre_hook(
        lambda *call: seen.append(call[2]["input_ids"]), with_kwargs=True
    )
    trainer.train()
    plan = mixup.plan
    mixup.remove()
    ids = seen[-1]
    by_hand = ManifoldMixup(before.train(), mixup.layers, seed=1)
    with by_hand.using(plan):
        logits = before(input_ids=ids).logits
    by_hand.target(None, logits)
    loss = plan.lam * shifted(logits, ids) + (1 - plan.lam) * shifted(logits, ids[plan.perm])
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
