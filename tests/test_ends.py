"""Decoders: the position that a model takes of each sequence is mixed with that of its partner."""

import copy

import pytest
import torch
import transformers
from torch import nn

from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._structure.row import End

ROWS, TIME, PAD, STOP = 6, 8, 1, 2
PERM = torch.tensor([3, 5, 1, 0, 2, 4])
LENGTHS = torch.tensor([8, 5, 3, 6, 4, 7])
VALID = torch.arange(TIME) < LENGTHS[:, None]
WORDS = torch.randint(3, 30, (ROWS, TIME), generator=torch.Generator().manual_seed(0))
IDS = torch.where(VALID, WORDS, PAD)
STOPPED = IDS.scatter(1, LENGTHS[:, None] - 1, STOP)  # each ends with its stop token
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, ROWS)}
THOROUGH = pytest.mark.thorough


def rows(ids):
    return torch.arange(len(ids))


def at_index(h, ids):
    return h[rows(ids), (ids != PAD).sum(1) - 1]


def at_argmax(h, ids):
    last = (torch.arange(ids.shape[1]) * (ids != PAD).int()).argmax(-1)
    return h[rows(ids), last]


def at_stop(h, ids):
    return h[rows(ids), (ids == STOP).int().argmax(1)]


def by_gather(h, ids):
    last = ((ids != PAD).sum(1) - 1)[:, None, None].expand(-1, 1, h.shape[2])
    return h.gather(1, last).squeeze(1)


def by_gather_with_names(h, ids):
    last = ((ids != PAD).sum(1) - 1)[:, None, None].expand(-1, 1, h.shape[2])
    return torch.gather(h, dim=1, index=last).squeeze(1)


def along_dim(h, ids):
    return h.take_along_dim(((ids != PAD).sum(1) - 1)[:, None, None], 1)[:, 0]


def at_marks(h, ids):
    """As BART does."""
    return h[(ids == STOP), :].view(len(ids), -1, h.shape[-1])[:, -1, :]


POOLS = {
    p.__name__: p
    for p in (at_index, at_argmax, at_stop, at_marks, by_gather, by_gather_with_names, along_dim)
}


class Causal(nn.Module):
    """Means over the positions so far, as attention with equal weights."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, h):
        counts = torch.arange(1, h.shape[1] + 1, dtype=h.dtype)[:, None]
        return h + self.linear(h.cumsum(1) / counts).tanh()


class Decoder(nn.Module):
    """Classifies by the last token: as Transformers' decoders, of the outputs of its head."""

    def __init__(self, pool="at_index"):
        super().__init__()
        torch.manual_seed(0)
        self.pool = POOLS[pool]
        self.embed = nn.Embedding(30, 8)
        self.blocks = nn.ModuleList([Causal(), Causal(), Causal()])
        self.score = nn.Linear(8, 3)
        self.double()

    def forward(self, ids):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        return self.pool(self.score(h), ids)

    def by_hand(self, ids, plan):
        lam = plan.lam.double()
        over = lambda x: lam.view(-1, *[1] * (x.ndim - 1)) if lam.ndim else lam  # noqa: E731
        h = self.embed(ids)
        for name, block in enumerate(self.blocks):
            h = block(h)
            if plan.layer == f"blocks.{name}":
                h = over(h) * h + (1 - over(h)) * h[PERM]
        scores = self.score(h)
        if plan.layer == "score":
            scores = over(scores) * scores + (1 - over(scores)) * scores[PERM]
        own, partners = self.pool(scores, ids), self.pool(scores, ids[PERM])
        return over(own) * own + (1 - over(own)) * partners


def compare(model, mixup, ids, plan, run=None):
    oracle = copy.deepcopy(model)
    expected = oracle.by_hand(ids, plan)
    expected.square().sum().backward()
    with mixup.using(plan):
        output = model(ids) if run is None else run(ids)
        mixup.target(None, output)
        output.square().sum().backward()
    assert type(output) is torch.Tensor
    torch.testing.assert_close(output, expected)
    for (name, own), (_, other) in zip(
        model.named_parameters(), oracle.named_parameters(), strict=True
    ):
        torch.testing.assert_close(own.grad, other.grad, msg=name)


# By indices, by a mask, and by gathering.
FEW = ("at_index", "at_marks", "by_gather")


@pytest.mark.parametrize(
    ("pool", "lam"),
    [
        pytest.param(pool, lam, marks=() if lam == "one λ" or pool in FEW else THOROUGH)
        for pool in POOLS
        for lam in LAMS
    ],
)
def test_outputs_and_gradients_are_those_of_the_pass_by_hand(pool, lam):
    model = Decoder(pool)
    mixup = ManifoldMixup(model, ["blocks.*", "score"], example=STOPPED)
    for layer in mixup.layers:
        compare(model, mixup, STOPPED, MixPlan(layer, LAMS[lam], PERM))
        model.zero_grad()


