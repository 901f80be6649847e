"""The mesh, and how parameters, tokens and pixels are sharded over it."""
