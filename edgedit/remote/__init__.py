"""From a host to a board over the system's ssh and rsync: install, build, measure, bring the results back."""
