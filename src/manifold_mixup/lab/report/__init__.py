"""Presentation of results: tables for terminals and Markdown, pictures, and the HTML page.

It turns results, evaluations and the tables of the paper into text and pictures. Only ``plots/``
imports matplotlib.

Imported by: commands.
Imports: analyze, data, evaluate, paper, recipes, runs, search.
"""
