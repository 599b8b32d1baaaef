"""Parts of a store whose engine many nodes share: claims under a lease, and the state of a job as a small row."""
