#!/usr/bin/env bash
# Protect the remote-sensing sets that are there: WHU, NWPU VHR-10, SSDD. How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "remote_whu remote_nwpu remote_ssdd" "$@"
