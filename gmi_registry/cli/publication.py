"""What ``gmi publish`` prints of what it did, or would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmi_registry.cli.screen import remark, write_line, write_pairs

if TYPE_CHECKING:
    from gmi_registry.publish import Plan, Publication

__all__ = ["publication_document", "write_publication"]


def write_publication(done: Publication) -> None:
    """Say what was done: on stdout where it is, on stderr what it took."""
    if done.outcome == "planned":
        write_pairs(_described(done.plan))
        remark("nothing was written; leave out --dry-run to publish")
    elif done.outcome == "up to date":
        write_line(f"{done.ref} is up to date: {done.where}")
        remark("the same weights, prompts, settings and encoder; --force publishes anyway")
    else:
        # Hugging Face calls the page of a pull request that.
        proposed = "/discussions/" in done.where
        write_line(f"{done.ref} is {'proposed' if proposed else 'published'}: {done.where}")
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
            "previous": plan.previous,
            "warnings": list(plan.warnings),
        },
    }
