"""Images of unikernels for every engine: one reference that a node's worker, a pod, urunc and KubeVirt boot alike.

In come a kernel and what it needs, out comes an OCI layout: for ``os=qemu`` the kernel as Unikraft's own tools
package it, for ``os=linux`` the same kernel with a QEMU beside it that boots it inside of a pod.
"""
