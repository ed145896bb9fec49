"""The shipped recipes, runnable by name: ``lightly-prg recipes list``."""
