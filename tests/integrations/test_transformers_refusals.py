"""Wrong uses of ``add_to_trainer``, and models whose loss cannot be mixed: refused by name."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations.transformers import add_to_trainer
from trainer_training import (
    CASES,
    CLASSES,
    IN_BERT,
    SEVERAL,
    bert,
    make_trainer,
    trained,
    vit,
)


def refused(
    tmp_path, error, match, *, model=None, data=CLASSES, layers=IN_BERT, settings=None, **given
):
    model = bert() if model is None else model
    mixup = ManifoldMixup(model, layers, check=False)
    trainer = make_trainer(model, data, tmp_path, given=given, **(settings or {}))

    def use():
        add_to_trainer(trainer, mixup)
        trainer.train()

    with pytest.raises(error, match=match):
        use()


@pytest.mark.parametrize("case", ["classes", "several", "padded"])
def test_a_trainer_to_which_it_was_not_added(case, tmp_path):
    """The model computes the loss, which the check or the first backward detects."""
    with pytest.raises(
        ValueError, match=r"itself computes a loss from 'labels'.*Trainer.*add_to_trainer"
    ):
        trained(case, tmp_path, add=False, mixup={"check": True})
    with pytest.raises(RuntimeError, match=r"targets were not mixed.*labels=.*add_to_trainer"):
        trained(case, tmp_path, add=False)


def test_a_trainer_with_a_loss_of_its_own_to_which_it_was_not_added(tmp_path):
    model = bert()
    ManifoldMixup(model, IN_BERT)

    def loss(outputs, labels, num_items_in_batch=None):
        return functional.cross_entropy(outputs.logits, labels)

    given = {"compute_loss_func": loss}
    with pytest.raises(RuntimeError, match=r"'logits'.*targets were not mixed.*add_to_trainer"):
        make_trainer(model, CLASSES, tmp_path, given=given).train()


class Overriding(Trainer):
    """Computes the loss itself, where the criterion may be wrapped."""

    wrap = staticmethod(lambda criterion: criterion)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = self.wrap(functional.cross_entropy)(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


def test_a_trainer_that_computes_the_loss_itself(tmp_path):
    model = bert()
    mixup = ManifoldMixup(model, IN_BERT, check=False)
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Overriding(model, args, train_dataset=CLASSES)
    add_to_trainer(trainer, mixup)
    with pytest.raises(RuntimeError, match="targets were not mixed") as caught:
        trainer.train()
    (note,) = caught.value.__notes__
    assert "Overriding.compute_loss computes the loss itself" in note
    trainer.wrap = mixup.wrap  # the way out
    trainer.train()


class Detector(nn.Module):
    """Finds one box in each image; the labels are a list with a box for each."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x, labels=None):
        return {"logits": self.head(self.body(x))}


def of_boxes(outputs, labels):
    boxes = torch.stack([label["box"] for label in labels])
    return functional.l1_loss(outputs["logits"], boxes)


