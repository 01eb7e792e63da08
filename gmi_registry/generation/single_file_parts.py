"""Which part of a pipeline each tensor of a single file belongs to, and what it is called there.

The base's configuration says what parts a pipeline has. Names are turned by diffusers' converters,
which run on tensors without values first; every tensor of the file is accounted for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from gmi_registry.errors import GenerationError
from gmi_registry.generation.pipeline_folder import (
    component_classes,
)
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.weights import Header, identify
from gmi_registry.weights.quantisation import Scales

_NETWORK_NAMES = ("transformer", "unet")

_LDM = "model.diffusion_model."

# What stands before the layers of a network that is shared alone.
_ALONE = (_LDM, "diffusion_model.", "model.", "unet.", "transformer.", "net.", "module.", "dit.")

_VAE = ("first_stage_model.", "vae.")

_TEXT = re.compile(
    r"(?P<root>cond_stage_model|conditioner\.embedders\.(?P<number>\d)|text_encoders?\.(?P<name>\w+)"
    r"|text_encoder(?:_\d)?)\.(?P<rest>.+)",
    re.DOTALL,
)

_ENCODER_RANKS = {"clip_l": 0, "clip_g": 1, "clip_h": 1, "t5xxl": 2}

# Tensors beside the parts, which no program that makes images reads or which are read elsewhere.
_EMA = re.compile(r"(?:model_ema|ema)\.")

_BESIDE = re.compile(
    r"(?:model\.)?(?:betas|alphas_cumprod(?:_prev)?|sqrt_\w+|log_one_minus_\w+|posterior_\w+|logvar"
    r"|lvlb_weights|scale_factor|global_step|epoch|iteration)"
    r"|denoiser\.\w+|v_pred|ztsnr|scaled_fp8|edm_\w+|edm_vpred\.\w+|is_inpaint\w*|modelspec\.\w+"
    r"|first_stage_model\.(?:loss|model_ema)\..+"
    r"|.*\.(?:position_ids|logit_scale|attn_mask|spiece_model|tekken_model|tokenizer\w*|inv_freq)"
    r"|.*\.(?:lm_head\.weight)"
)

# What the networks' first releases hold and their converters leave out on purpose.
_LEFT_OUT = re.compile(
    r"norm_final\.weight|pos_embed|y_embedder\.y_embedding|rope\.\w+|repa_projectors\..+"
)

# Weights are floating-point numbers, or packed as GGUF packs them.
_NO_FLOATS = frozenset(
    {"BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "C64", "F4", "F8_E8M0"}
)

_LAYER = re.compile(r"(?:resblocks|encoder\.layers|layers|encoder\.block)\.(\d+)\.")

_SHOWN = 3


State = dict[str, Any]


Convert = Callable[[State], Mapping[str, Any]]

_BASE_HINT = (
    "correct base_model in the model card, or name the base that it was made for: --base REPO"
)

_RENAMINGS: tuple[tuple[str, str], ...] = (
    ("", ""), ("text_model.", ""), ("", "text_model."), ("model.", ""), ("", "model."),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One component of a pipeline that a file holds: ``names`` are its tensors' names in the file
    by those that ``convert`` reads, ``expected`` the names that the ``module`` has for its own, and
    ``linear`` those of them that are matrices of linear layers."""

    component: str
    module: type
    names: Mapping[str, str]
    convert: Convert
    expected: frozenset[str]
    linear: frozenset[str]


class _Skeleton(NamedTuple):
    """A module without weights: shapes by name, and names that share one parameter."""

    module: Any
    shapes: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, str]


class _Fit(NamedTuple):
    """How a group of tensors fits a module; ``part`` is None where something is missing."""

    part: Part | None
    missing: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    error: str | None = None
    expected: int = 0

    @property
    def faults(self) -> int:
        lost = self.expected if self.error is not None else 0
        return len(self.missing) + len(self.reshaped) + len(self.unread) + lost


def network_component(classes: Iterable[str]) -> str | None:
    """The component that denoises: a transformer, or a UNet."""
    return next((name for name in _NETWORK_NAMES if name in classes), None)


