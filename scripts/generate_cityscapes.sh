#!/usr/bin/env bash
# Protect Cityscapes (train, fine). How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "cityscapes" "$@"
