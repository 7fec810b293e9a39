"""The commands of `corlld`, a module each: its arguments, what its `--help` teaches, and its run.

To add a command, write its module in the shape of `shared.Command` and list it in `corlld.cli`.
"""
