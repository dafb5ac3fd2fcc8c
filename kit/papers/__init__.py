"""The playground: the systems of the papers as worlds of arrays, apart from the agents that act in them.

``channel`` shares one band among many users, ``delays`` says what a decision takes to compute; ``bandwidth`` is paper A, ``offloading``
paper B, ``placement`` paper C, ``downloading`` the data rates of paper D. ``streams`` is where random numbers come from, ``learning`` the
loop that may be killed, ``results`` what an experiment finds. Everything is vectorised over samples: arrays are [samples, users], in SI
units.
"""
