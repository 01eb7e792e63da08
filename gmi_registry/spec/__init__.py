"""The specification format in Python; ``spec_format/SPEC.md`` is the contract.

A name is imported when it is asked for: a search that reads nothing anew needs no pydantic.
Imports only the standard library, numpy, safetensors, pydantic and :mod:`gmi_registry.errors`.
"""

from gmi_registry import lazy_names

_NAMES = {
    "diff": "SpecDiff diff_specs",
    "files": (
        "MANIFEST_NAME PREVIEW_NAME SIGNATURE_NAME SPEC_DIR TENSORS_NAME read_manifest "
        "read_spec verify write_spec Finding"
    ),
    "manifest": (
        "DescribedModel GenerationRecipe LoraPartial Manifest OwnWeights PromptBlock "
        "Sampler Tool WeightFile EncoderRef Preprocess"
    ),
    "prompts": "PromptSet",
    "reference": "ModelRef",
    "specification": "Spec build_spec decode_spec encode_spec",
}

__all__, __getattr__ = lazy_names(__name__, _NAMES)
