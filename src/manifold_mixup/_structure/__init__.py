"""Structure: find the modules that everything the outputs depend on passes through.

Takes a model and one batch, and records a forward pass operator by operator in a dry run. Returns a
`LayerTable`: a row for each module, with its depth, whether it can be mixed, and if not, why.

Imported by: _proof, _attach, _find, _checks, _mixup, _inspect.
Imports: _dry_run.
"""
