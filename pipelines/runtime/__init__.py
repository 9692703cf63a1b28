"""What flows run on: executors, jobs, progress, caches."""
