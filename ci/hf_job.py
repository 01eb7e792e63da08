# /// script
# requires-python = ">=3.11"
# dependencies = ["gmi-registry[publish]"]
# ///
"""The job that a webhook starts, as a script of one's own: change what it installs above.

Put it where the hub can fetch it: gmi webhook install owner/name --job --script https://...
Once and for named models, it runs from here: hf jobs uv run ci/hf_job.py hf:owner/name
"""

import sys

from gmi_registry.regeneration.webhook_service import job_main

sys.exit(job_main(sys.argv[1:]))
