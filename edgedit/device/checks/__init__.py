"""The checks of `edgedit doctor`, by subject. Each takes the root of the tree that is looked at, reads only, and never raises."""
