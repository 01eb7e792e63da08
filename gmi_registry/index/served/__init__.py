"""An index that outgrew one machine, served by Qdrant.

One collection holds one group: models that share a :class:`~gmi_registry.index.ComparabilityKey`.
The default score without a prompt is the squared Euclidean distance between whitened means, less
a constant, so that Qdrant's own nearest neighbours are its answer, and only those travel.
"""

from gmi_registry.index.served.catalogue import ServedIndex
from gmi_registry.index.served.delivery import Delivery, serve_into
from gmi_registry.index.served.place import Place

__all__ = ["Delivery", "Place", "ServedIndex", "serve_into"]
