"""SeedVR-7B: 50 guided steps, with the training-free mask.

The multi-step model: condition noise 0.1, guidance 6.5, so 100 runs of the transformer per chunk.

    python infer.py --config=configs/seedvr_7b.py --input=clip.mp4

Checkpoint: converted from the public weights with ``python -m skipsr_jax.checkpoints.convert``.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "checkpoint": "checkpoints/seedvr_7b",
            "seed": 0,
            "dtype": "auto",  # bfloat16 on accelerators
            "max_frames": 0,  # all
            "sample_frames": 17,  # of the sample clip, when there is no --input
            "slice_latents": 1,  # latent frames the autoencoder takes at a time
            "vae_memory_gib": 0.0,  # for the autoencoder; 0: all that is free. Tiled if short
            "encode": "auto",  # kept patches alone where that pays (masks from pixels); or dense
            "decode": "auto",  # likewise; sparse: even where it does not pay
            "sparse_up_to": 0.8,  # auto: the share of blocks up to which it pays (even at 0.9)
            "size": {"factor": 4.0, "height": 0, "width": 0},
            "mask": {
                "source": "input",  # the public weights have no predictor
                "probability": 0.5,
                "input_tau": 2.8e-4,
                "oracle_tau": 2e-4,  # Eq. 1
                "reference": "",
                "dilate": 0,
            },
            "sampler": {
                "steps": 50,
                "guidance": 6.5,
                "rescale": 0.0,
                "condition_noise": 0.1,
            },
            "chunk": {"frames": 101, "overlap": 5},
            "pixels": {"colour": "wavelet", "keep_skipped": True, "feather": 3},
            "output": {"codec": "", "crf": -1},
            "mesh": {"data": 1, "fsdp": 1, "seq": 1},  # devices; fsdp also cuts the parameters
        }
    )
