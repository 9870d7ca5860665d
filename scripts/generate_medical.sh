#!/usr/bin/env bash
# Protect the medical sets that are there: lung CT, Kvasir-SEG. How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "medical_lung medical_kvasir" "$@"
