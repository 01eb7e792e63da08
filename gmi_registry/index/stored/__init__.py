"""An index of many specifications that lies in files: written in steps, opened at once.

``docs/explanation/index.md`` describes the files. What may be asked is what may be asked of the
index in memory, since both have groups that are a :class:`~gmi_registry.index.stack.Stack`.
"""

from gmi_registry.index.stored.document import DOCUMENT_NAME, IndexDocument
from gmi_registry.index.stored.files import FolderFiles, IndexFiles
from gmi_registry.index.stored.index import GroupInfo, IndexInfo, StoredIndex
from gmi_registry.index.stored.row import Row
from gmi_registry.index.stored.stack import StoredStack
from gmi_registry.index.stored.update import Description, IndexChange, update_index

__all__ = [
    "DOCUMENT_NAME",
    "Description",
    "FolderFiles",
    "GroupInfo",
    "IndexChange",
    "IndexDocument",
    "IndexFiles",
    "IndexInfo",
    "Row",
    "StoredIndex",
    "StoredStack",
    "update_index",
]
