#!/usr/bin/env bash
# One round of regeneration, for a timer to call. Arguments go to gmi regenerate.
#
#   GMI                  the program, with arguments if need be (gmi)
#   GMI_REGENERATE_DIR   the folder of the work and the summaries (.gmi-regenerate)
#   GMI_MAX_SECONDS      no model is started after so many seconds (3000)
#
# Tokens come from the environment (HF_TOKEN, CIVITAI_TOKEN) and are never arguments, which every
# user of the machine can read.
set -euo pipefail

kept="${GMI_REGENERATE_DIR:-.gmi-regenerate}"
mkdir -p "$kept/summaries"
read -r -a program <<<"${GMI:-gmi}"
stamp="$(date -u +%Y-%m-%dT%H%M%SZ)"

status=0
"${program[@]}" regenerate \
  --work "$kept/work" \
  --summary "$kept/summaries/$stamp.md" \
  --max-seconds "${GMI_MAX_SECONDS:-3000}" \
  "$@" || status=$?

# Summaries of the last month are enough. The next round needs the rest, in work/.
find "$kept/summaries" -name '*.md' -mtime +30 -delete
exit "$status"
