"""Ignore padded positions in the inputs and outputs of the proof."""

from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._inputs import map_inputs, named_inputs
from manifold_mixup._masks import valid_positions
from manifold_mixup._mix import is_continuous
from manifold_mixup._proof.distance import distance
from manifold_mixup._proof.redraw import Examples


class ExamplePadding:
    """The padding of the examples; falsy if they have no mask.

    Args:
        model: the model.
        examples: the examples that the model is run on.
        mask: name of the mask among the inputs; None without a mask.
    """

    def __init__(self, model: nn.Module, examples: Examples, mask: str | None) -> None:
        self.examples = examples
        self.mask = mask
        given = dict(named_inputs(model, *examples.inputs)).get(mask or "")
        self._valid = None if given is None or mask is None else valid_positions(given, mask)

    def __bool__(self) -> bool:
        return self._valid is not None

    @property
    def valid(self) -> Tensor:
        """The valid positions, ``(batch, time)``."""
        if self._valid is None:
            raise ValueError("the examples have no padding mask")
        return self._valid

    def zero_padding(self, output: Tensor, perm: Tensor) -> Tensor:
        """Set an output to 0 where the example ``perm`` has padding; targets there are ignored.

        This changes only outputs with a value for every position.
        """
        if self._valid is None or output.shape[:2] != self._valid.shape:
            return output
        valid = self._valid.to(output.device)[perm.to(output.device)]
        valid = valid.view(*valid.shape, *(1 for _ in output.shape[2:]))
        return torch.where(valid, output, torch.zeros_like(output))

    def error(self, output: Tensor, wanted: Tensor, perm: Tensor) -> float:
        """Return the distance of two outputs at the positions of the examples ``perm``."""
        return distance(self.zero_padding(output, perm), self.zero_padding(wanted, perm))

    def with_other_padding(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments with other values in the padding."""

        def refill(name: str, tensor: Tensor) -> Tensor:
            valid = self._valid
            alike = valid is not None and tensor.shape[:2] == valid.shape
            if valid is None or not alike or name == self.mask or "mask" in name.lower():
                return tensor.clone()
            valid = valid.to(tensor.device).view(*valid.shape, *(1 for _ in tensor.shape[2:]))
            # Not shifted or scaled, which a norm over the features would undo.
            other = tensor.sin() + 1 if is_continuous(tensor) else tensor[:, :1].expand_as(tensor)
            return torch.where(valid, tensor, other)

        return map_inputs(refill, model, *self.examples.inputs)
