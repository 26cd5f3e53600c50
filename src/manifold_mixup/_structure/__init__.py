"""Structure: which modules everything passes that the outputs of a model depend on.

Takes a model and one batch. Records a forward pass operator by operator in a dry run, and gives a
`LayerTable`: a row for each module, with its depth, whether it can be mixed, and if not, why.

Imported by: _proof, _attach, _find, _checks, _mixup.
Imports: _dry_run.
"""
