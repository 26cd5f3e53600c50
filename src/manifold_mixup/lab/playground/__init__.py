"""A page in the browser that shows networks learning two spirals, with and without mixup.

The settings come from the page or its link. The page is updated after every epoch, as fast as the
browser allows.

Imported by: commands.
Imports: data, evaluate, paper, recipes, training.
"""
