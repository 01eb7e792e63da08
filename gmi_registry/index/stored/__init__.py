"""An index of many specifications that lies in files: written in steps, opened at once.

``docs/explanation/index.md`` describes the files. What can be asked of it is what can be asked of
the index in memory, since both have groups that are a :class:`~gmi_registry.index.ModelGroup`.
"""

from gmi_registry.index.stored.files import FolderFiles, IndexFiles
from gmi_registry.index.stored.format import DOCUMENT_NAME, IndexDocument
from gmi_registry.index.stored.reader import GroupInfo, IndexInfo, StoredGroup, StoredIndex
from gmi_registry.index.stored.writer import IndexChange, MetadataUpdate, NewSpec, update_index

__all__ = [
    "DOCUMENT_NAME",
    "FolderFiles",
    "GroupInfo",
    "IndexChange",
    "IndexDocument",
    "IndexFiles",
    "IndexInfo",
    "MetadataUpdate",
    "NewSpec",
    "StoredGroup",
    "StoredIndex",
    "update_index",
]
