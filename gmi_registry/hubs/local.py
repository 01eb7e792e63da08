"""``hub.json``, by which a folder is known to be a hub.

The few fields of a manifest that a listing needs, without the cost of checking all of it.

A folder that behaves as a hub: for demonstrations, tests, and models on a shared disk.

::

    hub.json                            {"format": {"name": "gmi-local-hub", "version": 1}}
    models/NAME/README.md               the model card
    models/NAME/...                     a diffusers folder, a LoRA, a .safetensors or .gguf file
    models/NAME/gmi/                    its specification
    encoders/ARCHITECTURE/PRETRAINED/   an encoder in open_clip's layout
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmi_registry.atomic import user_cache, write_file
from gmi_registry.errors import (
    HubError,
    InputError,
    SpecNotFoundError,
    UnsupportedOperationError,
    upgrade_hint,
)
from gmi_registry.filters import Filters, Traits
from gmi_registry.hubs.files import (
    FileDigests,
    probe,
    read_plain,
    read_upload,
    replace_spec_folder,
    require_inside,
)
from gmi_registry.hubs.protocol import Destination, Listing, require_on_hub
from gmi_registry.spec.canonical import MANIFEST_LIMIT, canonical_digest
from gmi_registry.spec.files import MANIFEST_NAME, PREVIEW_NAME, SPEC_DIR
from gmi_registry.spec.reference import ModelRef

if TYPE_CHECKING:
    from gmi_registry.hubs.weights import FoundWeights
    from gmi_registry.model import ModelCard, ModelFiles
    from gmi_registry.spec import WeightFile

_HUB_FILE = "hub.json"
_HUB_FORMAT = "gmi-local-hub"
_HUB_VERSION = 1
_HUB_FILE_LIMIT = 65_536

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODELS, _ENCODERS = "models", "encoders"
_REVISION_DIGITS = 16
_log = logging.getLogger(__name__)


def _write_hub_file(root: Path) -> None:
    """Put ``hub.json`` into ``root``, unless it is there. Raises OSError."""
    mark = root / _HUB_FILE
    if mark.exists():
        return
    document = {"format": {"name": _HUB_FORMAT, "version": _HUB_VERSION}}
    write_file(mark, f"{json.dumps(document)}\n".encode())


def _check_hub_file(root: Path) -> None:
    """Raise InputError where ``root`` is no hub, HubError where ``hub.json`` is not understood."""
    code = f"from gmi_registry.hubs import LocalHub; LocalHub.create({str(root)!r})"
    make = f"python -c {shlex.quote(code)}"
    if not root.exists():
        raise InputError(
            f"{root}: there is no such folder",
            hint=f"a hub is hf, civitai, or a folder that is one; to make a new one: {make}",
        )
    if not root.is_dir():
        raise InputError(f"{root} is a file, and a hub is a folder", hint="name a folder")
    mark = root / _HUB_FILE
    try:
        content = read_plain(mark, _HUB_FILE_LIMIT)
    except FileNotFoundError:
        raise InputError(
            f"{root} is not a hub: it holds no {_HUB_FILE}", hint=f"make it one: {make}"
        ) from None
    try:
        declared = json.loads(content)["format"]
        name, version = declared["name"], declared["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = version = None
    if name != _HUB_FORMAT or type(version) is not int or version < 1:
        wanted = json.dumps({"format": {"name": _HUB_FORMAT, "version": _HUB_VERSION}})
        raise HubError(f"{mark} does not describe a hub", hint=f"it should hold {wanted}")
    if version > _HUB_VERSION:
        raise HubError(
            f"{root} is a hub of version {version}; this program knows version {_HUB_VERSION}",
            hint=upgrade_hint(),
        )


@dataclass(frozen=True)
class ManifestExcerpt:
    """``digest`` is the SHA-256 (hex) of ``spec.json``; the rest are fields of ``model`` in it.

    ``weights_digest`` is that of :class:`~gmi_registry.spec.DescribedModel`.
    """

    digest: str
    tags: tuple[str, ...]
    base_model: str | None
    kind: str
    weights_digest: str


def read_excerpt(folder: Path, inside: Path | None = None) -> ManifestExcerpt:
    """Read from ``folder``/spec.json, where ``folder`` is a ``gmi`` in the hub ``inside``.

    A full check costs ten times as much, and comes with loading. Raises HubError where the file is
    missing, a link or too large, lies outside of the hub, or is plainly no manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        content = read_plain(path, MANIFEST_LIMIT, inside or False, within=(folder.name,))
    except FileNotFoundError:
        raise HubError(f"{path} is missing") from None
    try:
        model = json.loads(content)["model"]
        tags = model.get("tags", [])
        base_model, kind = model.get("base_model"), model.get("kind")
        weights = [[weight["path"], weight["sha256"]] for weight in model["weights"]]
        usable = (
            isinstance(tags, list)
            and all(isinstance(text, str) for text in (*tags, kind))
            and isinstance(base_model, str | None)
            and all(_SHA256.fullmatch(sha256) for _, sha256 in weights)
        )
        weights_digest = canonical_digest(weights)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise HubError(f"{path} is not a manifest")
    return ManifestExcerpt(
        hashlib.sha256(content).hexdigest(), tuple(tags), base_model, kind, weights_digest
    )


