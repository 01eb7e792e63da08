"""``gmi publish``: describe a model and put the description beside it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmi_registry.cli.folder import cache_folder, work_folder
from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import (
    AsJson,
    CacheDir,
    CivitaiToken,
    Device,
    Quiet,
    RegistryText,
    Token,
    Verbose,
    say_more,
)
from gmi_registry.cli.progress import StageProgress
from gmi_registry.cli.publication import publication_document, write_publication
from gmi_registry.cli.screen import remark, write_json, write_line
from gmi_registry.cli.silence import without_future_warnings
from gmi_registry.cli.traffic import announce_waits
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import DEFAULT_HUB, opened_hub
from gmi_registry.hubs.resolve import find_model, hub_named_in

if TYPE_CHECKING:
    from gmi_registry.publish import Publication

__all__ = ["DtypeChoice", "Target", "publish"]

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


@funnel(interrupted=_AGAIN)
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
    say_more(verbose)
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
        remark(f"warning: {warning}")
    if as_json:
        write_json(publication_document(publication) | {"snippet": snippet})
    elif quiet:
        write_line(str(publication.ref))
    else:
        write_publication(publication, dry_run=dry_run)
        if snippet is not None:
            remark("for the model's description, so that people know what was described:")
            for line in snippet.splitlines():
                write_line(line)


def _snippet(hub: object, done: Publication) -> str | None:
    """What to put into the description of a model whose hub keeps no files of ours."""
    from gmi_registry.hubs.protocol import Describes

    undone = done.outcome in ("planned", "already proposed")
    if not isinstance(hub, Describes) or undone or done.spec_digest is None:
        return None
    return hub.snippet(done.ref, done.spec_digest, done.where)
