"""From a description to a packed file and back, exactly."""
