"""Base models: what Civitai, trainers and files call them, where each lies, and which one a weight
file was made for.

A LoRA, and a whole model in one file, stands on a base. People name it in many ways; here each name
has one answer: a repository on Hugging Face, or a refusal that says why there is none. What a file
tells of its base, by its metadata or its layers, is strangers' text. Trainers write where they read
their base; nobody checks it, so that what the layers contradict is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gmi_registry.errors import HubError, InputError
from gmi_registry.model import BaseOrigin
from gmi_registry.sanitize import one_line

if TYPE_CHECKING:
    from gmi_registry.weights import WeightsFile

BASE_HINT = "name the repository that it was made for: --base REPO"
"""The way out wherever no base model is known."""


QUANTIZED = "quantized"
"""What ``base_model_relation`` of a card says of a copy with fewer bits a weight."""


@dataclass(frozen=True)
class BaseFamily:
    """One base model, or several names that have the same answer.

    ``repository`` on Hugging Face is a diffusers folder with the weights that a LoRA goes on;
    ``configuration`` is one whose configuration describes a whole model in one file, where that is
    another: a family that changed nothing of its parent's has the parent's. Both are None for a
    family that is refused, and ``refusal`` says why, after the words "is made for". ``names`` are
    Civitai's for ``baseModel``. ``claims`` are what metadata in files say
    (``ss_base_model_version``, ``modelspec.architecture``), in the spelling of
    :func:`claimed_family`; ``files`` are the beginnings of file names under which the base is
    shared, and ``hashes`` SHA-256 (hex) of such a file, or the eight digits of the older hash that
    ``ss_sd_model_hash`` holds. ``architecture`` is the key of :mod:`gmi_registry.weights`;
    ``ecosystem`` the family's word in an AIR. ``prediction_type`` is given where the name says it,
    and ``v_prediction`` is the title of the sister that was trained for v-prediction. ``caution``
    is what people should know whose model was given this base by its name alone;
    ``makes_images`` is false where there is no way to describe a model of the family.
    """

    title: str
    names: tuple[str, ...] = ()
    architecture: str | None = None
    repository: str | None = None
    configuration: str | None = None
    refusal: str | None = None
    ecosystem: str = "other"
    claims: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    v_prediction: str | None = None
    caution: str | None = None
    makes_images: bool = True

    @property
    def layout(self) -> str | None:
        """Where the configuration of a whole model in one file is."""
        return self.configuration or self.repository

    def with_prediction(self, prediction_type: str | None) -> BaseFamily:
        """The sister that was trained for v-prediction where the file says that it was, too."""
        if prediction_type != "v_prediction" or self.v_prediction is None:
            return self
        return _table().by_title[self.v_prediction]


class _Table(NamedTuple):
    """What ``bases.toml`` holds.

    ``usual`` are titles by an architecture, or by ``architecture/variant``; ``untold`` says of an
    architecture why its layers leave open which family it is; ``pipelines`` are the architectures
    that each pipeline class runs.
    """

    families: tuple[BaseFamily, ...]
    by_title: Mapping[str, BaseFamily]
    by_name: Mapping[str, BaseFamily]
    by_claim: Mapping[str, BaseFamily]
    by_hash: Mapping[str, BaseFamily]
    usual: Mapping[str, str]
    untold: Mapping[str, str]
    pipelines: Mapping[str, list[str]]


@cache
def _table() -> _Table:
    """Read when the first base is asked for: most searches ask for none."""
    stored = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    entries: Iterable[dict[str, Any]] = (
        {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        for entry in stored["family"]
    )
    known = tuple(BaseFamily(**entry) for entry in entries)
    return _Table(
        known,
        {family.title: family for family in known},
        {name.casefold(): family for family in known for name in family.names},
        {claim: family for family in known for claim in family.claims},
        {digest: family for family in known for digest in family.hashes},
        stored["usual"],
        stored["untold"],
        stored["pipelines"],
    )


_SEPARATORS = re.compile(r"[\s._@:-]+")


def families() -> tuple[BaseFamily, ...]:
    """The whole table."""
    return _table().families


def known_bases() -> tuple[str, ...]:
    """The names on Civitai that have a repository, in alphabetical order."""
    known = [name for it in families() if it.repository is not None for name in it.names]
    return tuple(sorted(known))


def family_named(name: str) -> BaseFamily | None:
    """The family that Civitai calls ``name``, which may be one that is refused; None for others."""
    return _table().by_name.get(name.casefold())


def base_named(name: str, what: str) -> BaseFamily:
    """The base that Civitai calls ``name``; letter case does not count. It has a repository.

    ``what`` is the model that stands on it, for the message. Raises HubError for a family that is
    refused, and for a name that is not in the table.
    """
    family = family_named(name)
    if family is None:
        raise HubError(
            f"{what} is made for {one_line(name, 80)}, a base model that this program does not "
            f"know",
            hint=BASE_HINT,
        )
    spelt = next(one for one in family.names if one.casefold() == name.casefold())
    require_repository(family, what, called=spelt)
    return family


def require_repository(family: BaseFamily, what: str, *, called: str | None = None) -> str:
    """The family's repository. Raises HubError, about the model ``what``, where it has none."""
    if family.repository is not None:
        return family.repository
    hint = BASE_HINT
    if not family.makes_images:
        hint = (
            "only models that generate images from a text can be described; if this is one, "
            f"{BASE_HINT}"
        )
    raise HubError(f"{what} is made for {called or family.title}, {family.refusal}", hint=hint)


