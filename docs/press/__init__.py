"""What of the documentation can be computed: the reference from the code, pictures from numbers.

``python -m docs.press`` writes it, ``python -m docs.press --check`` names what is out of date.
"""
