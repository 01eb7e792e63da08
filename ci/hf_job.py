# /// script
# requires-python = ">=3.11"
# dependencies = ["gmi-registry[publish] @ git+https://example.org/you/gmi-registry"]
# ///
"""The job that a webhook starts, as a script that you can change.

The package is not on the package index yet, and a stranger may take its name there. So write the
address of a Git repository that you trust, such as your own copy, in place of example.org above.

Put the script where the hub can fetch it: gmi webhook install owner/name --job --script https://...
To run it once, for the models that you name: hf jobs uv run ci/hf_job.py hf:owner/name
"""

import sys

from gmi_registry.regeneration.webhook_service import job_main

sys.exit(job_main(sys.argv[1:]))
