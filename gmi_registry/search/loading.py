"""The encoder and the interrogator of one search, loaded when they are needed."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gmi_registry.device import require_device
from gmi_registry.errors import GmiError, IncomparableSpecsError, InputError
from gmi_registry.hubs.open import makes_links
from gmi_registry.search.query import reference_id, require_shared_space
from gmi_registry.search.request import NO_INTERROGATOR, SearchRequest
from gmi_registry.search.source import HasRegistry

if TYPE_CHECKING:
    from gmi_registry.encoders import EncoderName
    from gmi_registry.encoders.encoder import Encoder
    from gmi_registry.hubs.protocol import SearchableHub
    from gmi_registry.index import IndexEntry, Selection
    from gmi_registry.interrogators import Interrogator
    from gmi_registry.spec import EncoderRef

_NEEDS_TORCH = frozenset({"clip_interrogator"})
"""Interrogators that are given the encoder, and build on what open_clip made of it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelLoader:
    """How encoders and interrogators are loaded; ``cache_dir`` None is the libraries' own place.

    An encoder on the processor is loaded from an export where there is one of the wanted id, which
    spares seconds; else by open_clip.
    """

    cache_dir: Path | None
    offline: bool
    device: str
    _folders: dict[EncoderName, Path | None] = field(default_factory=dict, compare=False)

    @classmethod
    def checked(
        cls, request: SearchRequest, encoder: Encoder | None, cache_dir: Path | None, offline: bool
    ) -> ModelLoader:
        """One for ``request``, where nothing will be missing, as far as the hub need not tell that.

        ``encoder`` is the caller's own, ``cache_dir`` its cache. Raises InputError for a device
        that cannot be used, and as :func:`.require_interrogator`.
        """
        device = request.device if request.device == "cpu" else require_device(request.device)
        if device != "cpu" and encoder is None and request.like is None:
            from gmi_registry.encoders.onnx import require_processor

            require_processor(device)
        loader = cls(None if cache_dir is None else cache_dir / "hub", offline, device)
        mode = request.interrogator
        if request.images and request.prompt is None and mode != NO_INTERROGATOR:
            from gmi_registry.interrogators import require_interrogator

            require_interrogator(mode, cache_dir=loader.cache_dir, offline=offline)
        return loader

    def interrogator(self, request: SearchRequest, phrases: Sequence[str]) -> Interrogator | None:
        """What guesses the prompts of a request's images, and tries ``phrases`` first; None where
        nothing is to be guessed. Raises as :func:`.load_interrogator`."""
        mode = request.interrogator
        if mode == NO_INTERROGATOR or request.prompt is not None:
            return None
        from gmi_registry.interrogators import load_interrogator

        found = load_interrogator(
            mode,
            phrases=phrases,
            cache_dir=self.cache_dir,
            offline=self.offline,
            device=self.device,
        )
        return _WithTorch(found, self._by_open_clip) if mode in _NEEDS_TORCH else found

    def encoder_of(
        self, selections: Sequence[Selection], hub: SearchableHub, *, text_alone: bool = False
    ) -> Encoder:
        """The encoder of the largest group of comparable models, the hub's own copy if it has one.

        Raises InputError, before anything is loaded, where a ``text_alone`` is to be compared with
        images and the encoder's towers share no space; IncomparableSpecsError where what that name
        loads is not what made the specifications.
        """
        chosen = max(selections, key=lambda it: (len(it), str(it.group.key)))
        first = chosen.first
        if text_alone:
            group = chosen.group
            require_shared_space(first.encoder, group.image_dim, group.text_dim)
        who = f"{first.ref} and {len(chosen) - 1} others name"
        encoder = self._loaded(first.encoder, who, hub, chosen.group.key.encoder_id)
        if reference_id(encoder) != chosen.group.key.encoder_id:
            raise _another_encoder(first.encoder, _difference(encoder.ref, first, hub))
        return encoder

    def encoder_like(self, stated: EncoderRef, who: str, hub: SearchableHub) -> Encoder:
        """The encoder that ``who`` states. Raises as :meth:`encoder_of`."""
        name = f"{stated.name}/{stated.pretrained}"
        encoder = self._loaded(name, f"{who} names", hub, stated.id)
        if reference_id(encoder) != stated.id:
            raise _another_encoder(name, _differences(encoder.ref, stated))
        return encoder

    def _loaded(self, text: str, who_names: str, hub: SearchableHub, encoder_id: str) -> Encoder:
        from gmi_registry.encoders import EncoderName

        try:
            name = EncoderName.parse(text)
        except InputError as error:
            raise IncomparableSpecsError(
                f"{who_names} an encoder that cannot be loaded: {error.message}",
                hint="give the encoder that made them: search(..., encoder=...)",
            ) from None
        self._folders[name] = hub.fetch_encoder(*name)
        return self._by_export(name, encoder_id, hub) or self._by_name(name)

    def _by_name(self, name: EncoderName) -> Encoder:
        from gmi_registry.encoders import load_encoder

        return load_encoder(
            *name,
            self._folders.get(name),
            cache_dir=self.cache_dir,
            offline=self.offline,
            device=self.device,
        )

    def _by_open_clip(self, ref: EncoderRef) -> Encoder:
        from gmi_registry.encoders import EncoderName

        return self._by_name(EncoderName(ref.name, ref.pretrained))

    def _by_export(self, name: EncoderName, encoder_id: str, hub: SearchableHub) -> Encoder | None:
        """An export of exactly that encoder, or None."""
        from gmi_registry.encoders import onnx

        if self.device != "cpu" and onnx.has_torch():
            return None
        for path in onnx.exports_of(*name, self._folders.get(name), self.cache_dir):
            try:
                found = onnx.open_export(path, self.cache_dir)
            except GmiError as error:
                if not onnx.has_torch():
                    raise
                _log.warning("not used: %s", error.message)
                continue
            if found.encoder_id == encoder_id:
                return found
        # Who has torch has the weights, or fetches them from where they were published.
        if onnx.has_torch() or self.offline:
            return None
        fetched = self._from_registry(name, encoder_id, hub)
        if fetched is None:
            return None
        try:
            return onnx.open_export(fetched, self.cache_dir)
        except GmiError:
            # Kept, it would stand in the way of every later search.
            shutil.rmtree(fetched, ignore_errors=True)
            raise

    def _from_registry(self, name: EncoderName, encoder_id: str, hub: SearchableHub) -> Path | None:
        from gmi_registry.encoders.encoder import LIMITS
        from gmi_registry.encoders.onnx import kept_export
        from gmi_registry.encoders.onnx_files import OnnxFolder

        if not isinstance(hub, HasRegistry):
            return None
        from gmi_registry.hubs.registry.dataset import fetch_encoder_files
        from gmi_registry.hubs.registry.registry import Registry

        if not isinstance(hub.registry, Registry) or hub.registry.id is None:
            return None

        def accepts(folder: Path) -> bool:
            with contextlib.suppress(GmiError):
                return OnnxFolder(folder).description.encoder.id == encoder_id
            return False

        try:
            return fetch_encoder_files(
                hub.registry.dataset,
                *name,
                kept_export(*name, encoder_id, self.cache_dir),
                limits=LIMITS,
                accepts=accepts,
            )
        except GmiError as error:
            _log.warning("the registry gives no encoder: %s", error.message)
            return None


