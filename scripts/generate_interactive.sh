#!/usr/bin/env bash
# Protect the seven parts of HQSeg-44K. How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "interactive" "$@"
