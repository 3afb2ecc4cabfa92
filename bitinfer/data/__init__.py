"""Tables of texts, and how well a model does on one."""