def claimed_family(claim: str) -> BaseFamily | None:
    """The family that a file's metadata call ``claim``, or None.

    That is a value of ``ss_base_model_version``, or of ``modelspec.architecture``, after which
    ``/lora`` or the like may stand. Letter case does not count, nor which of blanks, dots,
    underscores and hyphens separate the words.
    """
    plain = _plain(claim[:200].partition("/")[0])
    return _table().by_claim.get(plain) or _table().by_name.get(claim[:200].strip().casefold())


def family_of_variant(architecture: str | None, variant: str | None) -> BaseFamily | None:
    """The family that a network's layers tell from others of its kind; None where they do not."""
    title = _table().usual.get(f"{architecture}/{variant}")
    return None if title is None else _table().by_title[title]


def family_of_layers(
    architecture: str, variant: str | None, prediction_type: str | None, what: str
) -> BaseFamily:
    """The family that a network of this kind most often belongs to: a guess. It has a repository.

    ``variant`` is the member of the kind that its layers tell (of
    :class:`gmi_registry.weights.WeightsFile`). Raises HubError, about the model ``what``, where the
    layers do not tell what decides the images, or for a kind that makes none.
    """
    usual = _table().usual
    title = usual.get(f"{architecture}/{variant}") or usual.get(architecture)
    if architecture == "sd2" and prediction_type is not None:
        title = "SD 2.1"
    if title is not None:
        return _table().by_title[title].with_prediction(prediction_type)
    untold = _table().untold.get(architecture)
    if untold is not None:
        raise HubError(f"{what} is made for {untold}", hint=BASE_HINT)
    of_kind = [family for family in families() if family.architecture == architecture]
    refused = next((family for family in of_kind if family.repository is None), None)
    if refused is None:
        raise HubError(
            f"{what} is made for {one_line(architecture, 40)}, and this program knows no base "
            f"for it",
            hint=BASE_HINT,
        )
    require_repository(refused, what)
    return refused


def pipeline_architectures(
    index: Mapping[str, object], network: Mapping[str, object] | None = None
) -> frozenset[str]:
    """What a diffusers folder may run, by its ``model_index.json``; empty where nothing is known.

    ``network`` is the configuration of its ``unet`` or ``transformer``, where it is at hand: of
    Stable Diffusion 1 and 2 only that tells which.
    """
    name = index.get("_class_name")
    found = frozenset(_table().pipelines.get(name, ()) if isinstance(name, str) else ())
    width = None if network is None else network.get("cross_attention_dim")
    if found == {"sd1", "sd2"} and width in (768, 1024):
        return frozenset({"sd1" if width == 768 else "sd2"})
    return found


def family_of_hash(digest: str) -> BaseFamily | None:
    """The family one of whose files has this digest; None for one that is not known."""
    return _table().by_hash.get(digest.strip().casefold())


