"""``gmi publish``: describe a model and put the description beside it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.folder import cache_folder, work_folder
from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import AsJson, CacheDir, HubText, Quiet, Verbose, say_more
from gmi_registry.cli.place import find_model, open_hub
from gmi_registry.cli.progress import StageProgress
from gmi_registry.cli.screen import remark, write_json, write_line, write_pairs

if TYPE_CHECKING:
    from gmi_registry.publish import Plan, Publication

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
        str, typer.Argument(metavar="MODEL", help="Its name on the hub, or local:NAME.")
    ],
    hub: HubText,
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
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images at a time.", show_default=False)
    ] = None,
    dtype: Annotated[
        DtypeChoice | None,
        typer.Option("--dtype", help="Precision of the computation.", show_default=False),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Where to compute, such as cpu or cuda.", show_default=False),
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
        bool, typer.Option("--keep-images", help="Do not remove them then.")
    ] = False,
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
    cache = cache_folder(cache_dir)
    opened = open_hub(hub, cache)
    ref = find_model(model, opened)

    from gmi_registry.generation import RecipeOverrides
    from gmi_registry.publish import publish as publish_model

    overrides = RecipeOverrides(
        steps=steps,
        guidance_scale=guidance,
        seeds=chosen_seeds,
        width=width,
        height=height,
        negative_prompt=negative_prompt,
        lora_scale=lora_scale,
        trigger_words=tuple(trigger_word) if trigger_word else None,
        batch_size=batch_size,
        dtype=None if dtype is None else dtype.value,
    )
    with StageProgress(_STAGES, quiet=quiet) as progress:
        publication = publish_model(
            ref,
            opened,
            work=work_folder(work, cache),
            prompts=own_prompts,
            overrides=overrides,
            output=output,
            dry_run=dry_run,
            force=force,
            keep_images=keep_images,
            device=device,
            progress=progress,
        )
    for warning in publication.plan.warnings:
        remark(f"warning: {warning}")
    if as_json:
        write_json(_document(publication))
    elif quiet:
        write_line(str(publication.ref))
    else:
        _write(publication)


def _write(done: Publication) -> None:
    if done.outcome == "planned":
        write_pairs(_described(done.plan))
        remark("nothing was written; leave out --dry-run to publish")
    elif done.outcome == "up to date":
        write_line(f"{done.ref} is up to date: {done.where}")
        remark("the same weights, prompts, settings and encoder; --force publishes anyway")
    else:
        write_line(f"{done.ref} is published: {done.where}")
        kept = f", {done.plan.images_kept} taken over" if done.plan.images_kept else ""
        if done.plan.reuses_images:
            remark("only the model card had changed; the images are described as before")
            return
        remark(
            f"{done.images} images generated{kept} in {done.seconds:.1f} s, "
            f"digest {(done.spec_digest or '')[:12]}"
        )


def _described(plan: Plan) -> list[tuple[str, str]]:
    recipe = plan.recipe
    return [
        ("model", str(plan.ref)),
        ("title", plan.title),
        ("kind", plan.kind),
        *(
            ("prompts" if position == 0 else "own prompts", f"{block.name}: {len(block)} prompts")
            for position, block in enumerate(plan.prompt_sets)
        ),
        ("images", _images(plan)),
        (
            "drawn with",
            f"{recipe.sampler.name}, {recipe.steps} steps, guidance {recipe.guidance_scale:g}, "
            f"{recipe.width} x {recipe.height}, {len(recipe.seeds)} seeds",
        ),
        ("encoder", f"{plan.encoder.name}/{plan.encoder.pretrained}"),
        *(
            ("writes", f"{file.path}, {'' if file.exact else 'about '}{file.size:,} bytes")
            for file in plan.files
        ),
        ("to", plan.target),
        ("replaces", plan.previous or "nothing"),
        ("work space", f"{plan.scratch:,} bytes"),
    ]


def _images(plan: Plan) -> str:
    if plan.reuses_images:
        return f"{plan.images}, described already; only the model card has changed"
    return f"{plan.images}, of which {plan.images_kept} are done already"


def _document(done: Publication) -> dict[str, Any]:
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
            "previous": plan.previous,
            "warnings": list(plan.warnings),
        },
    }
