#!/bin/bash
# LAION-400M against six test sets, on one node with eight A100.
#
#   bash one-node.sh        # again after a stop: what is done stays done
#
# TRAIN, REFERENCE and SETS are stores: folders of embeddings as `clipgap embed` or clip-retrieval
# write them, on a disk or at s3://.
set -euo pipefail
TRAIN=${TRAIN:-laion400m}
REFERENCE=${REFERENCE:-imagenet-train}
SETS=${SETS:-val=sets/val sketch=sets/sketch r=sets/r a=sets/a v2=sets/v2 objectnet=sets/objectnet}
CACHE=${CACHE:-/tmp/clipgap-$(id -un)} # on a disk of each node's own: test sets are read once a node
ON=${ON:-8xA100}

tests=() prune=()
for set in $SETS; do tests+=(--test "$set") prune+=(--prune "${set%%=*}"); done

clipgap plan "$TRAIN" "${tests[@]}" --reference "$REFERENCE" --on "$ON"
clipgap gap "$REFERENCE" "${tests[@]}" --cache "$CACHE" -o gap --resume
clipgap scan "$TRAIN" "${tests[@]}" --gap gap --cache "$CACHE" -o scan --resume
clipgap verify scan
clipgap split scan "${prune[@]}" -o pruned --resume
clipgap report --scan train=scan --reference reference=gap --split pruned=pruned -o report --resume