def match_parts(
    model: ModelFiles, header: Header, scales: Scales, base: ModelFiles, index: Mapping[str, Any]
) -> tuple[list[Part], list[str]]:
    """The parts of ``base``'s pipeline that a file holds, and notes on what is left out.

    Raises GenerationError where a part is there in part only, or does not fit the base.
    """
    classes = component_classes(index)
    network = network_component(classes)
    if network is None:
        raise GenerationError(
            f"{model.ref}: its base model {base.ref} has neither a transformer nor a UNet",
            hint="name another base model: --base REPO",
        )
    skip = set(scales.of_weights.values()) | scales.beside
    names = [name for name in header.tensors if name not in skip]
    notes: list[str] = []
    ema = [name for name in names if _EMA.match(name)]
    if ema:
        notes.append(
            "the file also holds a moving average (EMA), which is left out, as ComfyUI and "
            f"diffusers do ({_counted(ema)})"
        )
    names = [name for name in names if not _EMA.match(name) and not _BESIDE.fullmatch(name)]
    groups = _Groups(names)
    match = _Matching(model, header, base, classes)
    parts = [match.network(network, groups.network)]
    if groups.vae and "vae" in classes:
        parts.append(match.vae(groups.vae))
    for title, group in groups.text:
        taken = {part.component for part in parts}
        parts.append(match.text_encoder(title, group, taken))
    left = [*groups.rest, *(groups.vae.values() if "vae" not in classes else ())]
    if left:
        notes.append(
            f"left out: {len(left):,} of the file's {len(header.tensors):,} tensors, which no part "
            f"of the pipeline has ({_listed(left)})"
        )
    return parts, notes


class _Groups:
    """Names of a file by the part that they belong to, without the prefixes of parts."""

    def __init__(self, names: Iterable[str]) -> None:
        self.vae: dict[str, str] = {}
        self.rest: list[str] = []
        text: dict[str, tuple[int, str, dict[str, str]]] = {}
        others: list[str] = []
        for name in names:
            prefix = next((it for it in _VAE if name.startswith(it)), None)
            found = _TEXT.fullmatch(name)
            if prefix is not None:
                self.vae[name.removeprefix(prefix)] = name
            elif found is not None:
                rank = int(found["number"] or _ENCODER_RANKS.get(found["name"] or "", 9))
                title = found["name"] or found["root"]
                text.setdefault(found["root"], (rank, title, {}))[2][found["rest"]] = name
            else:
                others.append(name)
        ranked = sorted(text.values(), key=lambda entry: entry[0])
        self.text = [(title, group) for _, title, group in ranked]
        self.network = self._network(others)

    def _network(self, names: list[str]) -> dict[str, str]:
        """The network's own names; those without its prefix are no part of it."""
        counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in _ALONE}
        prefix = next((it for it in _ALONE if counts[it] > len(names) / 2), "")
        if counts[_LDM]:
            prefix = _LDM
        found = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
        self.rest += [name for name in names if not name.startswith(prefix)]
        return found


def _traced() -> Any:
    """A class of tensors that know from which tensors of a file they were made."""
    import torch

    class Traced(torch.Tensor):
        sources: frozenset[str]

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **(kwargs or {}))
            sources = frozenset(cls._sources([args, list((kwargs or {}).values())]))
            return cls._wrapped(result, sources)

        @classmethod
        def _sources(cls, value: Any) -> Iterator[str]:
            if isinstance(value, Traced):
                yield from getattr(value, "sources", ())
            elif isinstance(value, list | tuple):
                for inner in value:
                    yield from cls._sources(inner)

        @classmethod
        def _wrapped(cls, value: Any, sources: frozenset[str]) -> Any:
            if isinstance(value, torch.Tensor):
                made = value.as_subclass(Traced)
                made.sources = sources
                return made
            if type(value) in (list, tuple):
                return type(value)(cls._wrapped(inner, sources) for inner in value)
            return value

        @staticmethod
        def of(name: str, shape: tuple[int, ...]) -> Traced:
            made = torch.empty(shape, device="meta").as_subclass(Traced)
            made.sources = frozenset((name,))
            return made

    return Traced


