"""A target that is connected: the way to it over all its boots, what is done on it, its health."""
