"""``gmi publish``: describe a model, put the description beside it, and say what was done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import (
    AccessOptions,
    Device,
    OutputOptions,
    WorkDir,
    command,
    new_app,
    show_log,
    work_folder,
)
from gmi_registry.cli.output import (
    StageProgress,
    announce_waits,
    fields_of,
    without_future_warnings,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.hubs.open import DEFAULT_HUB, find_model, hub_named_in

if TYPE_CHECKING:
    from gmi_registry.generation import RecipeOverrides
    from gmi_registry.generation.specification import Plan
    from gmi_registry.model import BaseOrigin
    from gmi_registry.publish import Publication
    from gmi_registry.spec import GenerationRecipe

_STAGES = {
    "check": "checking",
    "generate": "generating images",
    "encode": "encoding images",
    "write": "writing",
}


class Target(StrEnum):
    """Where a specification goes."""

    MODEL = "model"
    REGISTRY = "registry"


class DtypeChoice(StrEnum):
    """The precisions, as in ``GenerationRecipe.dtype``."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class OffloadChoice(StrEnum):
    """How much of a pipeline is on the GPU at a time: a network, or a layer."""

    MODEL = "model"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True)
class RecipeOptions:
    """How images are generated, where that is not left to the model.

    The fields are those of :class:`~gmi_registry.generation.RecipeOverrides`.
    """

    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='A scheduler in place of the model\'s own: "Euler a", "DPM++ 2M Karras", "LCM" '
            "and so on, or a class of diffusers.",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance", help="Guidance scale, of the kind that the pipeline reads."),
    ] = None
    true_cfg_scale: Annotated[
        float | None,
        typer.Option(
            help="Scale of classifier-free guidance, for models that use --guidance for "
            "something else (FLUX.1); "
            "above 1 it takes twice the time.",
        ),
    ] = None
    clip_skip: Annotated[
        int | None,
        typer.Option(
            metavar="LAYERS",
            help="Layers left out at the end of the CLIP text encoders: 1 is what other tools "
            "call CLIP skip 2.",
        ),
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="One image of each prompt for each seed."),
    ] = None
    width: Annotated[int | None, typer.Option(help="Width of an image in pixels.")] = None
    height: Annotated[int | None, typer.Option(help="Height of an image in pixels.")] = None
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the images should not show.")
    ] = None
    lora_scale: Annotated[float | None, typer.Option(help="Strength of a LoRA.")] = None
    trigger_words: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger-word",
            metavar="WORD",
            help="A word to put before every prompt, instead of the model card's; may be repeated.",
        ),
    ] = None
    prompt_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='Words around every prompt, as in "{prompt}, pixel art"; instead of the card\'s.',
        ),
    ] = None
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None
    dtype: Annotated[DtypeChoice | None, typer.Option(help="Precision of the computation.")] = None

    def seed_numbers(self) -> tuple[int, ...] | None:
        """``seeds`` as numbers. Raises typer.BadParameter."""
        try:
            return None if self.seeds is None else tuple(map(int, self.seeds.split(",")))
        except ValueError:
            raise typer.BadParameter(
                f"{self.seeds!r}: write whole numbers with commas between, such as 0,1,2",
                param_hint="--seeds",
            ) from None

    def overrides(self) -> RecipeOverrides:
        """The same for the package."""
        from gmi_registry.generation import RecipeOverrides

        chosen: dict[str, Any] = vars(self) | {
            "seeds": self.seed_numbers(),
            "trigger_words": tuple(self.trigger_words) if self.trigger_words else None,
            "dtype": None if self.dtype is None else self.dtype.value,
        }
        return RecipeOverrides(**chosen)


app = new_app()


