"""The download library: packages in an OCI image layout, a server that answers a need, a client that installs.

``oci`` (a package as an OCI artifact), ``package`` (the folder that holds them), ``server``, ``client``, ``swap`` (the
install). The protocol is described in docs/library.md. Choosing and checking are callables that the caller passes.
"""