def family_of_file(name: str) -> BaseFamily | None:
    """The family whose file is shared under a name that begins like this one."""
    stem = _plain(re.split(r"[/\\]", name)[-1])
    found = [
        (len(start), family)
        for family in families()
        for start in family.files
        if stem.startswith(_plain(start))
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def _plain(text: str) -> str:
    return _SEPARATORS.sub("-", text.strip().casefold()).strip("-")


def quantised_note(what: str, base: str, original: str) -> str:
    """What people are told where the original is taken for a base with fewer bits a weight."""
    return (
        f"{what}: its base model {base} is a quantised copy of {original}, which is used; "
        f"--base {base} uses the copy"
    )


def refuse_base(what: str, base: object) -> InputError:
    """The error for a base that was named of a model that stands on none."""
    return InputError(
        f"{what} is a whole diffusers model and needs no base model, such as {base}",
        hint="leave out --base",
    )


_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_FILES = (".safetensors", ".ckpt", ".pt", ".bin", ".gguf")
# Adapters of these have layers of the same names and, in part, sizes.


class StatedBase(NamedTuple):
    """The base that a file was made for, as the file tells it.

    ``repository`` is the one that its metadata name; else ``family`` has the answer. ``words`` say
    where it stands in the file, for people, and hold strangers' text, escaped.
    """

    family: BaseFamily | None
    repository: str | None
    words: str
    origin: BaseOrigin = "metadata"

    @property
    def title(self) -> str:
        """What people call the base."""
        return self.repository or (self.family.title if self.family is not None else "")


def stated_base(
    metadata: Mapping[str, str], prediction_type: str | None = None
) -> StatedBase | None:
    """What the metadata of a safetensors file say of the base, the surest word first.

    That is the repository, the hash of the base's file, or its name (``ss_sd_model_name``,
    ``ss_sd_model_hash``, ``ss_new_sd_model_hash``), then ``ss_base_model_version`` and
    ``modelspec.architecture``. ``prediction_type`` is what the file says of that. None where they
    say nothing that is known here. The family may be one that is refused.
    """
    claims = [
        (key, metadata[key], family)
        for key in ("ss_base_model_version", "modelspec.architecture")
        if key in metadata and (family := claimed_family(metadata[key])) is not None
    ]
    claimed = claims[0][2] if claims else None
    name = metadata.get("ss_sd_model_name", "").strip()
    if _REPOSITORY.fullmatch(name) and not name.casefold().endswith(_FILES):
        return StatedBase(claimed, name, f"ss_sd_model_name in its metadata is {name}")
    for key in ("ss_new_sd_model_hash", "ss_sd_model_hash"):
        family = family_of_hash(metadata.get(key, ""))
        if family is not None:
            return StatedBase(family, None, f"{key} in its metadata is that of {family.title}")
    named = family_of_file(name)
    if named is not None and (claimed is None or claimed.architecture == named.architecture):
        return StatedBase(
            named.with_prediction(prediction_type),
            None,
            f"ss_sd_model_name in its metadata is {one_line(name, 80)}",
        )
    if claimed is None:
        return None
    key, value, family = claims[0]
    words = f"{key} in its metadata is {one_line(value, 80)}"
    if name:
        words += f" (and the file that it was trained on {one_line(name, 80)})"
    return StatedBase(family.with_prediction(prediction_type), None, words)


def base_of_file(what: str, file: WeightsFile, metadata: Mapping[str, str]) -> StatedBase:
    """The base of the model ``what``, whose weights are ``file``, as the file alone tells it.

    Its metadata count first, then the layers of its network, by which the usual base of such
    networks is taken. Raises HubError where neither tells, where they contradict each other, and
    for a base that is refused; ``--base REPO`` is the way out.
    """
    from gmi_registry.weights import may_be

    stated = stated_base(metadata, file.prediction_type)
    if stated is not None:
        claimed = None if stated.family is None else stated.family.architecture
        if claimed is not None and not may_be(claimed, file.architecture):
            raise HubError(
                f"{what} says that it was made for {stated.title} ({stated.words}), and its layers "
                f"are those of {_kind_title(file.architecture)}",
                hint=BASE_HINT,
            )
        if stated.repository is not None or stated.family is None:
            return stated
        if stated.family.repository is not None:
            return stated
        # Layers may tell what the name leaves open, such as the size.
        told = family_of_variant(file.architecture, file.variant)
        if told is not None and told.architecture == stated.family.architecture:
            words = f"{stated.words}, and its layers are those of {told.title}"
            return StatedBase(told, None, words)
        require_repository(stated.family, what)
    if file.architecture is None:
        raise HubError(
            f"{what} is {file.title}; its card names no base model, and the file does not say "
            "which it was made for",
            hint=f"{BASE_HINT}; or add base_model to the model card",
        )
    family = family_of_layers(file.architecture, file.variant, file.prediction_type, what)
    return StatedBase(
        family, None, f"its layers are those of {family.title}", origin="architecture"
    )


def require_made_for(
    what: str,
    file: WeightsFile,
    metadata: Mapping[str, str],
    base: str,
    architectures: Iterable[str],
) -> None:
    """Raise HubError where the model ``what`` was made for another kind of network than its base.

    ``base`` says in words which that is and who named it, ``architectures`` are those that it may
    be; nothing is refused where they are not known. Layers count, and metadata where those do not
    tell.
    """
    from gmi_registry.weights import may_be

    wanted = frozenset(architectures)
    if not wanted:
        return
    made, words = file.architecture, ""
    if made is None:
        stated = stated_base(metadata, file.prediction_type)
        if stated is not None and stated.family is not None:
            made = stated.family.architecture  # type: ignore[assignment]
            words = f" ({stated.words})"
    if made is None or any(may_be(one, made) for one in wanted):
        return
    kinds = " or ".join(_kind_title(one) for one in sorted(wanted))
    raise HubError(
        f"{what} was made for {_kind_title(made)}{words}, while {base} is {kinds}",
        hint=f"{BASE_HINT}; or correct base_model in the model card",
    )


def repository_of(stated: StatedBase, what: str, *, whole: bool) -> str:
    """The repository of a base: for a whole model in one file the one whose configuration describes
    it. Raises HubError for a family that is refused."""
    if stated.family is None:
        return str(stated.repository)
    repository = stated.repository or require_repository(stated.family, what)
    return stated.family.layout or repository if whole else repository


def _kind_title(architecture: str | None) -> str:
    from gmi_registry.weights import architecture_title

    return "an unknown kind" if architecture is None else architecture_title(architecture)
