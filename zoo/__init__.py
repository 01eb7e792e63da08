"""The embedded zoo: sixteen small text-to-image models, one base, and one encoder.

Same content, many art styles, like sixteen fine-tunes of one base on a hub. Everything
is trained from icon sets that artists published under open licences; ``nox -s zoo``
rebuilds it from the packages.
"""
