"""Search a place of your own: ``python own_hub.py IMAGE MODELS ENCODERS``.

MODELS is any folder of folders that hold ``gmi/spec.json``; it needs no ``hub.json``. A search
needs four methods: they list the models, give the two files of a specification and its contact
sheet, and give an encoder if the place holds one. Their type is
:class:`gmi_registry.hubs.SearchableHub`; :class:`gmi_registry.hubs.Hub` adds the three methods that
publishing needs.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import gmi_registry
from gmi_registry.filters import Filters
from gmi_registry.hubs.protocol import Listing
from gmi_registry.spec import ModelRef


class FolderOfModels:
    name = "local"  # its models are called local:NAME

    def __init__(self, models: Path, encoders: Path) -> None:
        self.models, self.encoders = models, encoders

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The models that may pass the filter; the search applies it again to what it reads."""
        for manifest in sorted(self.models.glob("*/gmi/spec.json")):
            yield Listing(ModelRef("local", manifest.parents[1].name), tags=())

    def fetch_spec(self, ref: ModelRef) -> Path:
        return self.models / ref.id / "gmi"

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        sheet = self.models / ref.id / "gmi" / "preview.webp"
        return sheet if sheet.exists() else None

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        folder = self.encoders / name / pretrained
        return folder if folder.is_dir() else None


image, models, encoders = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
answer = gmi_registry.search(image, FolderOfModels(models, encoders), top=5)
for hit in answer.hits:
    print(f"{hit.rank}  {hit.distance:.4f}  {hit.title}")