class _Matching:
    """Parts of one file for the pipeline of one base."""

    def __init__(
        self, model: ModelFiles, header: Header, base: ModelFiles, classes: Mapping[str, type]
    ) -> None:
        self._model, self._header, self._base = model, header, base
        self._classes = classes
        self._traced = _traced()
        self._skeletons: dict[str, _Skeleton] = {}

    def network(self, component: str, group: Mapping[str, str]) -> Part:
        found = self._best(component, group, self._network_ways(component, group))
        return self._required(component, "network", found)

    def vae(self, group: Mapping[str, str]) -> Part:
        convert = self._converter("vae")
        ways: list[tuple[Mapping[str, str], Convert]] = [(group, _same)]
        if convert is not None:
            ways.append((group, convert))
        return self._required("vae", "VAE", self._best("vae", group, ways))

    def text_encoder(self, title: str, group: Mapping[str, str], taken: set[str]) -> Part:
        best: tuple[str, _Fit] | None = None
        for component in self._classes:
            if not component.startswith("text_encoder") or component in taken:
                continue
            found = self._best(component, group, self._text_ways(component, group))
            if best is None or found.faults < best[1].faults:
                best = component, found
            if not found.faults:
                break
        what = f"text encoder {one_line(title, 40)}"
        if best is None:
            raise GenerationError(
                f"{self._who()} with {what}, and the pipeline of its base {self._base.ref} "
                "has none",
                hint=_BASE_HINT,
            )
        return self._required(best[0], what, best[1])

    def _network_ways(
        self, component: str, group: Mapping[str, str]
    ) -> Iterator[tuple[Mapping[str, str], Convert]]:
        yield group, _same
        convert = self._converter(component)
        if convert is not None:
            # The UNet's converter looks for the prefix, some of the transformers' fail at it.
            prefix = _LDM if component == "unet" else ""
            yield {prefix + ours: name for ours, name in group.items()}, convert

    def _text_ways(
        self, component: str, group: Mapping[str, str]
    ) -> Iterator[tuple[Mapping[str, str], Convert]]:
        skeleton = self._skeleton(component)
        plain = {ours.removeprefix("transformer."): name for ours, name in group.items()}
        projection = partial(_with_projection, shapes=skeleton.shapes)
        yield plain, partial(_renamed, shapes=skeleton.shapes, then=projection)
        if any(name.startswith("model.transformer.resblocks.") for name in group):
            from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

            # As the first releases of Stable Diffusion 2 call it, whose last layer is not used.
            prefix = "cond_stage_model.model."
            if not any(name.startswith("cond_stage_model") for name in group.values()):
                prefix = "conditioner.embedders.1.model."
            named = {prefix + ours.removeprefix("model."): name for ours, name in group.items()}

            def convert(state: State) -> Mapping[str, Any]:
                made = convert_open_clip_checkpoint(skeleton.module, state, prefix=prefix)
                return _renamed(made, shapes=skeleton.shapes)

            yield named, convert

    def _converter(self, component: str) -> Convert | None:
        """diffusers' own from the names of the first releases; None where it has none."""
        functions = _single_file_functions(self._classes[component])
        if functions is None:
            return None
        config = dict(self._skeleton(component).module.config)
        convert = functions["checkpoint_mapping_fn"]
        return lambda state: convert(checkpoint=state, config=config)

    def _best(
        self,
        component: str,
        group: Mapping[str, str],
        ways: Iterable[tuple[Mapping[str, str], Convert]],
    ) -> _Fit:
        best: _Fit | None = None
        for names, convert in ways:
            found = self._fit(component, names, convert)
            if best is None or found.faults < best.faults:
                best = found
            if not best.faults:
                break
        assert best is not None
        return best

    def _fit(self, component: str, names: Mapping[str, str], convert: Convert) -> _Fit:
        skeleton = self._skeleton(component)
        tensors = self._header.tensors
        state = {ours: self._traced.of(name, tensors[name].shape) for ours, name in names.items()}
        try:
            made = convert(state)
        except Exception as error:  # converters take for granted that all is there
            words = one_line(f"{type(error).__name__}: {error}", 120)
            return _Fit(None, error=words, expected=len(skeleton.shapes))
        expected: set[str] = set()
        missing: list[str] = []
        reshaped: list[str] = []
        read: set[str] = set()
        for name, shape in skeleton.shapes.items():
            value = made.get(name)
            if value is None:
                twin = skeleton.shared.get(name)
                if twin is None or made.get(twin) is None:
                    missing.append(name)
                continue
            expected.add(name)
            read.update(getattr(value, "sources", ()))
            if tuple(value.shape) != shape:
                reshaped.append(f"{name} {list(value.shape)} for {list(shape)}")
        reshaped += [
            f"{name} in {tensors[name].dtype}"
            for name in names.values()
            if name in read
            and tensors[name].dtype in _NO_FLOATS
            and not name.endswith("num_batches_tracked")
        ]
        unread = [
            name
            for ours, name in names.items()
            if name not in read and not self._may_stay(component, ours)
        ]
        part = None
        if not missing and not reshaped:
            part = Part(
                component,
                self._classes[component],
                {ours: name for ours, name in names.items() if name in read},
                convert,
                frozenset(expected),
                _matrices(skeleton.module),
            )
        return _Fit(
            part, tuple(missing), tuple(reshaped), tuple(unread), expected=len(skeleton.shapes)
        )

    def _may_stay(self, component: str, ours: str) -> bool:
        """Whether a tensor of this name is known to be read by nobody."""
        name = ours.removeprefix(_LDM)
        if not component.startswith("text_encoder"):
            return _LEFT_OUT.fullmatch(name) is not None
        layer = _LAYER.search(name)
        config = self._skeleton(component).module.config
        most = getattr(config, "num_hidden_layers", None) or getattr(config, "num_layers", None)
        if layer is not None and isinstance(most, int) and int(layer[1][:6]) >= most:
            return True  # Stable Diffusion 2 stops one layer before the end
        return re.search(r"text_projection(?:\.weight)?$", name) is not None

    def _skeleton(self, component: str) -> _Skeleton:
        if component not in self._skeletons:
            self._skeletons[component] = _skeleton(
                self._model, self._base, component, self._classes[component]
            )
        return self._skeletons[component]

    def _who(self) -> str:
        return f"{self._model.ref} is {identify(self._header).title}"

    def _required(self, component: str, what: str, found: _Fit) -> Part:
        if found.part is not None and not found.unread:
            return found.part
        faults: list[str] = []
        if found.error is not None:
            faults.append(f"its names cannot be converted ({found.error})")
        if found.missing:
            faults.append(
                f"{len(found.missing):,} of {found.expected:,} tensors missing "
                f"({_listed(found.missing)})"
            )
        if found.reshaped:
            faults.append(
                f"{_counted(found.reshaped)} of another shape or type ({_listed(found.reshaped)})"
            )
        if found.unread:
            faults.append(f"{_counted(found.unread)} of no layer of it ({_listed(found.unread)})")
        raise GenerationError(
            f"{self._who()}, whose {what} does not fit the {component} "
            f"({self._classes[component].__name__}) of its base {self._base.ref}: "
            + "; ".join(faults),
            hint=_BASE_HINT,
        )


