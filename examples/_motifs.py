"""The data of the graph example: random graphs with a planted motif."""

import torch
from torch_geometric.data import Data

MOTIFS = {
    "nothing": [],
    "ring": [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)],
    "star": [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5)],
    "clique": [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)],
}


def graphs(count, seed):
    """Draw graphs of 15 to 25 nodes, each with one of `MOTIFS` on random nodes.

    Args:
        count: number of graphs.
        seed: seed of all random draws.

    Returns:
        A list of graphs. The feature of a node is its number of neighbours, scaled, ``(nodes, 1)``;
        ``y`` is the index of the motif.
    """
    chance = torch.Generator().manual_seed(seed)
    kinds = torch.randint(len(MOTIFS), (count,), generator=chance)
    return [_graph(kind, chance) for kind in kinds]


def _graph(kind, chance):
    nodes = int(torch.randint(15, 26, (), generator=chance))
    edges = torch.rand(nodes, nodes, generator=chance) < 0.05
    place = torch.randperm(nodes, generator=chance)
    for one, other in list(MOTIFS.values())[kind]:
        edges[place[one], place[other]] = True
    edges = (edges | edges.T).fill_diagonal_(False)
    return Data(x=edges.sum(1, keepdim=True) / 4, edge_index=edges.nonzero().T, y=kind)
