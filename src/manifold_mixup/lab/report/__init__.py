"""What was found, shown: tables for terminals and Markdown, pictures, and the HTML page.

Takes results, evaluations and the tables of the paper. Gives text and pictures; only ``plots/``
loads matplotlib.

Imported by: commands.
Imports: analyze, data, evaluate, paper, recipes, runs.
"""
