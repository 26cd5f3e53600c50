"""The memory behind a tensor, as a key: views of one another have the same."""

import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef


def storage_of(tensor: Tensor) -> StorageWeakRef | None:
    """Return the storage of a tensor, without keeping it alive.

    Returns:
        None if the tensor has no storage: it is sparse, nested or lazy.
    """
    memory = memory_of(tensor)
    return None if memory is None else StorageWeakRef(memory)


def memory_of(tensor: Tensor) -> UntypedStorage | None:
    """Return the storage of a tensor, the same object as long as any tensor uses it.

    Returns:
        None if the tensor has no storage; see `storage_of`.
    """
    try:
        if type(tensor) is Tensor:
            return tensor.untyped_storage()
        with torch._C.DisableTorchFunction():  # a subclass of the user's may refuse its methods
            return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError):
        inner = unwrapped(tensor)
        return None if inner is tensor else memory_of(inner)


def unwrapped(tensor: Tensor) -> Tensor:
    """Return the tensor inside the wrappers of functional transforms, such as vmap's."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def number_of_storage(tensor: Tensor) -> int | None:
    """Return a number of a tensor's storage, which another may have once this one is gone.

    It is found faster than the key, which holds the number: ``storage_of(tensor).cdata``.
    """
    try:
        with torch._C.DisableTorchFunction():
            number: int = tensor.untyped_storage()._cdata
            return number
    except (NotImplementedError, RuntimeError, ValueError):
        return None
