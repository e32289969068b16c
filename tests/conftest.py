"""One thread for every test, and for every process a test starts.

The networks here are too small for a second thread to help, and threads that wait for each other on a busy machine
make the same tests many times slower.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
