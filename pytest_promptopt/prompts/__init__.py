"""Prompts: what a typed function asks a model, how that reads, and how its answer becomes a value again."""
