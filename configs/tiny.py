"""The shipped tiny model on the sample clip: 176x144 -> 704x576, minutes to train, seconds to run.

    python infer.py
    python infer.py --input=clip.mp4 --config.size.factor=2

Checkpoint: checkpoints/tiny, in the repository (configs/tiny_{vae,predictor,sr}.py trained it).
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.checkpoint = "checkpoints/tiny"
    config.seed = 0
    config.dtype = "auto"  # bfloat16 on accelerators, float32 on CPU
    config.max_frames = 0  # all
    config.sample_frames = 17  # of the sample clip, when there is no --input

    config.size = ml_collections.ConfigDict()
    config.size.factor = 4.0
    config.size.height = 0  # pixels; 0: by the factor, or by the other side
    config.size.width = 0

    config.mask = ml_collections.ConfigDict()
    config.mask.source = "predictor"  # predictor, input, oracle, none
    config.mask.probability = 0.5  # predictor: of needing refinement
    config.mask.input_tau = 2.8e-4
    config.mask.oracle_tau = 2e-4  # Eq. 1
    config.mask.reference = ""  # oracle: the true high-resolution video
    config.mask.dilate = 0  # patches

    config.sampler = ml_collections.ConfigDict()
    config.sampler.steps = 1
    config.sampler.guidance = 1.0
    config.sampler.rescale = 0.0
    config.sampler.condition_noise = 0.0

    config.chunk = ml_collections.ConfigDict()
    config.chunk.frames = 33
    config.chunk.overlap = 4
    config.slice_latents = 1  # latent frames the autoencoder takes at a time
    config.vae_memory_gib = 0.0  # for the autoencoder; 0: all that is free. Tiled if short
    config.encode = "dense"  # sparse: only what is kept (needs a mask from pixels); or auto
    config.decode = "dense"  # sparse: only what is kept; auto: where that pays
    config.sparse_up_to = 0.6  # auto: the share of blocks up to which it pays

    config.pixels = ml_collections.ConfigDict()
    config.pixels.colour = "wavelet"  # wavelet, adain, none
    config.pixels.keep_skipped = True  # skipped patches show the upscaled input itself
    config.pixels.feather = 3  # pixels

    config.output = ml_collections.ConfigDict()
    config.output.codec = ""  # the writer's choice
    config.output.crf = -1

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = 1  # devices, all of which share a clip; -1: all there are
    config.mesh.fsdp = 1  # these also cut the parameters
    config.mesh.seq = 1
    return config
