"""A version of a model as files on this disk, with the base model that it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from gmi_registry.errors import AuthError, HubError, SpecNotFoundError
from gmi_registry.bases import base_named
from gmi_registry.hubs.civitai.card import card_of
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.download import Downloads
from gmi_registry.hubs.civitai.reference import require_version
from gmi_registry.hubs.civitai.weights import TYPES, digests_of, kind_of, select_file
from gmi_registry.hubs.civitai.wire import WireFile, WireModel, WireVersion
from gmi_registry.hubs.protocol import Hub, ModelOutline, Outlines
from gmi_registry.model import Kind, ModelFiles
from gmi_registry.spec import ModelRef

__all__ = ["GivesConfigurations", "Models"]


@runtime_checkable
class GivesConfigurations(Protocol):
    """A hub of base models that can leave out the weights where a single file brings its own."""

    def fetch_configuration(self, ref: ModelRef) -> ModelFiles:
        """Like ``fetch_model``, without weights."""
        ...


@dataclass(frozen=True)
class _Chosen:
    """A version, the file of it that is meant, and its base model on Hugging Face."""

    model: WireModel
    version: WireVersion
    kind: Kind
    file: WireFile
    base: ModelRef


class Models:
    """Fetches versions through ``downloads``.

    Their bases are on ``bases`` (None: Hugging Face, which keeps them in ``cache_dir``).
    """

    def __init__(
        self,
        client: CivitaiClient,
        downloads: Downloads,
        bases: Hub | None,
        cache_dir: Path | None = None,
    ) -> None:
        self._client = client
        self._downloads = downloads
        self._bases = bases
        self._cache_dir = cache_dir
        self._opened = False
        self._outlined: dict[ModelRef, _Chosen] = {}

    def close(self) -> None:
        """Close the hub of the bases where it was opened here."""
        close = getattr(self._bases, "close", None)
        if self._opened and close is not None:
            close()

    def documents(self, ref: ModelRef) -> tuple[WireModel, WireVersion]:
        """The model and its version as Civitai describes them now: two requests.

        Raises SpecNotFoundError where one is not there or the version is another model's.
        """
        version = self._client.version(str(ref.revision), of=ref)
        require_version(ref, version, self._client)
        return self._client.model(ref.id), version

    def weights(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """Path to SHA-256 of what the version has now, nothing where it is gone: one request.

        None where Civitai shows no file of it, as of a model that is archived.
        """
        try:
            version = self._client.version(str(ref.revision), of=ref)
            require_version(ref, version, self._client)
        except SpecNotFoundError:
            return {}
        return digests_of(version) if version.files else None

    def fetch(self, ref: ModelRef) -> tuple[ModelFiles, Mapping[str, str | None]]:
        """The version as :meth:`.CivitaiHub.fetch_model` says, and the digests of all its files."""
        chosen = self._outlined.pop(ref, None) or self._choose(ref)
        # Either may be refused, so the small one comes first: a LoRA, or a configuration.
        if chosen.kind == "lora":
            place, weights = self._downloads.fetch(ref, chosen.file, chosen.kind)
            base = self._base(ref, chosen)
        else:
            base = self._base(ref, chosen)
            place, weights = self._downloads.fetch(ref, chosen.file, chosen.kind)
        files = ModelFiles(
            ref=ref,
            kind=chosen.kind,
            path=place if chosen.kind == "single-file" else place.parent,
            card=card_of(chosen.model, chosen.version),
            weights=(weights,),
            url=self._client.page_of(ref),
            base=base,
        )
        return files, digests_of(chosen.version)

    def outline(self, ref: ModelRef) -> ModelOutline:
        """The version and its base as :meth:`.CivitaiHub.outline` says.

        A :meth:`fetch` that follows asks for neither again.
        """
        chosen = self._choose(ref)
        base, bases = None, self._base_hub()
        if isinstance(bases, Outlines):
            with _explained(ref, chosen.version.base_model):
                base = bases.outline(chosen.base)
            chosen = replace(chosen, base=base.ref)
        self._outlined[ref] = chosen
        return ModelOutline(
            ref=ref,
            kind=chosen.kind,
            card=card_of(chosen.model, chosen.version),
            pipeline=None,
            weights={chosen.file.path: chosen.file.sha256},
            missing=self._downloads.missing(ref, chosen.file),
            url=self._client.page_of(ref),
            base=base,
        )

    def _choose(self, ref: ModelRef) -> _Chosen:
        """What is meant, as Civitai describes it now. Raises for all that cannot be described."""
        asked = self._client.asked(ref)
        model, version = self.documents(ref)
        kind = kind_of(model.type)
        if kind is None:
            known = ", ".join(name for names in TYPES.values() for name in names)
            raise HubError(
                f"{ref} is a {model.type}, and only {known} are described",
                hint=f"name a model that draws pictures from texts: {self._client.endpoint}/models",
            )
        if version.usage_control not in (None, "Download"):
            raise HubError(
                f"{ref}: its author lets nobody download it, and only Civitai itself may use it",
                hint=f"see {asked.page}",
            )
        file = select_file(version, asked)
        named = base_named(version.base_model, str(ref))
        base = ModelRef("hf", named.layout if kind == "single-file" else named.repository)
        return _Chosen(model, version, kind, file, base)

    def _base(self, ref: ModelRef, chosen: _Chosen) -> ModelFiles:
        bases = self._base_hub()
        with _explained(ref, chosen.version.base_model):
            if chosen.kind == "single-file" and isinstance(bases, GivesConfigurations):
                return bases.fetch_configuration(chosen.base)
            return bases.fetch_model(chosen.base)

    def _base_hub(self) -> Hub:
        if self._bases is None:
            # Half a second to import, which listing and searching can do without.
            from gmi_registry.hubs.huggingface import HuggingFaceHub

            self._bases = HuggingFaceHub(cache_dir=self._cache_dir, offline=self._client.offline)
            self._opened = True
        return self._bases


@contextmanager
def _explained(ref: ModelRef, named: str) -> Iterator[None]:
    """Errors about a base model in words that say whose base it is."""
    try:
        yield
    except AuthError as error:
        raise AuthError(
            f"the base model of {ref}, {named}, is not open: {error.message}", hint=error.hint
        ) from error
    except SpecNotFoundError as error:
        raise HubError(
            f"the base model of {ref}, {named}, is not at hand: {error.message}",
            hint=error.hint,
        ) from error
