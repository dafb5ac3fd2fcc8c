"""The Python interface: what ``import kit`` offers. Each function is a verb of the command line, over the same functions below.

Nothing here prints or exits. Every failure is a :class:`kit.KitError` whose text names the problem and the remedy. ``progress`` is a
function of a text and of the share that is done, from 0 to 1; without it a call is silent.
"""