def _skeleton(model: ModelFiles, base: ModelFiles, component: str, kind: Any) -> _Skeleton:
    """The module that the base's configuration describes, without memory for its weights."""
    import diffusers
    from accelerate import init_empty_weights

    try:
        with init_empty_weights():
            if issubclass(kind, diffusers.ModelMixin):
                config = kind.load_config(
                    str(base.path), subfolder=component, local_files_only=True
                )
                module = kind.from_config(config)
            else:
                module = kind(
                    kind.config_class.from_pretrained(
                        str(base.path), subfolder=component, local_files_only=True
                    )
                )
    except Exception as error:
        raise GenerationError(
            f"{model.ref}: the configuration of {component} of its base {base.ref} cannot be read: "
            f"{one_line(str(error), 200)}",
            hint="name another base model: --base REPO",
        ) from error
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    # Without memory no two names share a parameter yet; a file holds one of them, or both.
    tied = getattr(module, "_tied_weights_keys", None)
    # Before transformers 5, a list of those that have the others' values: of T5, as it is, one.
    pairs = tied.items() if isinstance(tied, dict) else [(it, "shared.weight") for it in tied or ()]
    shared = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    return _Skeleton(module, shapes, shared)


def loads_single_files(kind: type) -> bool:
    """Whether diffusers loads a class from a single file; others are loaded by their own names."""
    return _single_file_functions(kind) is not None


def _single_file_functions(kind: type) -> Mapping[str, Any] | None:
    import diffusers
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    for name, functions in SINGLE_FILE_LOADABLE_CLASSES.items():
        known = getattr(diffusers, name, None)
        if isinstance(known, type) and issubclass(kind, known):
            return dict(functions)
    return None


def _matrices(module: Any) -> frozenset[str]:
    """The weights of linear layers, which diffusers multiplies as GGUF packs them; none of a class
    that it does not load from such files."""
    import torch

    if not loads_single_files(type(module)):
        return frozenset()
    return frozenset(
        f"{name}.weight"
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    )


def _same(state: State) -> Mapping[str, Any]:
    return state


def _renamed(
    state: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    then: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Mapping[str, Any]:
    """``state`` under the names of this version of transformers, whose beginnings differ."""

    def turned(old: str, new: str) -> dict[str, Any]:
        return {
            new + name.removeprefix(old) if name not in shapes else name: value
            for name, value in state.items()
        }

    made = max(
        (turned(old, new) for old, new in _RENAMINGS),
        key=lambda turned: sum(name in shapes for name in turned),
    )
    return made if then is None else then(made)


def _with_projection(
    state: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """CLIP-L of Stable Diffusion 3 has no projection in its file, where programs take none."""
    import torch

    name = "text_projection.weight"
    square = shapes.get(name)
    if square is not None and name not in state and square[0] == square[1]:
        state[name] = torch.eye(square[0])
    return state


def _counted(names: Collection[str]) -> str:
    return f"{len(names):,} {'tensor' if len(names) == 1 else 'tensors'}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(one_line(name, 90) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown
