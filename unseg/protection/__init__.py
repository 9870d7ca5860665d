"""Protecting pictures: what is read, what a method makes of it, what is written and proved."""
