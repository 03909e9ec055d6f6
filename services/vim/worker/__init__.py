"""The worker: the part of vim that lives on every node and runs what should run there.

In comes the desired state of each workload, out goes the observed one. The engine below the service
needs no bus: it keeps everything it must remember in a folder, so that it may be killed at any line.
"""
