"""What two specifications must share before any distance may be compared between them."""

from __future__ import annotations

from dataclasses import dataclass

from gmi_registry.spec import Manifest

__all__ = ["ComparabilityKey"]


@dataclass(frozen=True, slots=True, order=True)
class ComparabilityKey:
    """Encoder, default prompt set, kernel, and how many images answer each prompt.

    The last is part of it because Eq. 9 holds the diagonal of the Gram matrix: with more images of
    the same model every distance shrinks, and a ranking would reward the longer specification.
    A developer's own prompt sets, which follow the default one, have no part in it.
    """

    encoder_id: str
    prompt_set_id: str
    kernel: str
    gamma: float
    images_per_prompt: int

    @classmethod
    def of(cls, manifest: Manifest) -> ComparabilityKey:
        """The key of the default prompt set of a specification."""
        return cls(
            encoder_id=manifest.encoder.id,
            prompt_set_id=manifest.prompt_sets[0].id,
            kernel=manifest.kernel.name,
            gamma=manifest.kernel.gamma,
            images_per_prompt=len(manifest.generation.recipe.seeds),
        )

    def __str__(self) -> str:
        """Short and stable, for JSON and tables."""
        return (
            f"{self.encoder_id[:8]}/{self.prompt_set_id[:8]}/{self.kernel}:{self.gamma:g}"
            f"/x{self.images_per_prompt}"
        )