@command(
    app,
    interrupted="interrupted: the images so far are kept; run the same command again to continue",
)
def publish(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Its name on the hub, such as owner/name; owner/name/FILE.safetensors for one "
            "of several files, or a pattern that fits one (quoted); on Civitai "
            "civitai:MODEL@VERSION, an AIR, the page's address, or a weights file on this disk.",
        ),
    ],
    hub: Annotated[
        str | None,
        typer.Option(
            metavar="HUB",
            envvar="GMI_HUB",
            help="The hub: hf for Hugging Face, civitai, or a folder that holds models; else the "
            "one that MODEL names, else hf.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="REV",
            help="The commit, branch or tag to describe. The specification of a branch goes to "
            "that branch, and that of a commit to main; so does that of a tag, with --create-pr.",
        ),
    ] = None,
    to: Annotated[
        Target,
        typer.Option(
            help="Put it beside the model, or, where you cannot write to the model, in the "
            "registry.",
        ),
    ] = Target.MODEL,
    create_pr: Annotated[
        bool | None,
        typer.Option(
            "--create-pr/--no-create-pr",
            help="Open a pull request, or commit; by default a pull request in the registry, and "
            "a commit elsewhere.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="REPO",
            help="The base model that a LoRA, a textual inversion or a single file was made for, "
            "such as owner/name or owner/name@REV on Hugging Face, or the name of a model in the "
            "same local hub; instead of what its card and its file say.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Your own prompts, one a line, in addition to the default ones."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the files to DIR/gmi, and write nothing to the hub."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, and write nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Publish even if the same specification is there already."),
    ] = False,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Describe a LoRA although its base has no place for some of its tensors; the "
            "specification says how many are applied.",
        ),
    ] = False,
    *,
    recipe: RecipeOptions,
    device: Device = None,
    offload: Annotated[
        OffloadChoice | None,
        typer.Option(
            help="For a GPU with little memory: keep the weights in the machine's memory, and on "
            "the GPU only the network (model) or the layer (sequential) that computes.",
        ),
    ] = None,
    work: WorkDir = None,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the images when the work is done.")
    ] = False,
    access: AccessOptions,
    show: OutputOptions,
) -> None:
    """Describe a model by the images that it generates.

    The description goes beside the model, where searches find it. What can be checked is checked
    before the first image is generated.
    """
    recipe.seed_numbers()
    show_log(show.verbose)
    from gmi_registry.spec import PromptSet

    # The quickest check first: the imports below take seconds.
    own_prompts = None if prompts is None else PromptSet.from_file(prompts)
    with (
        access.opened(hub or hub_named_in(model) or DEFAULT_HUB) as opened,
        without_future_warnings(),
    ):
        ref = find_model(model, opened, revision)
        if not show.quiet and not show.verbose:  # the log says the same
            announce_waits(opened)
        from gmi_registry.api import publish as publish_model

        with StageProgress(_STAGES, quiet=show.quiet) as progress:
            done = publish_model(
                ref,
                opened,
                work=work_folder(work, access.cache),
                prompts=own_prompts,
                base=base,
                overrides=recipe.overrides(),
                output=output,
                dry_run=dry_run,
                force=force,
                allow_partial=allow_partial,
                create_pr=create_pr,
                to_registry=to is Target.REGISTRY,
                token=access.token,
                registry=access.registry,
                cache_dir=access.cache_dir,
                keep_images=keep_images,
                device=device,
                offload=None if offload is None else offload.value,
                progress=progress,
            )
        snippet = _snippet(opened, done)
    for warning in done.plan.warnings:
        write_message(f"warning: {warning}")
    if show.as_json:
        write_json(_document(done) | {"snippet": snippet})
    elif show.quiet:
        write_line(str(done.ref))
    else:
        write_publication(done, dry_run=dry_run)
        if snippet is not None:
            write_message("for the model's description, so that people know what was described:")
            for line in snippet.splitlines():
                write_line(line)


def _snippet(hub: object, done: Publication) -> str | None:
    """What to put into the description of a model on a hub that cannot hold specifications."""
    from gmi_registry.hubs.protocol import Describes

    undone = done.outcome in ("planned", "already proposed")
    if not isinstance(hub, Describes) or undone or done.spec_digest is None:
        return None
    return hub.snippet(done.ref, done.spec_digest, done.where)


def _document(done: Publication) -> dict[str, Any]:
    plan = done.plan
    return {
        "model": done.ref,
        "outcome": done.outcome,
        "digest": done.spec_digest,
        "where": done.where,
        "images": done.images,
        "seconds": round(done.seconds, 3),
        "plan": {
            "title": plan.title,
            "kind": plan.kind,
            "prompt_sets": [
                {"id": block.id, "name": block.name, "prompts": len(block)}
                for block in plan.prompt_sets
            ],
            **fields_of(plan, "recipe encoder images images_kept reuses_images files scratch"),
            **fields_of(plan, "target destination proposal up_to_date"),
            "base_model": plan.base,
            **fields_of(plan, "base_origin device origins downloads seconds previous warnings"),
        },
    }


def write_publication(done: Publication, *, dry_run: bool = False) -> None:
    """Say what was done: on stdout where it is, on stderr what it took.

    Of a dry run the whole plan, also where there is nothing to do.
    """
    if dry_run:
        write_pairs(_described(done.plan))
        if done.outcome == "up to date":
            write_message("up to date: there is nothing to do; --force publishes anyway")
        elif done.outcome == "already proposed":
            write_message(f"proposed already, so there is nothing to do: {done.where}")
        else:
            write_message("nothing was written; leave out --dry-run to publish")
    elif done.outcome == "up to date":
        write_line(f"{done.ref} is up to date: {done.where}")
        write_message("the same weights, prompts, settings and encoder; --force publishes anyway")
    elif done.outcome == "already proposed":
        write_line(f"{done.ref} is proposed already: {done.where}")
        write_message("your open pull request has the same; --force makes it again")
    else:
        # Hugging Face calls the page of a pull request that.
        proposed = "/discussions/" in done.where
        write_line(f"{done.ref} is {'proposed' if proposed else 'published'}: {done.where}")
        kept = f", {done.plan.images_kept} kept from before" if done.plan.images_kept else ""
        if done.plan.reuses_images:
            write_message("only the description had changed; no image was generated")
            return
        write_message(
            f"{_counted(done.images, 'image')} generated{kept} in {done.seconds:.1f} s, "
            f"digest {(done.spec_digest or '')[:12]}"
        )


