# /// script
# requires-python = ">=3.11"
# dependencies = ["gmi-registry[publish]"]
# ///
"""The job that a webhook starts, as a script of one's own: change what it installs above.

Put it where the hub can fetch it: gmi webhook install owner/name --job --script https://...
Once and for named models, it runs from here: hf jobs uv run ci/hf_job.py hf:owner/name
"""

import sys

from gmi_registry.webhook.job import main

sys.exit(main())
