"""The papers' small mixture-of-experts networks that allocate bandwidth and clock: their file, and kit's own runtime for them.

``fileformat`` is the .alloc.npz file and what it computes, ``runtime`` the backend (NumPy, or machine code by ``compiled`` with Numba). The
same networks as ONNX graphs are a space (:mod:`kit.spaces.allocator`), as trained networks a family (:mod:`kit.nets.allocator`).
"""
