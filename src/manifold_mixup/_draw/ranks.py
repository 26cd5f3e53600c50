"""The rank whose plans processes draw that compute one batch together."""

from torch import nn


def rank_of_batch(model: nn.Module) -> int | None:
    """Return the lowest rank that computes this process's batch, if the model is split for that.

    Tensor parallelism splits parameters, as DTensors do. So does FSDP, along the first of the
    dimensions of the mesh that split a parameter, but its ranks have batches of their own.

    Returns:
        None if no parameter is split.
    """
    split = [one for one in model.parameters() if type(one).__name__ == "DTensor"]
    if not split:
        return None
    sharded = any("FSDP" in kind.__name__ for one in model.modules() for kind in type(one).__mro__)
    for parameter in split:
        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        dims = [dim for dim, placed in enumerate(placements) if not placed.is_replicate()]
        together = set(dims[1:] if sharded else dims)
        if together and (place := mesh.get_coordinate()) is not None:
            peers = [slice(None) if dim in together else at for dim, at in enumerate(place)]
            return int(mesh.mesh[tuple(peers)].min())
    return None
