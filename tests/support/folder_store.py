"""A store of specifications in a folder of this disk, ``HUB/MODEL/VERSION/gmi``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from gmi_registry.errors import AuthError, SpecNotFoundError
from gmi_registry.hubs.files import read_upload
from gmi_registry.hubs.local import read_excerpt
from gmi_registry.hubs.protocol import Listing
from gmi_registry.spec import PREVIEW_NAME, SPEC_DIR, ModelRef


class FolderStore:
    """``proposals`` are the references that were pushed as a proposal; ``open`` lets one write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proposals: list[ModelRef] = []
        self.open = True

    def listings(self, hub: str) -> Iterator[Listing]:
        folders = sorted(
            (self.root / hub).glob("*/*"), key=lambda path: (int(path.parent.name), int(path.name))
        )
        for folder in folders:
            excerpt = read_excerpt(folder / SPEC_DIR)
            yield Listing(
                ModelRef(hub, folder.parent.name, folder.name),
                excerpt.tags,
                spec_digest=excerpt.digest,
                stamp=excerpt.digest,
                trust="self-published",
            )

    def fetch_spec(self, ref: ModelRef) -> Path:
        folder = self._folder(ref) / SPEC_DIR
        if not folder.is_dir():
            raise SpecNotFoundError(f"{ref} has no specification", hint=f"gmi-publish {ref}")
        return folder

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        preview = self.fetch_spec(ref) / PREVIEW_NAME
        return preview if preview.is_file() else None

    def check_writable(self, ref: ModelRef, *, create_pr: bool = True) -> None:
        if not self.open:
            raise AuthError(f"{self.root} is closed", hint="ask its owner")

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = True) -> str:
        self.check_writable(ref)
        _, contents = read_upload(folder, ref)
        target = self._folder(ref) / SPEC_DIR
        scratch = target.with_name(f".{hashlib.sha256(str(ref).encode()).hexdigest()[:8]}")
        scratch.mkdir(parents=True)
        for name, content in contents.items():
            (scratch / name).write_bytes(content)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
        if create_pr:
            self.proposals.append(ref)
        return str(target)

    def _folder(self, ref: ModelRef) -> Path:
        return self.root / ref.hub / ref.id / str(ref.revision)
