"""The networks, one folder each, and the layers that they share."""
