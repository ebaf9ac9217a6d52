"""Several processes and machines: launching, rollout servers, jobs of schedulers."""
