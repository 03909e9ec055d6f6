"""Resource Indexing & Discovery: which nodes are there, and which of them match (seed 2.3 and 4).

In: characterizations, metrics, presence, workers and desired workloads, all by event. Out: answers
to queries, over the bus and HTTP, and the resource-change log. Everything here is a view that a
replay of the bus rebuilds.
"""
