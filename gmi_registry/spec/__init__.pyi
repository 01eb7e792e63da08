from gmi_registry.spec.diff import SpecDiff as SpecDiff
from gmi_registry.spec.diff import diff_specs as diff_specs
from gmi_registry.spec.files import MANIFEST_NAME as MANIFEST_NAME
from gmi_registry.spec.files import PREVIEW_NAME as PREVIEW_NAME
from gmi_registry.spec.files import SIGNATURE_NAME as SIGNATURE_NAME
from gmi_registry.spec.files import SPEC_DIR as SPEC_DIR
from gmi_registry.spec.files import TENSORS_NAME as TENSORS_NAME
from gmi_registry.spec.files import Finding as Finding
from gmi_registry.spec.files import read_manifest as read_manifest
from gmi_registry.spec.files import read_spec as read_spec
from gmi_registry.spec.files import verify as verify
from gmi_registry.spec.files import write_spec as write_spec
from gmi_registry.spec.manifest import DescribedModel as DescribedModel
from gmi_registry.spec.manifest import EncoderRef as EncoderRef
from gmi_registry.spec.manifest import GenerationRecipe as GenerationRecipe
from gmi_registry.spec.manifest import LoraPartial as LoraPartial
from gmi_registry.spec.manifest import Manifest as Manifest
from gmi_registry.spec.manifest import OwnWeights as OwnWeights
from gmi_registry.spec.manifest import Preprocess as Preprocess
from gmi_registry.spec.manifest import PromptBlock as PromptBlock
from gmi_registry.spec.manifest import Sampler as Sampler
from gmi_registry.spec.manifest import Tool as Tool
from gmi_registry.spec.manifest import WeightFile as WeightFile
from gmi_registry.spec.prompts import PromptSet as PromptSet
from gmi_registry.spec.reference import ModelRef as ModelRef
from gmi_registry.spec.specification import Spec as Spec
from gmi_registry.spec.specification import build_spec as build_spec
from gmi_registry.spec.specification import decode_spec as decode_spec
from gmi_registry.spec.specification import encode_spec as encode_spec

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
