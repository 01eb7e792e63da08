"""The specification format in Python; ``spec_format/SPEC.md`` is the contract.

Imports only the standard library, numpy, safetensors, pydantic and :mod:`gmi_registry.errors`.
"""

from gmi_registry.spec.diff import SpecDiff, diff_specs
from gmi_registry.spec.files import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    read_manifest,
    read_spec,
    write_spec,
)
from gmi_registry.spec.manifest import (
    DescribedModel,
    GenerationRecipe,
    LoraPartial,
    Manifest,
    OwnWeights,
    PromptBlock,
    Sampler,
    Tool,
    WeightFile,
)
from gmi_registry.spec.prompts import PromptSet
from gmi_registry.spec.reference import EncoderRef, ModelRef, Preprocess
from gmi_registry.spec.specification import Spec, build_spec, decode_spec, encode_spec
from gmi_registry.spec.verification import Finding, verify

__all__ = [
    "MANIFEST_NAME",
    "PREVIEW_NAME",
    "SIGNATURE_NAME",
    "SPEC_DIR",
    "TENSORS_NAME",
    "DescribedModel",
    "EncoderRef",
    "Finding",
    "GenerationRecipe",
    "LoraPartial",
    "Manifest",
    "ModelRef",
    "OwnWeights",
    "Preprocess",
    "PromptBlock",
    "PromptSet",
    "Sampler",
    "Spec",
    "SpecDiff",
    "Tool",
    "WeightFile",
    "build_spec",
    "decode_spec",
    "diff_specs",
    "encode_spec",
    "read_manifest",
    "read_spec",
    "verify",
    "write_spec",
]
