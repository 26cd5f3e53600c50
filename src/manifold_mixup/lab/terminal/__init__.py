"""The command line before a command runs: options, typos, lists and pages of help.

Takes the dataclass of a command and the words that were typed. Gives pages of help and error
messages, in a moment: nothing here loads torch but what prints a list.

Imported by: cli, commands.
Imports: data, models, paper, recipes.
"""
