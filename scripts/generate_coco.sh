#!/usr/bin/env bash
# Protect COCO 2017 (train2017, panoptic). How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "coco" "$@"
