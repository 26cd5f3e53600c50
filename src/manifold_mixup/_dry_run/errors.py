"""Why a model cannot be inspected. The file loads nothing else, so that it is cheap to import."""


class NotTraceable(RuntimeError):
    """The model cannot be inspected; the message gives the reason."""


class Sharded(NotTraceable):
    """The model is sharded, so this process holds only a part of it."""


class Hookless(NotTraceable):
    """The model's call runs no hooks."""


SCRIPTED = (
    "it is scripted or traced as a whole, and its layers run in C++, where hooks do not run. "
    "Attach to the original model"
)
