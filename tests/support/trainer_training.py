"""Small models with their data, and a training of each by the Trainer of Transformers."""

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations.transformers import add_to_trainer

COUNT, BATCH = 44, 8  # the last of six batches has four examples


# Models, each with layers and a data set

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WORDS = {"vocab_size": 30, "max_position_embeddings": 8}


def build(head, config):
    torch.manual_seed(0)
    return head(config)


def bert(head=transformers.BertForSequenceClassification, **config):
    given = {**SIZES, **WORDS, "num_labels": 3, **config}
    return build(head, transformers.BertConfig(**given))


def distilbert(**config):
    still = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    config = transformers.DistilBertConfig(**WORDS, **sizes, **still, **config)
    return build(transformers.DistilBertForSequenceClassification, config)


def vit():
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES)
    return build(transformers.ViTForImageClassification, config)


def convnext():
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2}
    config = transformers.ConvNextConfig(num_labels=3, **sizes)
    return build(transformers.ConvNextForImageClassification, config)


def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = transformers.ResNetConfig(layer_type="basic", num_labels=3, **sizes)
    return build(transformers.ResNetForImageClassification, config)


def texts(labels):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 30, (COUNT, 7), generator=generator)
    return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]


def images():
    x = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return [{"pixel_values": row, "labels": k % 3} for k, row in enumerate(x)]


def tokens():
    labels = torch.randint(3, (COUNT, 7), generator=torch.Generator().manual_seed(2))
    return texts(labels.masked_fill(labels.roll(1, 0) == 0, -100))


def padded(rows):
    """Pad the texts after lengths of 2 to 7."""
    lengths = [2 + k % 6 for k in range(COUNT)]
    masks = [(torch.arange(7) < length).long() for length in lengths]
    rows = [{**row, "attention_mask": mask} for row, mask in zip(rows, masks, strict=True)]
    for row in rows:
        row["input_ids"] = row["input_ids"] * row["attention_mask"]
        if torch.is_tensor(row["labels"]):
            row["labels"] = row["labels"].masked_fill(row["attention_mask"] == 0, -100)
    return rows


CLASSES = texts([k % 3 for k in range(COUNT)])
SEVERAL = texts([torch.tensor([k % 2, k % 3 == 0, 1.0]) for k in range(COUNT)])
IN_BERT = ["bert.embeddings", "bert.encoder.layer.0"]
IN_DISTILBERT = ["distilbert.embeddings", "distilbert.transformer.layer.0"]
TOKENS = transformers.BertForTokenClassification
CASES = {
    "classes": (bert, IN_BERT, CLASSES),
    "tokens": (lambda: bert(TOKENS), IN_BERT, tokens()),
    "several": (lambda: bert(problem_type="multi_label_classification"), IN_BERT, SEVERAL),
    "a number": (lambda: distilbert(num_labels=1), IN_DISTILBERT, CLASSES),
    "padded": (bert, IN_BERT, padded(CLASSES)),
    "padded tokens": (lambda: bert(TOKENS), IN_BERT, padded(tokens())),
    "padded numbers": (lambda: distilbert(num_labels=1), IN_DISTILBERT, padded(CLASSES)),
    "vit": (vit, ["input", "vit.layers.0"], images()),
    "convnext": (convnext, ["input", "convnext.encoder.stages.0"], images()),
    "resnet": (resnet, ["input", "resnet.encoder.stages.0"], images()),
}
ALL = {
    **CASES,
    "with dropout": (lambda: bert(hidden_dropout_prob=0.1), IN_BERT, CLASSES),
    "half precision": (lambda: bert().bfloat16(), IN_BERT, CLASSES),
}


# Training with the Trainer


class Watch(TrainerCallback):
    """Records the plans, and the batches of the data collator."""

    def __init__(self, mixup):
        self.mixup, self.plans, self.batches = mixup, [], []

    def collate(self, rows):
        batch = transformers.default_data_collator(rows)
        if "attention_mask" in batch:  # as wide as the longest text of the batch
            width = batch["attention_mask"].sum(1).max()
            batch = {name: x[:, :width] if x.ndim > 1 else x for name, x in batch.items()}
        self.batches.append(batch)
        return dict(batch)

    def on_substep_end(self, args, state, control, **_):
        self.plans.append(self.mixup.plan)

    on_step_end = on_substep_end


def make_trainer(model, data, folder, *, epochs=1, given=None, **settings):
    fixed = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "max_grad_norm": 0.0}
    settings = {"save_strategy": "no", "per_device_train_batch_size": BATCH, **settings}
    args = TrainingArguments(folder, num_train_epochs=epochs, **fixed, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    optimizers = (optimizer, constant)
    return Trainer(model, args, train_dataset=data, optimizers=optimizers, **(given or {}))


def attach(case, model, **options):
    mask = "attention_mask" if "padded" in case else None
    return ManifoldMixup(model, ALL[case][1], mask=mask, **{"seed": 0, "check": False, **options})


def trained(case, folder, *, mix=True, add=True, resume=None, mixup=None, **settings):
    """Train with a Trainer; return it and the records."""
    build_model, _, data = ALL[case]
    model = build_model()
    mixup = attach(case, model, **(mixup or {}))
    watch = Watch(mixup)
    given = {"data_collator": watch.collate, "callbacks": [watch]}
    trainer = make_trainer(model, data, folder, given=given, **settings)
    if not mix:
        mixup.remove()
    elif add:
        add_to_trainer(trainer, mixup)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, watch


def drawn(watch):
    return [(plan.layer, plan.lam.item(), plan.perm.tolist()) for plan in watch.plans]
