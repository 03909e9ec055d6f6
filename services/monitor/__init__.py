"""Monitor: what every node is and how it does, for people, programs and Prometheus (seed 2.2 and 3).

In: characterizations, metrics, presence and observed workloads, all by event. Out: an archive, windows over
metrics, the monitoring API, a TOSCA document, a page for Prometheus, and events that say which deployments a
node in trouble takes with it. Everything here is a view that a replay of the bus rebuilds.
"""
