"""Everything between a prompt and a model: the protocol, the client that calls it, and the models themselves."""
