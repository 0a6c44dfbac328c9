"""The pytest side: options become settings, tests become metrics, prompts become optimize jobs."""
