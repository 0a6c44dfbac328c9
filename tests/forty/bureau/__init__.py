"""An assistant bureau: small services, each with prompts written the way their authors happened to write them."""
