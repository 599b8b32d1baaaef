"""Parts of a store whose engine many nodes share: claims under a lease, claims that wait, the state of a job."""
