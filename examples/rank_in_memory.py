"""Rank models in memory, without a hub or an encoder: ``python rank_in_memory.py FOLDER ...``.

Each folder holds a specification (``gmi/spec.json``). The query is the first image of the first
model, so that model should come first: its own image is at no distance from it.
"""

import sys

import numpy as np

import gmi_registry
from gmi_registry.scoring import paper_distance

specs = [gmi_registry.load_spec(folder) for folder in sys.argv[1:]]
gamma = 0.02  # of the kernel k(x, y) = exp(-gamma * |x - y|^2), as in the paper's experiments
query = specs[0].image_embeddings[0].astype(np.float64)
distances = {}
for spec in specs:
    images = spec.image_embeddings[spec.default_rows].astype(np.float64)
    weights = np.ones(len(images))  # nobody knows the query's prompt, so all images count the same
    distances[spec.manifest.model.title] = paper_distance(images, weights, query, gamma)
for title, distance in sorted(distances.items(), key=lambda item: item[1]):
    print(f"{distance:.4f}  {title}")
