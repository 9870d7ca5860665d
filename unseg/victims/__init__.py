"""Victims: networks trained on protected pictures and tested on clean ones."""
