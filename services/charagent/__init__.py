"""On every node: what the node is, how it does, and that it is there."""
