"""Models of electroencephalograms: braindecode."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

Built = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]

CHANNELS = (
    *("Fz", "FC3", "FC1", "FCz", "FC2", "FC4", "C5", "C3", "C1", "Cz", "C2"),
    *("C4", "C6", "CP3", "CP1", "CPz", "CP2", "CP4", "P1", "Pz", "P2", "POz"),
)

# Recordings

USUAL: dict[str, Any] = {"n_chans": 22, "n_outputs": 4, "n_times": 1000, "sfreq": 250}
SLOW = {**USUAL, "sfreq": 200}
PLACED = {**USUAL, "chs_info": CHANNELS}  # with the places of the electrodes
SLEEP = {"n_chans": 2, "n_outputs": 5, "n_times": 3000, "sfreq": 100}

# Name, recording, configuration
MODELS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ATCNet", USUAL, {}),
    ("AttnSleep", {**SLEEP, "n_chans": 1}, {}),
    ("AttentionBaseNet", USUAL, {}),
    ("BIOT", SLOW, {"embed_dim": 32, "num_heads": 2, "num_layers": 4}),
    (
        "BENDR",
        USUAL,
        {
            "encoder_h": 32,
            "contextualizer_hidden": 64,
            "transformer_layers": 4,
            "transformer_heads": 2,
        },
    ),
    ("CBraMod", SLOW, {"n_layer": 4, "dim_feedforward": 64}),
    (
        "CodeBrain",
        SLOW,
        {"res_channels": 32, "skip_channels": 32, "out_channels": 32, "num_res_layers": 4},
    ),
    ("ContraWR", USUAL, {}),
    ("CTNet", USUAL, {}),
    (
        "DANCE",
        PLACED,
        {
            "n_queries": 8,
            "n_virtual_channels": 16,
            "embed_dim": 32,
            "conv_hidden": 32,
            "conv_depth": 4,
            "conv_initial_linear": 16,
            "num_latents": 16,
            "perceiver_depth": 2,
            "cross_dim_head": 16,
            "latent_dim_head": 16,
            "decoder_dim": 32,
            "decoder_depth": 2,
            "decoder_heads": 2,
        },
    ),
    ("Deep4Net", USUAL, {}),
    ("EEGConformer", USUAL, {}),
    ("EEGITNet", USUAL, {}),
    ("EEGMiner", USUAL, {}),
    ("EEGNet", USUAL, {}),
    ("EEGNeX", USUAL, {}),
    ("EEGSimpleConv", USUAL, {"feature_maps": 16}),
    ("FBCNet", USUAL, {}),
    ("FBMSNet", USUAL, {}),
    ("HybridNet", USUAL, {}),
    ("IFNet", USUAL, {}),
    ("MSVTNet", USUAL, {}),
    ("SCCNet", USUAL, {}),
    ("ShallowFBCSPNet", USUAL, {}),
    ("SincShallowNet", USUAL, {}),
    ("SSTDPN", USUAL, {}),
    ("SleepStagerBlanco2020", SLEEP, {}),
    ("SPARCNet", USUAL, {}),
    ("SyncNet", USUAL, {}),
    ("BDTCN", USUAL, {}),
    ("TSception", USUAL, {}),
    ("DGCNN", PLACED, {}),
    ("Labram", SLOW, {"num_layers": 4, "num_heads": 4}),
    ("MEDFormer", USUAL, {"embed_dim": 32, "num_heads": 2, "num_layers": 3}),
    ("EEGSym", PLACED, {}),
    ("LUNA", PLACED, {"depth": 4}),
    ("SignalJEPA_PreLocal", PLACED, {}),
    ("USleep", {**SLEEP, "sfreq": 128, "n_times": 3840}, {"depth": 6}),
]


def cases() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Yield names, and functions that build a model and a batch."""
    for name, recording, configuration in MODELS:
        yield f"braindecode/{name}", functools.partial(_build, name, recording, configuration)


def _build(name: str, recording: dict[str, Any], configuration: dict[str, Any]) -> Built:
    from braindecode import models

    shape = (4, recording["n_chans"], recording["n_times"])
    signal = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if "chs_info" in recording:
        recording = {**recording, "chs_info": _places(recording["sfreq"])}
    more = {"ch_names": list(CHANNELS)} if name == "Labram" else {}
    return getattr(models, name)(**recording, **configuration), (signal,), more


def _places(sfreq: float) -> list[dict[str, Any]]:
    import mne

    info = mne.create_info(list(CHANNELS), sfreq, "eeg")
    return info.set_montage("standard_1020")["chs"]
