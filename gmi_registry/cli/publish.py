"""``gmi publish``: describe a model and put the description beside it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gmi_registry.cli.folder import cache_folder, work_folder
from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import (
    AsJson,
    CacheDir,
    Device,
    HubText,
    Quiet,
    Token,
    Verbose,
    say_more,
)
from gmi_registry.cli.progress import StageProgress
from gmi_registry.cli.publication import publication_document, write_publication
from gmi_registry.cli.screen import remark, write_json, write_line
from gmi_registry.cli.silence import without_future_warnings
from gmi_registry.cli.traffic import announce_waits
from gmi_registry.place import DEFAULT_HUB, find_model, hub_at

__all__ = ["DtypeChoice", "publish"]

_STAGES = {
    "check": "checking",
    "generate": "generating images",
    "encode": "encoding images",
    "write": "writing",
}
_AGAIN = "interrupted: the images so far are kept, run the same command again to go on from them"


class DtypeChoice(StrEnum):
    """The precisions, as in ``GenerationRecipe.dtype``."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


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
            "of several files.",
        ),
    ],
    hub: HubText = DEFAULT_HUB,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REV",
            help="The commit, branch or tag to describe.",
            show_default=False,
        ),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose the change to the model's owner.")
    ] = False,
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
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Guidance scale.", show_default=False)
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
        int | None, typer.Option("--width", help="Pixels of an image.", show_default=False)
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", help="Likewise.", show_default=False)
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            "--negative-prompt", metavar="TEXT", help="What not to draw.", show_default=False
        ),
    ] = None,
    lora_scale: Annotated[
        float | None, typer.Option("--lora-scale", help="Strength of a LoRA.", show_default=False)
    ] = None,
    trigger_word: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger-word",
            metavar="WORD",
            help="Put before every prompt, instead of the model card's; may be repeated.",
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
        bool, typer.Option("--keep-images", help="Do not remove them then.")
    ] = False,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Describe a model by what it draws.

    The description goes beside the model, where searches find it. What can be checked is checked
    before the first image is generated.
    """
    chosen_seeds = None if seeds is None else _seeds(seeds)
    say_more(verbose)
    from gmi_registry.spec import PromptSet

    # The quickest check first: the imports below take seconds.
    own_prompts = None if prompts is None else PromptSet.from_file(prompts)
    with hub_at(hub, cache_dir=cache_dir, token=token) as opened, without_future_warnings():
        ref = find_model(model, opened, revision)
        if not quiet and not verbose:  # which has the same from the log
            announce_waits(opened)
        from gmi_registry.api import publish as publish_model
        from gmi_registry.generation import RecipeOverrides

        overrides = RecipeOverrides(
            steps=steps,
            guidance_scale=guidance,
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
                overrides=overrides,
                output=output,
                dry_run=dry_run,
                force=force,
                create_pr=create_pr,
                keep_images=keep_images,
                device=device,
                progress=progress,
            )
    for warning in publication.plan.warnings:
        remark(f"warning: {warning}")
    if as_json:
        write_json(publication_document(publication))
    elif quiet:
        write_line(str(publication.ref))
    else:
        write_publication(publication)
