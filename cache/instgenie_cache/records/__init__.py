"""The bytes of templates: records, manifests, the memory of a step."""
