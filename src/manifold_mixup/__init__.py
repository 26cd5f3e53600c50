"""Manifold Mixup (Verma et al., ICML 2019) for any PyTorch model, proven to have happened."""

from manifold_mixup._find import find_layers as find_layers
from manifold_mixup._mix import mix as mix
from manifold_mixup._mixup import ManifoldMixup as ManifoldMixup
from manifold_mixup._plan import MixPlan as MixPlan
from manifold_mixup._sample import sample_plan as sample_plan
from manifold_mixup._targets import MixedTarget as MixedTarget

__all__ = ["ManifoldMixup", "MixPlan", "MixedTarget", "find_layers", "mix", "sample_plan"]
__version__ = "0.1.0"