def _described(plan: Plan) -> list[tuple[str, str]]:
    recipe = plan.recipe
    return [
        ("model", str(plan.ref)),
        ("title", plan.title),
        ("kind", plan.kind),
        *(() if plan.base is None else [("base model", base_words(plan.base, plan.base_origin))]),
        *(
            (
                "prompts" if position == 0 else "own prompts",
                f"{block.name}: {_counted(len(block), 'prompt')}",
            )
            for position, block in enumerate(plan.prompt_sets)
        ),
        ("images", _images(plan)),
        ("time", _time(plan)),
        (
            "generated with",
            f"{recipe_words(recipe)}, {_counted(len(recipe.seeds), 'seed')}, on {plan.device}",
        ),
        *((f"  {label}", f"{value} ({origin})") for label, value, origin in _settings(plan)),
        ("encoder", f"{plan.encoder.name}/{plan.encoder.pretrained}"),
        *(("fetched", f"{item.what} {item.name}, {item.size:,} bytes") for item in plan.downloads),
        *(
            ("writes", f"{file.path}, {'' if file.exact else 'about '}{file.size:,} bytes")
            for file in plan.files
        ),
        ("to", plan.destination or plan.target),
        ("replaces", plan.previous or "nothing"),
        ("work space", f"{plan.scratch:,} bytes"),
    ]


_ORIGINS = {
    "option": "named by --base",
    "card": "named by its author",
    "metadata": "by the metadata in its file",
    "architecture": "a guess: the usual base of such networks",
}


def base_words(name: object, origin: BaseOrigin | None) -> str:
    """A base model, and who named it."""
    return str(name) if origin is None else f"{name} ({_ORIGINS[origin]})"


_SETTINGS = (
    ("steps", "steps"),
    ("guidance", "guidance_scale"),
    ("true CFG", "true_cfg_scale"),
    ("CLIP skip", "clip_skip"),
    ("width", "width"),
    ("height", "height"),
    ("seeds", "seeds"),
    ("negative prompt", "negative_prompt"),
    ("trigger words", "trigger_words"),
    ("template", "prompt_template"),
    ("LoRA scale", "lora_scale"),
    ("LoRA tensors", "lora_partial"),
    ("batch size", "batch_size"),
    ("dtype", "dtype"),
    ("VAE dtype", "vae_dtype"),
    ("VAE tiling", "vae_tiling"),
    ("scheduler", "sampler"),
)


def _settings(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Label, value and origin of each setting that has a value."""
    for label, name in _SETTINGS:
        value, origin = getattr(plan.recipe, name), plan.origins.get(name)
        if origin is None or value in (None, "", ()):
            continue
        yield label, _setting(value), origin


def _setting(value: object) -> str:
    from gmi_registry.spec import LoraPartial, Sampler

    if isinstance(value, Sampler):
        config = value.config
        marks = [name for name, on in config.items() if name.startswith("use_") and on is True]
        marks += ["trailing"] if config.get("timestep_spacing") == "trailing" else []
        predicts = config.get("prediction_type")
        marks += [str(predicts)] if predicts not in (None, "epsilon") else []
        return value.name + (f" ({', '.join(marks)})" if marks else "")
    if isinstance(value, LoraPartial):
        return f"{value.applied} of {value.tensors}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def recipe_words(recipe: GenerationRecipe) -> str:
    """Scheduler, steps, scales of guidance and size of a recipe, for people."""
    scales = [
        f"{name} {scale:g}"
        for name, scale in (
            ("guidance", recipe.guidance_scale),
            ("true CFG", recipe.true_cfg_scale),
        )
        if scale is not None
    ]
    return (
        f"{recipe.sampler.name}, {_counted(recipe.steps, 'step')}, "
        f"{', '.join(scales) or 'no guidance'}, {recipe.width} x {recipe.height}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _images(plan: Plan) -> str:
    if plan.up_to_date or plan.proposal is not None:
        return f"{plan.images}, described already"
    if plan.reuses_images:
        return f"{plan.images}, described already; only the description has changed"
    return f"{plan.images}; {plan.images_kept} are done already"


def _time(plan: Plan) -> str:
    if plan.images_kept == plan.images:
        return "none: nothing is left to generate"
    if plan.seconds is None:
        return "not known before some images are done"
    return f"about {plan.seconds:,.0f} s, by the images that are done"
