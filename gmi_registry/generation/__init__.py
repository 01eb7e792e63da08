"""From a model on this disk to pictures, embeddings and a specification.

Importing this package loads neither torch nor diffusers; loading a model does.
"""

from gmi_registry.device import default_device
from gmi_registry.generation.call_settings import check_settings
from gmi_registry.generation.image_checks import FaultyImagesError, ImageChecks
from gmi_registry.generation.images import (
    BatchCache,
    GeneratedImages,
    generate,
    images_kept,
    noise_seed,
)
from gmi_registry.generation.model_checks import Pipeline, require_pipeline
from gmi_registry.generation.pipelines import (
    LoadedModel,
    check_model,
    load_model,
    load_pipeline,
    require_packages,
)
from gmi_registry.generation.placement import (
    OutOfMemoryError,
    dtypes_to_try,
    free_memory,
    release_pipeline,
    require_offload,
    tiling_helps,
)
from gmi_registry.generation.prompt_sets import (
    DEFAULT_PROMPT_SET,
    check_prompts,
    default_prompt_set,
    prompt_set_named,
    prompt_set_names,
)
from gmi_registry.generation.recipes import (
    RecipeOverrides,
    check_overrides,
    check_recommended,
    default_recipe,
    recipe_notes,
    recipe_origins,
)
from gmi_registry.generation.specification import (
    ContactSheet,
    Encoding,
    build_spec,
    contact_sheet,
    describe,
    draft_spec,
    redescribe,
    require_webp,
)
from gmi_registry.generation.textual_inversion import require_words_used

__all__ = [
    "DEFAULT_PROMPT_SET",
    "BatchCache",
    "ContactSheet",
    "Encoding",
    "FaultyImagesError",
    "GeneratedImages",
    "ImageChecks",
    "LoadedModel",
    "OutOfMemoryError",
    "Pipeline",
    "RecipeOverrides",
    "build_spec",
    "check_model",
    "check_overrides",
    "check_prompts",
    "check_recommended",
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
