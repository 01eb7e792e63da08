"""``gmi publish``: describe a model, put the description beside it, and say what was done."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.options import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    cache_folder,
    show_log,
    work_folder,
)
from gmi_registry.cli.output import (
    StageProgress,
    handle_errors,
    without_future_warnings,
    write_json,
    write_line,
    write_message,
    write_pairs,
)
from gmi_registry.cli.traffic import announce_waits
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import DEFAULT_HUB, opened_hub
from gmi_registry.hubs.resolve import find_model, hub_named_in

if TYPE_CHECKING:
    from gmi_registry.generation.plan import Plan
    from gmi_registry.model import BaseOrigin
    from gmi_registry.publish import Publication
    from gmi_registry.spec import GenerationRecipe


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
        kept = f", {done.plan.images_kept} taken over" if done.plan.images_kept else ""
        if done.plan.reuses_images:
            write_message("only the description had changed; the images are described as before")
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
    return f"{plan.images}, of which {plan.images_kept} are done already"


def _time(plan: Plan) -> str:
    if plan.images_kept == plan.images:
        return "none: nothing is left to generate"
    if plan.seconds is None:
        return "not known before some images are done"
    return f"about {plan.seconds:,.0f} s, by the images that are done"


def publication_document(done: Publication) -> dict[str, Any]:
    """What ``gmi publish --json`` prints."""
    plan = done.plan
    return {
        "model": str(done.ref),
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
            "recipe": plan.recipe.model_dump(mode="json"),
            "encoder": plan.encoder.model_dump(mode="json"),
            "images": plan.images,
            "images_kept": plan.images_kept,
            "reuses_images": plan.reuses_images,
            "files": [
                {"path": file.path, "size": file.size, "exact": file.exact} for file in plan.files
            ],
            "scratch": plan.scratch,
            "target": plan.target,
            "destination": plan.destination,
            "proposal": plan.proposal,
            "up_to_date": plan.up_to_date,
            "base_model": None if plan.base is None else str(plan.base),
            "base_origin": plan.base_origin,
            "device": plan.device,
            "origins": dict(plan.origins),
            "downloads": [
                {"what": item.what, "name": item.name, "size": item.size} for item in plan.downloads
            ],
            "seconds": plan.seconds,
            "previous": plan.previous,
            "warnings": list(plan.warnings),
        },
    }


_STAGES = {
    "check": "checking",
    "generate": "generating images",
    "encode": "encoding images",
    "write": "writing",
}
_AGAIN = "interrupted: the images so far are kept, run the same command again to go on from them"


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
    """What of a pipeline lies on the GPU at a time: a network, or a layer."""

    MODEL = "model"
    SEQUENTIAL = "sequential"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write whole numbers with commas between, such as 0,1,2",
            param_hint="--seeds",
        ) from None


@handle_errors(interrupted=_AGAIN)
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
            "--hub",
            metavar="HUB",
            envvar="GMI_HUB",
            help="The hub: hf for Hugging Face, civitai, or a folder that holds models; else the "
            "one that MODEL names, else hf.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REV",
            help="The commit, branch or tag to describe. A branch gets the specification itself; "
            "main gets that of a commit, and with --create-pr that of a tag.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Target,
        typer.Option(
            "--to",
            help="Put it beside the model, or, where that is somebody else's, in the registry.",
        ),
    ] = Target.MODEL,
    create_pr: Annotated[
        bool | None,
        typer.Option(
            "--create-pr/--no-create-pr",
            help="Open a pull request, or commit; by default a pull request in the registry, and "
            "a commit elsewhere.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="REPO",
            help="The base model that a LoRA, a textual inversion or a single file was made for, "
            "such as owner/name or owner/name@REV on Hugging Face, or the name of a model in the "
            "same local hub; instead of what its card and its file say.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Your own prompts, one a line, besides the default ones.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Write the files to DIR/gmi and leave the hub alone.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, write nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even what is published already, unchanged.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Denoising steps.", show_default=False)
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="NAME",
            help='A scheduler in place of the model\'s own: "Euler a", "DPM++ 2M Karras", "LCM" '
            "and so on, or a class of diffusers.",
            show_default=False,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            help="Guidance scale, of the kind that the pipeline reads.",
            show_default=False,
        ),
    ] = None,
    true_cfg_scale: Annotated[
        float | None,
        typer.Option(
            "--true-cfg-scale",
            help="Scale of classifier-free guidance where --guidance is something else (FLUX.1); "
            "above 1 it takes twice the time.",
            show_default=False,
        ),
    ] = None,
    clip_skip: Annotated[
        int | None,
        typer.Option(
            "--clip-skip",
            metavar="LAYERS",
            help="Layers left out at the end of the CLIP text encoders: 1 for what other tools "
            "call CLIP skip 2.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N,N",
            help="One image of each prompt for each seed.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", help="Width of an image in pixels.", show_default=False)
    ] = None,
    height: Annotated[
        int | None,
        typer.Option("--height", help="Height of an image in pixels.", show_default=False),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            "--negative-prompt",
            metavar="TEXT",
            help="What the images should not show.",
            show_default=False,
        ),
    ] = None,
    lora_scale: Annotated[
        float | None, typer.Option("--lora-scale", help="Strength of a LoRA.", show_default=False)
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Describe a LoRA although some of its tensors have no place in its base; the "
            "specification says how many are applied.",
        ),
    ] = False,
    trigger_word: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger-word",
            metavar="WORD",
            help="A word to put before every prompt, instead of the model card's; may be repeated.",
            show_default=False,
        ),
    ] = None,
    prompt_template: Annotated[
        str | None,
        typer.Option(
            "--prompt-template",
            metavar="TEXT",
            help='Words around every prompt, as in "{prompt}, pixel art"; instead of the card\'s.',
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images at a time.", show_default=False)
    ] = None,
    dtype: Annotated[
        DtypeChoice | None,
        typer.Option("--dtype", help="Precision of the computation.", show_default=False),
    ] = None,
    device: Device = None,
    offload: Annotated[
        OffloadChoice | None,
        typer.Option(
            "--offload",
            help="For a GPU with little memory: keep the weights in the machine's memory, and on "
            "the GPU only the network (model) or the layer (sequential) that computes.",
            show_default=False,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            metavar="DIR",
            help="Where images are kept until the work is done; else in the cache.",
            show_default=False,
        ),
    ] = None,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the images when the work is done.")
    ] = False,
    token: Token = None,
    registry: RegistryText = None,
    civitai_token: CivitaiToken = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Describe a model by the images that it generates.

    The description goes beside the model, where searches find it. What can be checked is checked
    before the first image is generated.
    """
    chosen_seeds = None if seeds is None else _seeds(seeds)
    show_log(verbose)
    from gmi_registry.spec import PromptSet

    # The quickest check first: the imports below take seconds.
    own_prompts = None if prompts is None else PromptSet.from_file(prompts)
    access = HubAccess(cache_dir, token, None, registry, civitai_token)
    opening = opened_hub(hub or hub_named_in(model) or DEFAULT_HUB, access)
    with opening as opened, without_future_warnings():
        ref = find_model(model, opened, revision)
        if not quiet and not verbose:  # which has the same from the log
            announce_waits(opened)
        from gmi_registry.api import publish as publish_model
        from gmi_registry.generation import RecipeOverrides

        overrides = RecipeOverrides(
            steps=steps,
            scheduler=scheduler,
            guidance_scale=guidance,
            true_cfg_scale=true_cfg_scale,
            clip_skip=clip_skip,
            seeds=chosen_seeds,
            width=width,
            height=height,
            negative_prompt=negative_prompt,
            lora_scale=lora_scale,
            trigger_words=tuple(trigger_word) if trigger_word else None,
            prompt_template=prompt_template,
            batch_size=batch_size,
            dtype=None if dtype is None else dtype.value,
        )
        with StageProgress(_STAGES, quiet=quiet) as progress:
            publication = publish_model(
                ref,
                opened,
                work=work_folder(work, cache_folder(cache_dir)),
                prompts=own_prompts,
                base=base,
                overrides=overrides,
                output=output,
                dry_run=dry_run,
                force=force,
                allow_partial=allow_partial,
                create_pr=create_pr,
                to_registry=to is Target.REGISTRY,
                token=token,
                registry=registry,
                cache_dir=cache_dir,
                keep_images=keep_images,
                device=device,
                offload=None if offload is None else offload.value,
                progress=progress,
            )
        snippet = _snippet(opened, publication)
    for warning in publication.plan.warnings:
        write_message(f"warning: {warning}")
    if as_json:
        write_json(publication_document(publication) | {"snippet": snippet})
    elif quiet:
        write_line(str(publication.ref))
    else:
        write_publication(publication, dry_run=dry_run)
        if snippet is not None:
            write_message("for the model's description, so that people know what was described:")
            for line in snippet.splitlines():
                write_line(line)


def _snippet(hub: object, done: Publication) -> str | None:
    """What to put into the description of a model whose hub keeps no files of ours."""
    from gmi_registry.hubs.protocol import Describes

    undone = done.outcome in ("planned", "already proposed")
    if not isinstance(hub, Describes) or undone or done.spec_digest is None:
        return None
    return hub.snippet(done.ref, done.spec_digest, done.where)
