"""Documentation; :mod:`docs.press` writes the parts of it that come from the code."""
