#!/usr/bin/env bash
# Protect PASCAL VOC 2012 (train_aug). How to call it: scripts/_generate.sh
exec bash "$(dirname "$0")/_generate.sh" "pascal" "$@"
