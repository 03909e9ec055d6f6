"""The resource index: answers queries and tells when the answer changes."""
