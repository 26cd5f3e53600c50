"""Watching two spirals being learnt, with and without a method, in a browser.

Takes what is chosen on the page or in its link. Gives pictures after every epoch, as fast as the
browser takes them.

Imported by: commands.
Imports: data, evaluate, paper, recipes, training.
"""