class _WithTorch:
    """An interrogator that builds on open_clip's own model, beside an encoder that has none."""

    def __init__(self, inner: Interrogator, load: Callable[[EncoderRef], Encoder]) -> None:
        self.mode = inner.mode
        self._inner = inner
        self._load = load
        self._loaded: dict[str, Encoder] = {}

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        from gmi_registry.encoders.onnx import OnnxEncoder

        if not isinstance(encoder, OnnxEncoder):
            return self._inner(image, encoder)
        if encoder.ref.id not in self._loaded:
            self._loaded[encoder.ref.id] = self._load(encoder.ref)
        return self._inner(image, self._loaded[encoder.ref.id])


def _another_encoder(name: str, difference: str) -> IncomparableSpecsError:
    return IncomparableSpecsError(
        f"the encoder {name} that was loaded is not the one that made the specifications: "
        f"{difference}",
        hint="put the encoder that they name into the hub, or publish the models again",
    )


def _difference(found: EncoderRef, entry: IndexEntry, hub: SearchableHub) -> str:
    """In what the encoder differs from the one that the specification of ``entry`` names."""
    from gmi_registry.spec import read_manifest

    try:
        folder = hub.fetch_spec(entry.ref).parent
        stated = read_manifest(folder, follow_links=makes_links(hub)).encoder
    except GmiError:  # it was there a moment ago, and is wanted for this message alone
        return f"id {found.id}, not {entry.key.encoder_id}"
    return _differences(found, stated)


def _differences(found: EncoderRef, stated: EncoderRef) -> str:
    if found.weights_sha256 != stated.weights_sha256:
        return f"weights {found.weights_sha256[:12]}, not {stated.weights_sha256[:12]}"
    ours, theirs = found.known(), stated.known()
    return "the same weights with another " + ", ".join(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
