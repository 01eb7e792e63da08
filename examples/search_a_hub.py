"""Rank the models of a hub by a picture: ``python search_a_hub.py IMAGE [HUB] [TAG ...]``.

HUB is ``hf`` (Hugging Face), ``civitai``, or a folder that holds ``hub.json``.
"""

import sys

import gmi_registry

image, hub, tags = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "hf", sys.argv[3:]
answer = gmi_registry.search(image, hub, tags=tags, top=5)
for hit in answer.hits:
    print(f"{hit.rank}  {hit.distance:.4f}  {hit.ref}")
for skipped in answer.skipped:
    print(f"not used: {skipped.model}: {skipped.reason}", file=sys.stderr)
