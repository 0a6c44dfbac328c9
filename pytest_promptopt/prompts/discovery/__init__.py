"""Which prompts a project has, managed or not, found by reading its files; nothing is imported for it."""
