"""The command line before a command runs: options, typos, lists and help pages.

It turns a command's dataclass and the arguments typed into help pages and error messages. It is
fast, since only printing a list imports torch.

Imported by: cli, commands, launch.
Imports: data, models, paper, recipes.
"""
