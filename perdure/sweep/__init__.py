"""Many runs at once: a list of run folders to fill, workers that fill them, and a driver that hands out, watches and retries.

The truth is the run folders alone. `plan` resolves every run before the first starts, `driver` hands them to a backend
(`on_ray`, on one machine or a cluster, or `processes`), and `worker` does one of them as `perdure run` would.
"""
