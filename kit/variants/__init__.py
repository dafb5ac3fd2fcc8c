"""The workshop: from a root network to trained, cut, pruned, quantized and checked files. Needs torch; never on a board."""
