"""The command line: arguments in, tables, JSON and progress out. What it does is done elsewhere.

Nothing in this package imports an array or model library at the top of a module, so that
``--help`` and usage errors answer at once; each command imports what it needs when it runs.
"""
