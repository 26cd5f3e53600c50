"""Manifold Mixup (Verma et al., ICML 2019) for any PyTorch model, proven to have happened."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manifold_mixup._blend import Align as Align
    from manifold_mixup._blend import Cut as Cut
    from manifold_mixup._blend import Interpolate as Interpolate
    from manifold_mixup._blend import OneOf as OneOf
    from manifold_mixup._blend import PatchUp as PatchUp
    from manifold_mixup._blend import SimilarityKernel as SimilarityKernel
    from manifold_mixup._box import Box as Box
    from manifold_mixup._draw.pairs import Near as Near
    from manifold_mixup._draw.plan import sample_plan as sample_plan
    from manifold_mixup._draw.remix import Remix as Remix
    from manifold_mixup._find import find_layers as find_layers
    from manifold_mixup._holes import Holes as Holes
    from manifold_mixup._mixup import ManifoldMixup as ManifoldMixup
    from manifold_mixup._noise import DrawnNoise as DrawnNoise
    from manifold_mixup._noise import Noise as Noise
    from manifold_mixup._plan import MixPlan as MixPlan
    from manifold_mixup._proof.report import Report as Report
    from manifold_mixup._structure.row import LayerRow as LayerRow
    from manifold_mixup._structure.table import LayerTable as LayerTable
    from manifold_mixup._target.mixed_target import MixedTarget as MixedTarget
    from manifold_mixup._weigh.mix import mix as mix

__all__ = [
    "Align",
    "Box",
    "Cut",
    "DrawnNoise",
    "Holes",
    "Interpolate",
    "LayerRow",
    "LayerTable",
    "ManifoldMixup",
    "MixPlan",
    "MixedTarget",
    "Near",
    "Noise",
    "OneOf",
    "PatchUp",
    "Remix",
    "Report",
    "SimilarityKernel",
    "find_layers",
    "mix",
    "sample_plan",
]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # otherwise type checkers would accept any misspelt name as Any
    # PEP 562: torch takes seconds to load, so load it with the first name that needs it. The
    # --help of a command needs none.
    _HOMES = {
        "Align": "_blend",
        "SimilarityKernel": "_blend",
        "PatchUp": "_blend",
        "OneOf": "_blend",
        "Noise": "_noise",
        "Interpolate": "_blend",
        "Holes": "_holes",
        "DrawnNoise": "_noise",
        "Cut": "_blend",
        "Box": "_box",
        "LayerRow": "_structure.row",
        "LayerTable": "_structure.table",
        "ManifoldMixup": "_mixup",
        "MixPlan": "_plan",
        "MixedTarget": "_target.mixed_target",
        "Near": "_draw.pairs",
        "Remix": "_draw.remix",
        "Report": "_proof.report",
        "find_layers": "_find",
        "mix": "_weigh.mix",
        "sample_plan": "_draw.plan",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # later look-ups skip __getattr__
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
