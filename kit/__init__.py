"""kit: hardware-aware benchmarking and deployment of neural networks at the edge."""

__version__ = "0.1.0"
