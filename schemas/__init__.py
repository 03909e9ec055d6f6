"""The words of Minicloud: every event, document, query and unit as a typed model.

Nothing here does I/O and nothing here imports another package of ours. JSON Schemas and an
AsyncAPI document are generated from these models into ``docs/reference/``.
"""
