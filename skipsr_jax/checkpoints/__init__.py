"""Foreign weight files, the key tables, the Orbax store, and the tools on top of them."""
