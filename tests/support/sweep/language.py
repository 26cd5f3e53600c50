"""Models of text, speech and series: transformers, x-transformers and perceiver-pytorch."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

Built = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]

LENGTH = 8
IDS = torch.randint(3, 50, (4, LENGTH), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([8, 5, 3, 6])
RIGHT = (torch.arange(LENGTH) < LENGTHS[:, None]).long()  # the padding is at the right
LEFT = RIGHT.flip(1)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _padded(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS * mask, "attention_mask": mask}


# Batches

BOXES = torch.tensor([10, 20, 30, 40]) + torch.arange(4 * LENGTH).view(4, LENGTH, 1)
SAMPLES = (torch.arange(1600) < 200 * LENGTHS[:, None]).long()
ENDED = IDS.clone()
ENDED[:, -1] = 2
ENDED_RIGHT = (IDS * RIGHT).scatter(1, LENGTHS[:, None] - 1, 2)

BATCHES: dict[str, dict[str, torch.Tensor]] = {
    "ids": {"input_ids": IDS},
    "padded": _padded(RIGHT),
    "padded at the left": _padded(LEFT),
    "states": {"inputs_embeds": _random(4, LENGTH, 32)},
    "ids and their end": {"input_ids": ENDED},
    "padded after their end": {"input_ids": ENDED_RIGHT, "attention_mask": RIGHT},
    "boxes": {"input_ids": IDS, "bbox": BOXES},
    "spectrogram": {"input_values": _random(4, 32, 16)},
    "sound": {"input_values": _random(4, 1600)},
    "padded sound": {"input_values": _random(4, 1600), "attention_mask": SAMPLES},
    "mel": {"input_features": _random(4, 16, 32)},
    "series": {"past_values": _random(4, 16, 2)},
    "past and future": {
        "past_values": _random(4, 20, 2),
        "past_time_features": _random(4, 20, 3),
        "past_observed_mask": torch.ones(4, 20, 2),
        "future_values": _random(4, 4, 2),
        "future_time_features": _random(4, 4, 3),
    },
}

# Configurations

USUAL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "num_labels": 5,
}
SHORT = {"vocab_size": 50, "d_model": 32, "pad_token_id": 0, "num_labels": 5}
LLM = {**USUAL, "num_key_value_heads": 1, "head_dim": 16}
BART = {
    **SHORT,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 40,
    "eos_token_id": 2,
}
T5 = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 2,
    "pad_token_id": 0,
}
SWITCH = {**T5, "num_experts": 2, "num_sparse_encoder_layers": 1}
MAMBA = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}
SOUND = {
    **USUAL,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
PATCHES = {
    "num_input_channels": 2,
    "context_length": 16,
    "patch_length": 4,
    "patch_stride": 4,
    "d_model": 32,
    "num_hidden_layers": 3,
    "num_layers": 3,
    "num_attention_heads": 2,
    "ffn_dim": 64,
    "num_targets": 5,
    "prediction_length": 4,
}
INFORMER = {
    "prediction_length": 4,
    "context_length": 16,
    "lags_sequence": [1, 2, 3, 4],
    "input_size": 2,
    "num_time_features": 3,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}

# Name, class, configuration, batch
TRANSFORMERS: list[tuple[str, str, dict[str, Any], str]] = [
    ("bert", "BertForSequenceClassification", USUAL, "ids"),
    ("bert, padded", "BertForSequenceClassification", USUAL, "padded"),
    ("modernbert", "ModernBertForSequenceClassification", USUAL, "ids"),
    ("modernbert, padded", "ModernBertForSequenceClassification", USUAL, "padded"),
    ("deberta-v2", "DebertaV2ForSequenceClassification", USUAL, "ids"),
    ("deberta-v2, padded", "DebertaV2ForSequenceClassification", USUAL, "padded"),
    ("roberta, padded", "RobertaForSequenceClassification", USUAL, "padded"),
    (
        "albert, padded",
        "AlbertForSequenceClassification",
        {**USUAL, "embedding_size": 16},
        "padded",
    ),
    ("electra, padded", "ElectraForSequenceClassification", USUAL, "padded"),
    ("mpnet, padded", "MPNetForSequenceClassification", USUAL, "padded"),
    (
        "distilbert, padded",
        "DistilBertForSequenceClassification",
        {**SHORT, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64},
        "padded",
    ),
    (
        "xlnet",
        "XLNetForSequenceClassification",
        {**SHORT, "n_layer": 3, "n_head": 2, "d_inner": 64},
        "ids",
    ),
    (
        "xlnet, padded",
        "XLNetForSequenceClassification",
        {**SHORT, "n_layer": 3, "n_head": 2, "d_inner": 64},
        "padded at the left",
    ),
    (
        "longformer",
        "LongformerForSequenceClassification",
        {**USUAL, "attention_window": [4, 4, 4]},
        "ids",
    ),
    (
        "longformer, padded",
        "LongformerForSequenceClassification",
        {**USUAL, "attention_window": [4, 4, 4]},
        "padded",
    ),
    ("bigbird", "BigBirdForSequenceClassification", USUAL, "ids"),
    (
        "funnel",
        "FunnelForSequenceClassification",
        {**SHORT, "block_sizes": [2, 1, 1], "n_head": 2, "d_head": 16, "d_inner": 64},
        "ids",
    ),
    ("layoutlm", "LayoutLMForSequenceClassification", USUAL, "boxes"),
    ("bart", "BartForSequenceClassification", BART, "ids and their end"),
    ("bart, padded", "BartForSequenceClassification", BART, "padded after their end"),
    (
        "gpt2",
        "GPT2ForSequenceClassification",
        {**SHORT, "n_embd": 32, "n_layer": 3, "n_head": 2},
        "ids",
    ),
    (
        "gpt2, padded",
        "GPT2ForSequenceClassification",
        {**SHORT, "n_embd": 32, "n_layer": 3, "n_head": 2},
        "padded",
    ),
    (
        "gpt2, padded left",
        "GPT2ForSequenceClassification",
        {**SHORT, "n_embd": 32, "n_layer": 3, "n_head": 2},
        "padded at the left",
    ),
    ("llama", "LlamaForSequenceClassification", LLM, "ids"),
    ("llama, padded", "LlamaForSequenceClassification", LLM, "padded"),
    ("qwen3", "Qwen3ForSequenceClassification", LLM, "ids"),
    ("qwen3, padded", "Qwen3ForSequenceClassification", LLM, "padded"),
    ("qwen3, states", "Qwen3Model", LLM, "states"),
    (
        "mixtral",
        "MixtralModel",
        {**LLM, "num_local_experts": 2, "num_experts_per_tok": 1},
        "states",
    ),
    ("mamba", "MambaModel", MAMBA, "ids"),
    (
        "mamba2",
        "Mamba2Model",
        {**MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 4},
        "ids",
    ),
    (
        "rwkv",
        "RwkvModel",
        {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "context_length": 16},
        "ids",
    ),
    ("switch", "SwitchTransformersEncoderModel", SWITCH, "ids"),
    (
        "switch, no jitter",
        "SwitchTransformersEncoderModel",
        {**SWITCH, "router_jitter_noise": 0.0},
        "ids",
    ),
    (
        "switch, capacity 2",
        "SwitchTransformersEncoderModel",
        {**SWITCH, "expert_capacity": 2},
        "ids",
    ),
    (
        "ast",
        "ASTForAudioClassification",
        {
            **USUAL,
            "patch_size": 4,
            "frequency_stride": 4,
            "time_stride": 4,
            "max_length": 32,
            "num_mel_bins": 16,
        },
        "spectrogram",
    ),
    ("wav2vec2", "Wav2Vec2ForSequenceClassification", SOUND, "sound"),
    (
        "wav2vec2, weighted",
        "Wav2Vec2ForSequenceClassification",
        {**SOUND, "use_weighted_layer_sum": True, "layerdrop": 0.0},
        "sound",
    ),
    ("wav2vec2, padded", "Wav2Vec2ForSequenceClassification", SOUND, "padded sound"),
    ("wav2vec2, ctc", "Wav2Vec2ForCTC", SOUND, "sound"),
    (
        "wav2vec2, without masking",
        "Wav2Vec2ForSequenceClassification",
        {**SOUND, "apply_spec_augment": False, "layerdrop": 0.0},
        "sound",
    ),
    ("hubert", "HubertForSequenceClassification", SOUND, "sound"),
    (
        "whisper",
        "WhisperForAudioClassification",
        {**BART, "num_mel_bins": 16, "max_source_positions": 16, "classifier_proj_size": 16},
        "mel",
    ),
    ("patchtst", "PatchTSTForClassification", {**PATCHES, "use_cls_token": True}, "series"),
    ("patchtst, prediction", "PatchTSTForPrediction", PATCHES, "series"),
    ("patchtsmixer", "PatchTSMixerForTimeSeriesClassification", PATCHES, "series"),
    ("informer", "InformerForPrediction", INFORMER, "past and future"),
]


def _transformers(name: str, config: dict[str, Any], batch: str) -> Built:
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**config)), (), dict(BATCHES[batch])


# x-transformers and perceiver-pytorch


class _Mean(torch.nn.Module):
    """Takes the mean of the positions that are no padding."""

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mask = mask[..., None]
        return (states * mask).sum(1) / mask.sum(1)


class _Pooled(torch.nn.Module):
    """A classifier that pools in a module, as docs/padding.md asks for."""

    def __init__(self, model: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.model, self.pool = model, _Mean()
        self.fc = torch.nn.Linear(width, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.model(ids, mask=mask, return_embeddings=True), mask))


def _x_transformer(kind: str) -> torch.nn.Module:
    import x_transformers

    layers = getattr(x_transformers, kind)(dim=32, depth=3, heads=2, attn_dim_head=16)
    return x_transformers.TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=layers)


def _x_language(kind: str) -> Built:
    return _x_transformer(kind), (IDS,), {}


def _x_classifier() -> Built:
    return _Pooled(_x_transformer("Encoder"), 32), (), {"ids": IDS, "mask": RIGHT.bool()}


def _x_images() -> Built:
    from x_transformers import Encoder, ViTransformerWrapper

    layers = Encoder(dim=32, depth=3, heads=2, attn_dim_head=16)
    model = ViTransformerWrapper(image_size=32, patch_size=8, num_classes=5, attn_layers=layers)
    return model, (_random(4, 3, 32, 32),), {}


PERCEIVER = {
    "depth": 2,
    "num_latents": 8,
    "latent_dim": 32,
    "latent_heads": 2,
    "cross_dim_head": 16,
    "latent_dim_head": 16,
}


def _perceiver() -> Built:
    from perceiver_pytorch import Perceiver

    model = Perceiver(**PERCEIVER, num_freq_bands=2, max_freq=10.0, num_classes=5)
    return model, (_random(4, 8, 8, 3),), {}


def _perceiver_io() -> Built:
    from perceiver_pytorch import PerceiverIO

    model = PerceiverIO(**PERCEIVER, dim=16, queries_dim=16, logits_dim=5)
    return model, (), {"data": _random(4, 12, 16), "queries": _random(3, 16)}


OTHERS: dict[str, Callable[[], Built]] = {
    "x_transformers/Encoder": functools.partial(_x_language, "Encoder"),
    "x_transformers/Decoder": functools.partial(_x_language, "Decoder"),
    "x_transformers/Encoder, padded": _x_classifier,
    "x_transformers/ViTransformerWrapper": _x_images,
    "perceiver_pytorch/Perceiver": _perceiver,
    "perceiver_pytorch/PerceiverIO": _perceiver_io,
}


def cases() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Yield names, and functions that build a model and a batch."""
    for name, *rest in TRANSFORMERS:
        yield f"transformers/{name}", functools.partial(_transformers, *rest)
    yield from OTHERS.items()
