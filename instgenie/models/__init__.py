"""Model families: packed forwards over the diffusers modules' own weights."""
