"""The papers' small mixture-of-experts networks that allocate bandwidth and clock: their names, their file, kit's own runtime for them.

``registry`` has the families and makes their files, ``fileformat`` is the .alloc.npz and what it computes, ``runtime`` the backend (NumPy,
or machine code: ``compiled`` with Numba, out of the pieces of ``vector_code``). The same networks as ONNX graphs are a space
(:mod:`kit.spaces.allocator`), as trained networks a family (:mod:`kit.nets.allocator`).
"""