@pytest.mark.parametrize("pool", POOLS)
def test_the_module_is_found_and_every_layer_before_it_is_a_cut(pool):
    model = Decoder(pool)
    table = find_layers(model, STOPPED)
    found = {row.name: row for row in table}
    assert table.default == ("blocks.0", "blocks.1")
    for name in ("embed", "blocks.0", "blocks.1", "blocks.2", "score"):
        assert found[name].cut
        assert found[name].ends == (End("score", ""),)
    assert "the end of each sequence in 'score'" in str(table)
    assert ManifoldMixup(model, ["embed", "blocks.*", "score"]).verify(STOPPED).ok


@pytest.mark.parametrize("pool", POOLS)
def test_at_the_ends_it_is_the_plain_pass(pool):
    model = Decoder(pool)
    plain = model(STOPPED)
    mixup = ManifoldMixup(model, ["blocks.1"], example=STOPPED)
    for lam, expected in ((0.0, plain[PERM]), (1.0, plain)):
        with mixup.using(MixPlan("blocks.1", torch.tensor(lam), PERM)):
            output = model(STOPPED)
            mixup.target(None, output)
        torch.testing.assert_close(output, expected)


def test_without_an_example_the_first_batch_finds_it_and_other_lengths_follow():
    model, oracle = Decoder(), Decoder()
    mixup = ManifoldMixup(model, ["blocks.0"], seed=0)
    for ids in (STOPPED, STOPPED[:, :7], STOPPED[:4]):
        output = model(ids)
        mixup.target(None, output)
        lam, perm = mixup.plan.lam.double(), mixup.plan.perm
        h = oracle.blocks[0](oracle.embed(ids))
        h = oracle.score(oracle.blocks[2](oracle.blocks[1](lam * h + (1 - lam) * h[perm])))
        expected = lam * oracle.pool(h, ids) + (1 - lam) * oracle.pool(h, ids[perm])
        torch.testing.assert_close(output, expected)
    mixup.remove()
    torch.testing.assert_close(model(STOPPED), oracle(STOPPED))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(  # without at_marks, which breaks a graph
    "pool",
    [
        "at_index",
        pytest.param("at_argmax", marks=THOROUGH),
        pytest.param("at_stop", marks=THOROUGH),
        "by_gather",
        pytest.param("by_gather_with_names", marks=THOROUGH),
        "along_dim",
    ],
)
def test_compiled_in_one_graph(pool):
    model = Decoder(pool)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    layers = ["blocks.0", "score"]
    mixup = ManifoldMixup(compiled, layers, example=STOPPED)
    for layer in layers if pool == "at_index" else layers[:1]:
        compare(model, mixup, STOPPED, MixPlan(layer, LAMS["one λ"], PERM), run=compiled)
        model.zero_grad()


@pytest.mark.usefixtures("fresh_compiler", "own_as_subclass")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_marked_positions_are_mixed_after_a_graph_break():
    model = Decoder("at_marks")
    compiled = torch.compile(model, backend="aot_eager")
    mixup = ManifoldMixup(compiled, ["blocks.0"], example=STOPPED)
    compare(model, mixup, STOPPED, MixPlan("blocks.0", LAMS["one λ"], PERM), run=compiled)


@pytest.mark.parametrize("lam", LAMS)
def test_several_marked_positions_of_each_row_are_mixed_in_order(lam):
    class Two(Decoder):
        def __init__(self):
            super().__init__("at_marks")
            self.pool = lambda h, ids: (
                h[(ids == STOP) | (torch.arange(TIME) == 0)].view(len(ids), 2, -1).flatten(1)
            )

    model = Two()
    mixup = ManifoldMixup(model, ["blocks.1"], example=STOPPED)
    compare(model, mixup, STOPPED, MixPlan("blocks.1", LAMS[lam], PERM))


def test_unequal_numbers_of_marked_positions_are_refused():
    model = Decoder()
    model.pool = lambda h, ids: h[ids == STOP].view(len(ids), -1)
    mixup = ManifoldMixup(model, ["blocks.1"], example=STOPPED, seed=0)
    ids = torch.where(torch.arange(ROWS)[:, None] > 3, STOPPED, STOP)  # as many in all, or more
    with pytest.raises(RuntimeError, match=r"marks \[8, 8, 8, 8, 1, 1\] of them.*as many in each"):
        model(ids)
    mixup.remove()


class Other(Decoder):
    """Takes another position than that of a module's output."""

    def forward(self, ids):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        return self.pool(self.score(h) * 2, ids)


class Both(Decoder):
    """Returns all positions too."""

    def forward(self, ids):
        scores = self.score(self.blocks[1](self.blocks[0](self.embed(ids))))
        return self.pool(scores, ids), scores


@pytest.mark.parametrize("kind", [Other, Both])
def test_a_position_of_what_is_used_in_other_ways_too_is_refused(kind):
    with pytest.raises(ValueError, match="'ids' is still read after it"):
        ManifoldMixup(kind(), ["blocks.0"], example=STOPPED)


class LastToken(nn.Module):
    def forward(self, h, mask):
        return h[rows(mask), mask.sum(1) - 1]


