"""From a model on this disk to pictures, embeddings and a specification.

Importing this package loads neither torch nor diffusers; loading a model does.
"""

from gmi_registry.generation.builder import build_spec, describe, draft_spec, redescribe
from gmi_registry.generation.encoding import Encoding
from gmi_registry.generation.image_checks import FaultyImagesError, ImageChecks
from gmi_registry.generation.images import GeneratedImages, generate, images_kept, noise_seed
from gmi_registry.generation.journal import Journal
from gmi_registry.generation.limits import check_settings
from gmi_registry.generation.memory import (
    OutOfMemoryError,
    free_memory,
    release_pipeline,
    require_offload,
    tiling_helps,
)
from gmi_registry.generation.pipelines import (
    LoadedModel,
    Pipeline,
    check_model,
    default_device,
    load_model,
    load_pipeline,
    require_packages,
    require_pipeline,
)
from gmi_registry.generation.precision import dtypes_to_try
from gmi_registry.generation.preview import ContactSheet, contact_sheet, require_webp
from gmi_registry.generation.prompt_limits import check_prompts
from gmi_registry.generation.prompt_sets import (
    DEFAULT_PROMPT_SET,
    default_prompt_set,
    prompt_set_named,
    prompt_set_names,
)
from gmi_registry.generation.recipes import (
    RecipeOverrides,
    check_advice,
    check_overrides,
    default_recipe,
    recipe_notes,
    recipe_origins,
)
from gmi_registry.generation.textual_inversion import require_words_used

__all__ = [
    "DEFAULT_PROMPT_SET",
    "ContactSheet",
    "Encoding",
    "FaultyImagesError",
    "GeneratedImages",
    "ImageChecks",
    "Journal",
    "LoadedModel",
    "OutOfMemoryError",
    "Pipeline",
    "RecipeOverrides",
    "build_spec",
    "check_advice",
    "check_model",
    "check_overrides",
    "check_prompts",
    "check_settings",
    "contact_sheet",
    "default_device",
    "default_prompt_set",
    "default_recipe",
    "describe",
    "draft_spec",
    "dtypes_to_try",
    "free_memory",
    "generate",
    "images_kept",
    "load_model",
    "load_pipeline",
    "noise_seed",
    "prompt_set_named",
    "prompt_set_names",
    "recipe_notes",
    "recipe_origins",
    "redescribe",
    "release_pipeline",
    "require_offload",
    "require_packages",
    "require_pipeline",
    "require_webp",
    "require_words_used",
    "tiling_helps",
]
