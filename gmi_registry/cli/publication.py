"""What ``gmi publish`` prints of what it did, or would do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gmi_registry.cli.screen import remark, write_line, write_pairs

if TYPE_CHECKING:
    from gmi_registry.model import BaseOrigin
    from gmi_registry.publish import Plan, Publication
    from gmi_registry.spec import GenerationRecipe

__all__ = ["base_words", "publication_document", "recipe_words", "write_publication"]


def write_publication(done: Publication, *, dry_run: bool = False) -> None:
    """Say what was done: on stdout where it is, on stderr what it took.

    Of a dry run the whole plan, also where there is nothing to do.
    """
    if dry_run:
        write_pairs(_described(done.plan))
        if done.outcome == "up to date":
            remark("up to date: there is nothing to do; --force publishes anyway")
        elif done.outcome == "already proposed":
            remark(f"proposed already, so there is nothing to do: {done.where}")
        else:
            remark("nothing was written; leave out --dry-run to publish")
    elif done.outcome == "up to date":
        write_line(f"{done.ref} is up to date: {done.where}")
        remark("the same weights, prompts, settings and encoder; --force publishes anyway")
    elif done.outcome == "already proposed":
        write_line(f"{done.ref} is proposed already: {done.where}")
        remark("your open pull request has the same; --force makes it again")
    else:
        # Hugging Face calls the page of a pull request that.
        proposed = "/discussions/" in done.where
        write_line(f"{done.ref} is {'proposed' if proposed else 'published'}: {done.where}")
        kept = f", {done.plan.images_kept} taken over" if done.plan.images_kept else ""
        if done.plan.reuses_images:
            remark("only the description had changed; the images are described as before")
            return
        remark(
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
