"""The worker of a Kubernetes cluster: to the cluster what the node's worker is to a machine.

In come the desired levels of the cluster's nodes, out go objects in the cluster and the observed levels; and
what each of the nodes is. Nothing is kept here: levels lie on the bus, objects in the cluster.
"""
