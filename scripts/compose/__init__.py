"""A compose file's services as local processes: to try a deployment where there is no container engine."""
