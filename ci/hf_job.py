# /// script
# requires-python = ">=3.11"
# dependencies = ["gmi-registry[publish]"]
# ///
"""The job that a webhook starts, as a script of one's own: change what it installs above.

gmi webhook install owner/name --job --script ci/hf_job.py
"""

import sys

from gmi_registry.webhook.job import main

sys.exit(main())
