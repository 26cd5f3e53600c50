"""Tasks that were not registered: explored with the same rounds, on draws of registered ones."""

from dataclasses import replace
from typing import Any

from manifold_mixup.lab.candidates.registered import (
    CANDIDATES,
    EMBEDDING,
    EMBEDDINGS,
    MANIFOLD,
    NONE,
    Trial,
    at,
    encoder,
)
from manifold_mixup.lab.recipes.ways import WAYS

_TREC = next(one for one in CANDIDATES if one.name == "trec-100")


def _of(way: str) -> dict[str, Any]:
    """Return the settings that make a way what it is, with its authors' values."""
    return {**WAYS[way].makes, **WAYS[way].defaults}


def _inside(way: str) -> tuple[Trial, ...]:
    """Return the trials of manifold mixup, made another way."""
    return tuple({**trial, **_of(way)} for trial in _TREC.trials[MANIFOLD])


_WEAK = {"noise_add": 0.1, "noise_multiply": 0.1}
TEXT_WAYS = replace(
    _TREC,
    name="trec-100-ways",
    about="100 questions of TREC, with the draws, the encoder and the budget of trec-100, by all "
    "ways that mix texts of different lengths",
    trials={
        **{way: _TREC.trials[way] for way in (NONE, EMBEDDING, MANIFOLD)},
        "same-class mixup": _inside("same-class"),
        "other-class mixup": _inside("other-class"),
        "noisy feature mixup": (
            *at(encoder(1, 3), 0.5, **_of("nfm")),
            *at(encoder(1, 3), 0.5, **_WEAK),
            *at(encoder(3, 5), 0.5, **_WEAK),
        ),
        "SK-Mixup": tuple(
            at(layers, 1.0, **_of("sk-mixup"))[0]
            for layers in (EMBEDDINGS, encoder(1, 3), ("pool",))
        ),
        "RegMixup": at(EMBEDDINGS, 1.0, 10.0, 20.0, **_of("regmixup")),
    },
)
EXPLORED = (TEXT_WAYS,)
"""All of them."""
