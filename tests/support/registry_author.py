"""Specifications for the registry, and a dataset on a loopback hub that holds them."""

from __future__ import annotations

from gmi_registry.hubs.registry.entries import entry_file, entry_of
from gmi_registry.spec import DescribedModel, encode_spec

# The loopback hub, and pictures of one colour, are those of the tests of the hubs.
from tests.support.hub_builder import ProjectionEncoder, painted_spec, weight_file

REPO = "gmi-registry/specs"
RED, BLUE, GREEN = (240, 20, 10), (20, 30, 230), (30, 200, 40)
PREVIEW = b"RIFF\0\0\0\0WEBPVP8 "
ENCODER = ProjectionEncoder()


def described(hub="hf", name="owner/style", *, revision=None, weights=(b"weights",), **more):
    files = tuple(weight_file(content, f"w{n}.safetensors") for n, content in enumerate(weights))
    return DescribedModel(
        hub=hub, id=name, revision=revision, title="Style", kind="lora", weights=files, **more
    )


def civitai(model="123", version="456", **more):
    return described("civitai", model, revision=version, **more)


def spec_of(model, colour=RED, *, previous=None):
    return painted_spec(model, colour, encoder=ENCODER, previous=previous)


def entry_files(spec, *, preview=None):
    """Path in the registry to content."""
    manifest, tensors = encode_spec(spec)
    contents = {"spec.json": manifest, "spec.tensors": tensors, "preview.webp": preview}
    ref = entry_of(spec.manifest.model)
    return {entry_file(ref, name): data for name, data in contents.items() if data is not None}
