"""Parts that flows run on: executors, jobs, progress, caches."""
