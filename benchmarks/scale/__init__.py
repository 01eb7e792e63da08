"""An index of a hundred thousand and of a million specifications: what asking it costs."""
