"""What a search over Hugging Face's protocol costs: requests and seconds, cold and warm.

    python benchmarks/hub_search.py [--models 1,50,500]

A loopback hub (``tests/loopback``) holds models with specifications of 55 pictures in 768
dimensions. Each search runs in a process of its own, cold with an empty cache, then warm; beside
it a plain loop of ``snapshot_download(allow_patterns="gmi/*")`` over the same listing, which is
what one would write with the client alone. One line of JSON a measurement; ``cpu`` are the seconds
that the searching process itself computed, which do not grow where the machine is busy with
something else, as ``seconds`` do: the hub answers on the same cores. The encoder is a projection,
so that what is measured is the hub and the ranking; the hub is on this machine, so every request is
nearly free: across a network the requests decide.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gmi_registry.spec import (  # noqa: E402
    DescribedModel,
    GenerationRecipe,
    PromptSet,
    Sampler,
    WeightFile,
    build_spec,
    encode_spec,
)
from tests.support.hub_builder import ProjectionEncoder  # noqa: E402
from tests.support.loopback import LoopbackHub  # noqa: E402
from tests.support.loopback.fixtures import client_environment  # noqa: E402

TAG = "anime"
LORA = "pytorch_lora_weights.safetensors"
PROMPTS = PromptSet("benchmark", 1, tuple(f"prompt number {n}" for n in range(55)))
RECIPE = GenerationRecipe(
    sampler=Sampler(name="DDIM"), steps=20, guidance_scale=7.0, width=64, height=64, seeds=(0,)
)


def make_encoder() -> ProjectionEncoder:
    return ProjectionEncoder(dim=768)


def files_of(model_id: str, number: int, encoder: ProjectionEncoder) -> dict[str, bytes]:
    weights = f"weights of {model_id}".encode()
    digest = hashlib.sha256(weights).hexdigest()
    described = DescribedModel(
        hub="hf",
        id=model_id,
        title=model_id,
        kind="lora",
        weights=(WeightFile(path=LORA, size=len(weights), sha256=digest),),
        tags=(TAG,),
    )
    spec = build_spec(
        model=described,
        encoder=encoder.ref,
        prompt_sets=[PROMPTS],
        recipe=RECIPE,
        image_embeddings=np.random.default_rng(number).normal(size=(55, 768)),
        prompt_embeddings=encoder.encode_texts(PROMPTS.prompts),
        image_prompt=np.arange(55),
    )
    manifest, tensors = encode_spec(spec)
    card = f"---\ntags: [gmi-spec, {TAG}]\n---\n# A model\n".encode()
    specification = {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors}
    return {"README.md": card, LORA: weights, **specification}


def search_once() -> None:
    """In a child: one search; prints requests, seconds, and the models found."""
    import gmi_registry

    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    encoder = make_encoder()
    start, computed = time.perf_counter(), time.process_time()
    result = gmi_registry.search(picture, "hf", tags=[TAG], encoder=encoder)
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - computed}
    ranked = sum(group.members for group in result.groups)
    skipped = [it.reason for it in result.skipped[:1]]
    print(json.dumps({**took, "ranked": ranked, "skipped": skipped}))


def download_once() -> None:
    """In a child: the plain loop, which neither checks nor ranks."""
    from huggingface_hub import HfApi, snapshot_download

    start, computed = time.perf_counter(), time.process_time()
    models = list(HfApi().list_models(filter=["gmi-spec", TAG], expand=["sha"]))
    for model in models:
        snapshot_download(model.id, revision=model.sha, allow_patterns="gmi/*")
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - computed}
    print(json.dumps({**took, "ranked": len(models)}))


def measure(hub: LoopbackHub, what: str, home: Path) -> dict[str, object]:
    hub.clear_requests()
    done = subprocess.run(
        [sys.executable, __file__, what],
        env=os.environ
        | client_environment(hub.endpoint, home)
        | {"XDG_CACHE_HOME": str(home / "cache")},
        check=True,
        capture_output=True,
        text=True,
    )
    return {"requests": len(hub.requests), **json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="1,50,500")
    encoder = make_encoder()
    for count in map(int, parser.parse_args().models.split(",")):
        with LoopbackHub() as hub, tempfile.TemporaryDirectory() as scratch:
            for number in range(count):
                model_id = f"owner/model-{number:04}"
                hub.add_repo(model_id, files=files_of(model_id, number, encoder))
            for what in ("search", "download"):
                for state in ("cold", "warm"):
                    found = measure(hub, what, Path(scratch) / what)
                    print(json.dumps({"models": count, "what": what, "state": state, **found}))


if __name__ == "__main__":
    if sys.argv[1:] == ["search"]:
        search_once()
    elif sys.argv[1:] == ["download"]:
        download_once()
    else:
        main()
