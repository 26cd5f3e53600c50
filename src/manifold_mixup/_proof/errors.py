"""Why a model is not suitable for the proof."""


class Inconclusive(Exception):
    """Even the unmixed outputs are not suitable for the proof."""


class OrderMatters(Inconclusive):
    """The outputs of an example depend on its position in the batch."""


class NotFinite(Inconclusive):
    """The outputs are infinite or no numbers, perhaps only in this dtype."""
