"""Notice that passes run other operators than those that were inspected."""

from manifold_mixup._attach.forward_pass import ForwardPass

_MOST_CHANGES = 4
"""Changes of what a pass runs for which the model is inspected again."""


class PassSizes:
    """How many nodes the passes of a model make, compared with the first pass like each.

    Attributes:
        changed: whether passes run other operators than those that were inspected.
    """

    def __init__(self) -> None:
        self.changed = False
        # By layer and number of examples, how many nodes the first pass made.
        self._first: dict[tuple[str, int], int] = {}
        # By how many nodes others differ from it: False if that was not inspected.
        self._differences = {0: True}
        self._most_changes, self._now_inspected = _MOST_CHANGES, False
        self._changed_by = 0  # how the latest change differs

    def note(self, finished: ForwardPass) -> None:
        """Compare a mixed pass with the first one like it."""
        plan, size = finished.plan, finished.end - finished.begin
        if plan is None:
            return
        more = size - self._first.setdefault((plan.layer, plan.perm.shape[0]), size)
        if self._now_inspected or not self._differences.get(more):
            self._note_difference(more)

    def _note_difference(self, more: int) -> None:
        """Note a pass with more nodes than the first, or fewer; two of them are a change."""
        if not self._now_inspected and more in self._differences and self._most_changes:
            self._most_changes -= 1
            self.changed, self._changed_by = True, more
        self._differences[more] = self._now_inspected or not self._most_changes
        self._now_inspected = False

    def inspected(self) -> None:
        """Note that what has changed was inspected; without a change, what the next pass runs."""
        self._now_inspected = not self.changed
        if self.changed:
            self._differences[self._changed_by] = True
        self.changed = False

    def refused(self) -> None:
        """Note that what has changed was refused, so that the next such pass is, too."""
        self._most_changes += self.changed
        self.changed = False