class Masked(Decoder):
    """Finds the last token by the mask, in a module or in its own code."""

    def __init__(self, *, module):
        super().__init__()
        self.last = LastToken() if module else None
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.blocks = nn.ModuleList([layer, copy.deepcopy(layer)]).double()

    def forward(self, ids, mask):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=mask == 0)
        h = self.score(h)
        return self.last(h, mask) if self.last else h[rows(mask), mask.sum(1) - 1]


@pytest.mark.parametrize("module", [False, True])
def test_the_last_token_may_be_found_by_the_mask(module):
    model, batch = Masked(module=module), {"ids": IDS, "mask": VALID.long()}
    mixup = ManifoldMixup(model, ["blocks.0", "blocks.1"], mask="mask", example=batch)
    assert mixup.verify(**batch).ok


def test_whole_sequences_in_training_are_refused():
    model = Decoder()
    mixup = ManifoldMixup(model, ["blocks.0"], example=STOPPED, seed=0)
    model.pool = lambda h, ids: h
    with pytest.raises(RuntimeError, match="all positions of the output of 'score'"):
        model(STOPPED)
    mixup.remove()


# Transformers

SIZES = {
    "vocab_size": 30,
    "num_labels": 3,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": STOP,
}
SIZES |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 16}
LLAMA = SIZES | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
GPT2 |= {key: SIZES[key] for key in list(SIZES)[:5]}
KINDS = {
    "gpt2": (transformers.GPT2Config, GPT2, transformers.GPT2ForSequenceClassification),
    "llama": (transformers.LlamaConfig, LLAMA, transformers.LlamaForSequenceClassification),
    "qwen3": (
        transformers.Qwen3Config,
        LLAMA | {"head_dim": 8},
        transformers.Qwen3ForSequenceClassification,
    ),
    "mistral": (transformers.MistralConfig, LLAMA, transformers.MistralForSequenceClassification),
}
BART = SIZES | {"d_model": 16, "decoder_start_token_id": STOP}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
T5 = SIZES | {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_decoder_layers": 1, "num_heads": 2}
T5 |= {"decoder_start_token_id": PAD}
SEQUENCES = {
    "bart": (transformers.BartConfig, BART, transformers.BartForSequenceClassification),
    "t5": (transformers.T5Config, T5, transformers.T5ForSequenceClassification),
}


SIDES = ["right", "left", "right, without a mask"]
QUICK = [("gpt2", "right"), ("gpt2", "left"), ("llama", "right, without a mask")]


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        pytest.param(kind, side, marks=() if (kind, side) in QUICK else THOROUGH)
        for kind in KINDS
        for side in SIDES
    ],
)
def test_decoders_of_transformers_are_proven_at_every_block(kind, side):
    config, sizes, model = KINDS[kind]
    torch.manual_seed(0)
    model = model(config(**sizes))
    valid = VALID.flip(1) if side == "left" else VALID
    batch = {"input_ids": torch.where(valid, WORDS, PAD), "attention_mask": valid.long()}
    mask = "attention_mask"
    if side == "right, without a mask":
        mask, batch = None, {"input_ids": IDS}
    blocks = "transformer.h.*" if kind == "gpt2" else "model.layers.*"
    mixup = ManifoldMixup(model, [blocks], mask=mask, outputs="logits", example=batch)
    assert len(mixup.layers) == 2
    assert mixup.verify(**batch).ok
    model.eval()
    with torch.no_grad():
        plain = model(**batch).logits
    for lam, expected in ((0.0, plain[PERM]), (1.0, plain)):
        with mixup.using(MixPlan(mixup.layers[0], torch.tensor(lam), PERM)), torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, expected)


@pytest.mark.parametrize(
    ("kind", "padded"),
    [
        pytest.param("bart", False, marks=THOROUGH),
        ("bart", True),
        pytest.param("t5", False, marks=THOROUGH),
        pytest.param("t5", True, marks=THOROUGH),
    ],
)
def test_encoder_decoders_that_mark_their_end_are_proven_at_every_block(kind, padded):
    config, sizes, model = SEQUENCES[kind]
    torch.manual_seed(0)
    model = model(config(**sizes))
    ids = STOPPED if padded else WORDS.index_fill(1, torch.tensor([TIME - 1]), STOP)
    batch = {"input_ids": ids, **({"attention_mask": VALID.long()} if padded else {})}
    blocks = ["model.*coder.layers.?"] if kind == "bart" else ["transformer.*coder.block.?"]
    mask = "attention_mask" if padded else None
    mixup = ManifoldMixup(model, blocks, mask=mask, outputs="logits", example=batch)
    assert len(mixup.layers) == 3  # two blocks of the encoder, one of the decoder
    assert mixup.verify(**batch).ok
    model.eval()
    with torch.no_grad():
        plain = model(**batch).logits
        assert (plain - plain[PERM]).abs().amax(1).min() > 1e-4
        for layer in mixup.layers:
            for lam, expected in ((0.0, plain[PERM]), (1.0, plain)):
                with mixup.using(MixPlan(layer, torch.tensor(lam), PERM)):
                    torch.testing.assert_close(model(**batch).logits, expected)