class Detecting(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, x = inputs["labels"], inputs["x"]
        criterion = self.mixup.wrap(lambda o, rows: of_boxes(o, [labels[i] for i in rows]))
        return criterion(model(x), torch.arange(len(labels)))


def test_boxes_of_images(tmp_path):
    model = Detector()
    mixup = ManifoldMixup(model, ["body"])
    rows = [{"x": torch.randn(3), "labels": {"box": torch.rand(4)}} for _ in range(8)]

    def collate(rows):
        return {"x": torch.stack([r["x"] for r in rows]), "labels": [r["labels"] for r in rows]}

    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    given = {"args": args, "train_dataset": rows, "data_collator": collate}
    trainer = Trainer(model, compute_loss_func=lambda o, y, **_: of_boxes(o, y), **given)
    add_to_trainer(trainer, mixup)
    with pytest.raises(TypeError, match=r"labels are a list.*criterion\(outputs, torch.arange"):
        trainer.train()
    trainer = Detecting(model, **given)
    trainer.mixup = mixup
    trainer.train()
    assert mixup.plan is not None


def test_a_detector_of_the_library(tmp_path):
    class BertForObjectDetection(transformers.BertForMaskedLM):
        """As a detector, by its name alone."""

    model = bert(BertForObjectDetection)
    trainer = make_trainer(model, CLASSES, tmp_path)
    with pytest.raises(TypeError, match=r"not BertForObjectDetection\. Labels in a list"):
        add_to_trainer(trainer, ManifoldMixup(model, IN_BERT, check=False))


def test_twice(tmp_path):
    model = bert()
    trainer = make_trainer(model, CLASSES, tmp_path)
    mixup = ManifoldMixup(model, IN_BERT)
    add_to_trainer(trainer, mixup)
    with pytest.raises(RuntimeError, match="already mixes"):
        add_to_trainer(trainer, mixup)


def test_a_loss_that_is_wrapped_already(tmp_path):
    model = bert()
    mixup = ManifoldMixup(model, IN_BERT)
    wrapped = {"compute_loss_func": mixup.wrap(functional.cross_entropy)}
    with pytest.raises(TypeError, match="already wrapped"):
        add_to_trainer(make_trainer(model, CLASSES, tmp_path, given=wrapped), mixup)


def test_a_model_without_a_head(tmp_path):
    says = "are a NoneType.*'labels'.*forward.*remove_unused_columns"
    given = {"layers": ["embeddings"], "data": CLASSES}
    refused(tmp_path, TypeError, says, model=bert().bert, **given)
    given["settings"] = {"remove_unused_columns": False}
    says = r"returned \['last_hidden_state', 'pooler_output'\], but no logits"
    refused(tmp_path, TypeError, says, model=bert().bert, **given)


def test_targets_of_another_name(tmp_path):
    data = [{"input_ids": row["input_ids"], "classes": row["labels"]} for row in CLASSES]
    refused(tmp_path, TypeError, "are a NoneType.*'labels'", data=data)


def test_targets_that_do_not_fit(tmp_path):
    data = [{**row, "labels": row["input_ids"] % 3} for row in CLASSES]
    says = r"labels of shape \(8, 7\) do not fit logits of shape \(8, 3\) in single_label"
    refused(tmp_path, ValueError, says, data=data)


def test_the_same_trainer_takes_the_way_out_of_a_refusal(tmp_path):
    model = bert()
    trainer = make_trainer(model, SEVERAL, tmp_path)
    add_to_trainer(trainer, ManifoldMixup(model, IN_BERT, check=False))
    with pytest.raises(ValueError, match="problem_type = 'multi_label_classification'"):
        trainer.train()
    model.config.problem_type = "multi_label_classification"
    trainer.train()
    assert trainer.state.global_step == 6


def test_a_collator_that_mixes(tmp_path):
    from torchvision.transforms import v2

    mix = v2.MixUp(num_classes=3)

    def collate(rows):
        batch = transformers.default_data_collator(rows)
        batch["pixel_values"], batch["labels"] = mix(batch["pixel_values"], batch["labels"])
        return batch

    given = {"model": vit(), "layers": ["input"], "data": CASES["vit"][2]}
    says = r"floating point, of shape \(8, 3\).*problem_type.*Remove a data collator that mixes"
    refused(tmp_path, ValueError, says, data_collator=collate, **given)


def test_a_collator_that_gives_both_targets(tmp_path):
    def collate(rows):
        batch = transformers.default_data_collator(rows)
        return {**batch, "labels": (batch["labels"], batch["labels"].flip(0), 0.3)}

    refused(tmp_path, TypeError, "are a tuple.*collator that mixes", data_collator=collate)


def test_a_model_that_the_trainer_makes_anew(tmp_path):
    model = bert()
    mixup = ManifoldMixup(model, IN_BERT)
    args = TrainingArguments(tmp_path, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Trainer(None, args, train_dataset=CLASSES, model_init=lambda: bert())
    add_to_trainer(trainer, mixup)
    with pytest.raises(RuntimeError, match="no forward pass of the attached model was seen"):
        trainer.train()
