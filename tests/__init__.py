"""A package, so that no installed distribution's `tests` takes the name."""
