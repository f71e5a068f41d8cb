"""A table of designs and settings to jobs that train, evaluate, export and profile; resumable job by job, here or on a cluster."""
