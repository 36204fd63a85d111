"""One thread, here and in every child process: results are bit-identical for equal thread counts, and fast on a small machine."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

# a shell that runs the tests in the background lets every child ignore Ctrl-C, which several tests send
signal.signal(signal.SIGINT, signal.default_int_handler)
