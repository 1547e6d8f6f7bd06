#!/bin/bash
# The same on 16 nodes of eight A100 each, by Slurm: a share of the scan for each GPU.
#
#   bash slurm.sh           # where jobs are submitted from; with RETRY=--retry: what has failed
#
# What all shares need, the gap, is made first: its reference set is small. TASKS is how many shares
# there are, ASK what each asks for, as `clipgap slurm` takes it, and ONE what a single step asks srun for.
set -euo pipefail
TRAIN=${TRAIN:-laion400m}
REFERENCE=${REFERENCE:-imagenet-train}
SETS=${SETS:-val=sets/val sketch=sets/sketch r=sets/r a=sets/a v2=sets/v2 objectnet=sets/objectnet}
CACHE=${CACHE:-/tmp/clipgap-$(id -un)} # on a disk of each node's own: test sets are read once a node
TASKS=${TASKS:-128}
ASK=${ASK:---gpus 1 --cpus 12 --mem 64G --time 1:00:00}
ONE=${ONE:---gpus=1 --cpus-per-task=12 --mem=64G --time=1:00:00}

tests=() prune=()
for set in $SETS; do tests+=(--test "$set") prune+=(--prune "${set%%=*}"); done

# shellcheck disable=SC2086  # ASK and ONE are several words
srun --ntasks=1 $ONE clipgap gap "$REFERENCE" "${tests[@]}" --cache "$CACHE" -o gap --resume
job=$(clipgap slurm --json --tasks "$TASKS" $ASK ${RETRY:-} \
    scan "$TRAIN" "${tests[@]}" --gap gap --cache "$CACHE" -o scan |
    python3 -c 'import json, sys; print(*json.load(sys.stdin)["jobs"][-1:])')
echo "clipgap status scan: how far it is. Waiting for the merging, job $job." >&2
sbatch --wait --ntasks=1 $ONE ${job:+--dependency=afterok:$job --kill-on-invalid-dep=yes} \
    --output=verify.log --wrap='srun clipgap verify scan'
clipgap split scan "${prune[@]}" -o pruned --resume
clipgap report --scan train=scan --reference reference=gap --split pruned=pruned -o report --resume
