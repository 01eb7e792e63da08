"""An index that outgrew one machine, on a Qdrant server.

One collection holds one group: models that share a :class:`~gmi_registry.index.ComparabilityKey`.
The default score without a prompt is the squared Euclidean distance between whitened means, less
a constant, so that Qdrant's own nearest neighbours are its answer, and only those travel.
"""

from gmi_registry.index.qdrant.connection import Location
from gmi_registry.index.qdrant.points import Upload, serve_into
from gmi_registry.index.qdrant.search import QdrantIndex

__all__ = ["Location", "QdrantIndex", "Upload", "serve_into"]