class LocalHub:
    """The hub in the folder ``root``, whose models are called ``local:NAME``.

    A revision is the first 16 hex digits of :attr:`DescribedModel.weights_digest`, so publishing a
    specification does not change it. Digests of weights are remembered in ``cache_dir`` (None: this
    user's cache). Links are followed only to places inside ``root``. Raises InputError where
    ``root`` is no such folder, HubError where its ``hub.json`` is not understood.
    """

    name = "local"

    def __init__(self, root: str | Path, cache_dir: Path | None = None) -> None:
        self.root = Path(root)
        _check_hub_file(self.root)
        self._digests = FileDigests(user_cache(cache_dir) / "weights-v1")

    @classmethod
    def create(cls, root: str | Path, cache_dir: Path | None = None) -> LocalHub:
        """Make ``root`` a hub, with its parents where they are missing; one that is there is kept.

        Raises InputError where the folder cannot be made.
        """
        root = Path(root)
        try:
            for folder in (root, root / _MODELS, root / _ENCODERS):
                folder.mkdir(parents=True, exist_ok=True)
            _write_hub_file(root)
        except OSError as error:
            raise InputError(
                f"{root}: cannot be made a hub: {error.strerror or error}",
                hint="name a folder that you can write to",
            ) from error
        return cls(root, cache_dir)

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The models with a ``gmi`` folder that pass the filter, by name; no weights are read.

        Tags, base model, kind and revision are those of the manifest. A specification whose
        manifest cannot be read passes every filter: whoever loads it learns the reason, and a
        model does not vanish from searches without a word.
        """
        for ref, folder in self._models():
            gmi = folder / SPEC_DIR
            try:
                require_inside(folder, self.root)
                if not os.path.lexists(gmi):
                    continue
                excerpt = read_excerpt(gmi, self.root)
            except HubError:
                yield Listing(ref, ())
                continue
            traits = Traits.of(
                "local",
                tags=excerpt.tags,
                base_model=excerpt.base_model,
                kind=excerpt.kind,
                nsfw=False,
            )
            if wanted.admits(traits):
                pinned = ModelRef("local", ref.id, excerpt.weights_digest[:_REVISION_DIGITS])
                yield Listing(pinned, (), spec_digest=excerpt.digest, traits=traits)

    def fetch_spec(self, ref: ModelRef) -> Path:
        """The model's ``gmi`` folder itself. What is in it is for the reader to check, with
        :attr:`root` as its ``follow_links``: another folder may have its place by then.

        Raises SpecNotFoundError where the model, its specification or its pinned revision is not
        there, HubError where the folder is a link.
        """
        gmi = self._model_folder(ref) / SPEC_DIR
        if gmi.is_symlink():
            raise HubError(f"{gmi} is a symbolic link", hint="put the folder itself there")
        if not gmi.is_dir():
            raise SpecNotFoundError(f"{ref} has no specification", hint=self._publishing(ref))
        if ref.revision is not None:
            try:
                described = read_excerpt(gmi, self.root).weights_digest
            except HubError:
                return gmi  # the reader finds the same fault, and says more about it
            _require_revision(ref, described, "its specification describes")
        return gmi

    def weights_beside(self, ref: ModelRef, folder: Path) -> Mapping[str, str | None] | None:
        """Path to SHA-256 of the weight files beside a specification; None where there are none
        that can be told. They are read, unless they are the same files as last time."""
        from gmi_registry.hubs.weights import all_weights

        try:
            files = all_weights(folder.parent, self.root)
            digests = {
                name: self._digests.sha256(path, inside=self.root) for name, path in files.items()
            }
        except HubError:
            return None
        return digests or None

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The contact sheet; None also where something else than a plain file has its place."""
        preview = self.fetch_spec(ref) / PREVIEW_NAME
        return preview if preview.is_file() and not preview.is_symlink() else None

    def fetch_model(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """The model where it lies, with its base: ``base``, else the one of this hub that the card
        names. Of several that a card names it is the first that is a whole model here.

        Weights are hashed, unless they are the same files as last time. A base model that the card
        names and the hub does not hold is left out. Raises InputError for a ``base`` of another
        hub, or of a model that is whole. Raises SpecNotFoundError for an unknown model or revision,
        HubError for a broken card, weights of no known layout, or a circle of base models.
        """
        return self._fetch(ref, (), base)

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        """The encoder's folder; None where there is none, as for a name that cannot be one."""
        if not all(_is_plain(part) for part in (name, pretrained)):
            return None
        folder = self.root / _ENCODERS / name / pretrained
        if not folder.is_dir():
            return None
        require_inside(folder, self.root)
        return folder

    def check_writable(self, ref: ModelRef, *, create_pr: bool = False) -> Destination:
        """Tries it out with an empty folder beside the model, removed at once."""
        _require_no_proposal(create_pr)
        model = self._model_folder(ref)
        probe(model)
        return Destination(str(model / SPEC_DIR), "folder")

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
        """Make the files of ``folder`` the model's specification; returns the path they have.

        They are read and checked first, and must describe the weights that the model has now. The
        model card stays as it is: this hub needs no tag to find a specification, and two things
        cannot be changed in one step.

        Raises SpecNotFoundError for an unknown model or revision, SpecError for files that are no
        specification of it, AuthError or HubError where they cannot be written, and
        UnsupportedOperationError for ``create_pr``; in each case everything is as before.
        """
        from gmi_registry.hubs.weights import find_weights

        _require_no_proposal(create_pr)
        model = self._model_folder(ref)
        manifest, contents = read_upload(folder, ref)
        actual = _digest(self._hashed(find_weights(model, self.root, ref)))
        _require_revision(ref, actual, "it now has")
        if manifest.model.weights_digest != actual:
            raise HubError(
                f"the specification describes weights {manifest.model.weights_digest[:12]}, but "
                f"{ref.without_revision} now has {actual[:12]}",
                hint=f"the model changed meanwhile: {self._publishing(ref)}",
            )
        return str(replace_spec_folder(model, contents, inside=self.root))

    def _publishing(self, ref: ModelRef) -> str:
        """The command; a name alone does not say in which folder the model is."""
        return f"gmi-publish {ref.without_revision} --hub {shlex.quote(str(self.root))}"

    def _models(self) -> Iterator[tuple[ModelRef, Path]]:
        folder = self.root / _MODELS
        require_inside(folder, self.root)
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208, names are all that is needed
        except FileNotFoundError:
            return
        except OSError as error:
            raise HubError(f"{folder} cannot be read: {error.strerror or error}") from error
        for name in names:
            if name.startswith(".") or not (folder / name).is_dir():
                continue
            try:
                ref = ModelRef("local", name)
            except InputError:
                _log.warning("%r is not a name for a model, and is skipped", str(folder / name))
                continue
            yield ref, folder / name

    def _model_folder(self, ref: ModelRef) -> Path:
        require_on_hub(ref, self.name)
        folder = self.root / _MODELS / ref.id
        if not _is_plain(ref.id) or not folder.is_dir():
            raise SpecNotFoundError(
                f"{self.root} holds no model {ref.id!r}", hint=f"ls {self.root / _MODELS}"
            )
        require_inside(folder, self.root)
        return folder

    def _fetch(
        self, ref: ModelRef, above: tuple[str, ...], named: ModelRef | None = None
    ) -> ModelFiles:
        # The tables of what a file is are not for searches, which begin in a fraction of a second.
        from gmi_registry.bases import refuse_base
        from gmi_registry.hubs.card import CARD_NAME
        from gmi_registry.hubs.weights import find_weights, require_no_circle
        from gmi_registry.model import ModelFiles

        # A file may stand on the pipeline that lies in the same folder.
        place = str(ref.without_revision).removeprefix("local:")
        require_no_circle((*above, place), str(self.root / _MODELS / ref.id / CARD_NAME))
        folder = self._model_folder(ref)
        card = self._card(folder)
        found = find_weights(folder, self.root, ref)
        weights = self._hashed(found)
        actual = _digest(weights)
        _require_revision(ref, actual, "it now has")
        base: ModelFiles | None = None
        notes: list[str] = []
        refusal: HubError | None = None
        if named is not None:
            if found.kind == "checkpoint":
                raise refuse_base(str(ref.without_revision), named)
            if named.without_revision == ref.without_revision:
                raise InputError(
                    f"{named} is the model itself, and --base names the one that it was made for",
                    hint="name another model of this hub: --base local:NAME",
                )
            base = self._named_base(named, (*above, place))
        elif found.kind != "checkpoint":
            base, notes = self._base(ref, card, (*above, place))
            if card.base_model is None:
                refusal = _base_refusal(str(ref.without_revision), found)
        # The file that was named, in full where that was a pattern.
        file = None if ref.file is None else found.main
        return ModelFiles(
            ref=ModelRef("local", ref.id, actual[:_REVISION_DIGITS], file),
            kind=found.kind,
            path=found.path,
            card=card,
            weights=weights,
            base=base,
            base_origin=None if base is None else "card" if named is None else "option",
            base_revision=None if named is None else named.revision,
            base_refusal=refusal,
            notes=tuple(notes),
        )

    def _named_base(self, named: ModelRef, above: tuple[str, ...]) -> ModelFiles:
        if named.hub != self.name:
            raise InputError(
                f"{named} cannot be the base here: in a local hub it is a model of the same hub",
                hint="put it there and write --base local:NAME",
            )
        return self._fetch(named, above)

    def _base(
        self, ref: ModelRef, card: ModelCard, above: tuple[str, ...]
    ) -> tuple[ModelFiles | None, list[str]]:
        """The base that the card names, as far as this hub has it, and notes on what was chosen."""
        from gmi_registry.bases import QUANTIZED, quantised_note

        names = [] if card.base_model is None else [card.base_model, *card.other_bases]
        here = [found for name in names if (found := self._named_here(name, above)) is not None]
        if not here:
            return None, []
        base = next((it for it in here if it.kind == "checkpoint"), here[0])
        notes = []
        if len(names) > 1:
            notes.append(
                f"{ref.without_revision}: its card names {len(names)} base models, "
                f"and {base.ref.id} is used; --base names another"
            )
        original = base.base if base.kind != "checkpoint" else None
        if base.card.base_model_relation == QUANTIZED and base.kind == "checkpoint":
            original, _ = self._base(base.ref, base.card, (*above, base.ref.id))
        if base.card.base_model_relation == QUANTIZED and original is not None:
            notes.append(quantised_note(str(ref.without_revision), base.ref.id, original.ref.id))
            base = original
        return base, notes

    def _named_here(self, name: str, above: tuple[str, ...]) -> ModelFiles | None:
        try:
            ref = ModelRef("local", name.removeprefix("local:"))
            self._model_folder(ref)
        except (InputError, SpecNotFoundError):
            return None
        return self._fetch(ref, above)

    def _card(self, folder: Path) -> ModelCard:
        from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, parse_card

        path = folder / CARD_NAME
        try:
            content = read_plain(path, CARD_LIMIT, self.root)
        except FileNotFoundError:
            content = b""
        return parse_card(content, folder.name, path)

    def _hashed(self, found: FoundWeights) -> tuple[WeightFile, ...]:
        from gmi_registry.spec import WeightFile

        return tuple(
            WeightFile(
                path=name,
                size=path.stat().st_size,
                sha256=self._digests.sha256(path, inside=self.root),
            )
            for name, path in zip(found.names, found.files, strict=True)
        )


def _is_plain(name: str) -> bool:
    """Whether a name stays where it is put: one part of a path, and not a hidden one."""
    return (
        0 < len(name) <= 200
        and not name.startswith(".")
        and not any(bad in name for bad in ("/", "\\", ":", "\0"))
    )


def _base_refusal(what: str, found: FoundWeights) -> HubError | None:
    """What the file tells of the base that nobody names, and that this hub cannot know."""
    from gmi_registry.bases import base_of_file
    from gmi_registry.weights import identify, read_header

    header = read_header(found.files[found.names.index(found.main)])
    try:
        stated = base_of_file(what, identify(header), header.metadata)
    except HubError as error:
        return error
    return HubError(
        f"{what}: its model card names no base model, and {stated.words}: it was made for "
        f"{stated.title}",
        hint="name the model of this hub that is one: --base local:NAME, or base_model in the card",
    )


def _require_no_proposal(create_pr: bool) -> None:
    if create_pr:
        raise UnsupportedOperationError(
            "a hub in a folder takes no pull requests", hint="leave out --create-pr"
        )


def _digest(weights: tuple[WeightFile, ...]) -> str:
    return canonical_digest([[weight.path, weight.sha256] for weight in weights])


def _require_revision(ref: ModelRef, actual: str, what: str) -> None:
    if ref.revision is not None and not actual.startswith(ref.revision):
        raise SpecNotFoundError(
            f"{ref} is gone: {what} weights {actual[:_REVISION_DIGITS]}",
            hint=f"name the model without a revision: {ref.without_revision}",
        )
