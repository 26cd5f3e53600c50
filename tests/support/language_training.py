"""Small causal language models, batches of tokens, and the Trainer's loss of a batch."""

import torch
import transformers

from trainer_training import BATCH, COUNT, build

WORDS, TIME = 30, 9
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 32, "vocab_size": WORDS, "max_position_embeddings": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llama(head=transformers.LlamaForCausalLM, **config):
    return build(head, transformers.LlamaConfig(**SIZES, **config))


def gpt2(head=transformers.GPT2LMHeadModel, **config):
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": WORDS}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return build(head, transformers.GPT2Config(**sizes, **still, **tokens, **config))


MODELS = {"llama": llama, "gpt2": gpt2}
BLOCKS = {
    "llama": [f"model.layers.{index}" for index in range(2)],
    "gpt2": [f"transformer.h.{index}" for index in range(2)],
}


def documents(count=COUNT):
    """Return token ids of several lengths."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, WORDS, (3 + k % 7,), generator=generator) for k in range(count)]


def pad(texts, side="right"):
    """Pad as DataCollatorForLanguageModeling does: labels are the ids, and -100 in the padding."""
    longest = max(map(len, texts))
    rows = []
    for ids in texts:
        space = (0, longest - len(ids)) if side == "right" else (longest - len(ids), 0)
        rows.append([torch.nn.functional.pad(each, space, value=value) for each, value in (
            (ids, 0), (torch.ones_like(ids), 0), (ids, -100),
        )])  # fmt: skip
    stacked = map(torch.stack, zip(*rows, strict=True))
    return dict(zip(("input_ids", "attention_mask", "labels"), stacked, strict=True))


def pack(texts, time=TIME):
    """Return rows of a fixed length, cut from all texts one after the other."""
    rows = torch.cat(texts).split(time)
    return [{"input_ids": row, "labels": row} for row in rows if len(row) == time]


def keep_apart(starts, time=TIME):
    """Return positions that restart at each row's start, and the additive mask for the same.

    Args:
        starts: where the second document of each row starts.
        time: the length of the rows.
    """
    places = torch.arange(time)
    second = places >= starts[:, None]
    positions = torch.where(second, places - starts[:, None], places)
    seen = (second[:, :, None] == second[:, None, :]) & torch.ones(time, time).tril().bool()
    mask = torch.zeros(len(starts), 1, time, time)
    return positions, mask.masked_fill(~seen[:, None], torch.finfo(torch.float32).min)


def batch_of(side="right"):
    return pad(documents(BATCH), side)


def graded(trainer, batch, items):
    """Return the Trainer's loss of a batch in training, and the gradients of all parameters."""
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=items)
    model.zero_grad()
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name: p.grad for name, p in named if p.grad is not None}
