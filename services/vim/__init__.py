"""The virtual infrastructure manager: deployment requests in, running workloads out."""
