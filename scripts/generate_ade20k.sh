#!/usr/bin/env bash
# Protect ADE20K (training). How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "ade20k" "$@"
