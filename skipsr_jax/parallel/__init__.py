"""The mesh, and how arrays are sharded over it.

``mesh`` makes it and ``hosts`` joins several hosts to one program. ``rules`` is the table for
parameters (``fsdp`` gathers them where a layer runs), ``activations`` the one for activations.
``sequence`` and ``overlapped_attention`` share the tokens of a pack among devices, ``spatial`` the
frames of a clip. ``device_peaks`` has the speeds of known devices.
"""
