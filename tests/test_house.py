"""Rules about the source tree: imports, the length of files, docstrings, test files.

One test holds one rule over all files, and its message lists every file that breaks it.
"""

import ast
import fnmatch
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "skipsr_jax"
TESTS = ROOT / "tests"
LONGEST = 400  # lines; most files end by 300

# Modules that every package may import.
FLOOR = {
    "types", "errors", "geometry", "files", "disk_space", "config", "holding", "signals",
    "host_memory", "out_of_memory",
}  # fmt: skip
# Each package directly under skipsr_jax and the packages that it may import, besides itself.
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "config": set(),
    "geometry": set(),
    "files": set(),
    "disk_space": set(),
    "holding": set(),
    "host_memory": set(),
    "out_of_memory": set(),
    "signals": set(),
    "resources": set(),
    "commandline": {"resources"},
    "media": set(),
    "tokens": set(),
    "diffusion": set(),
    "kernels": set(),
    "parallel": set(),
    "data": {"media", "tokens", "commandline", "resources"},
    "pixels": {"media", "tokens"},
    "models": {"tokens", "diffusion", "kernels", "parallel"},
    "checkpoints": {"models", "kernels", "commandline"},
    "evaluation": {
        "models", "tokens", "data", "media", "checkpoints", "pixels", "parallel", "inference",
        "commandline",
    },
    "training": {
        "models", "tokens", "diffusion", "kernels", "parallel", "pixels", "media", "data",
        "checkpoints", "evaluation",
    },
    "cli": {
        "commandline", "inference", "training", "media", "parallel", "checkpoints", "data",
        "evaluation", "resources",
    },
    "inference": {
        "models", "tokens", "diffusion", "kernels", "parallel", "pixels", "media", "checkpoints",
        "resources", "commandline",
    },
}  # fmt: skip
NOT_AT_RUN_TIME = {"torch", "tensorflow", "skvideo", "safetensors", "beartype", "pytest"}
# Data workers are many processes without a device, so these and all they import are free of jax.
WITHOUT_JAX = {"media", "data"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}

# Modules without a test file of the same path, and the test file that runs them instead.
# A pattern of fnmatch stands for every module that it matches.
TESTED_IN = {
    "checkpoints/architecture.py": "checkpoints/test_keys.py",
    "checkpoints/lazy.py": "checkpoints/test_safetensors_file.py",
    "checkpoints/staging.py": "checkpoints/test_convert.py",
    "checkpoints/streaming.py": "checkpoints/test_store.py",
    "checkpoints/torch_writer.py": "checkpoints/test_torch_file.py",
    "data/batch.py": "data/test_dataset.py",
    "data/record_builder.py": "data/test_build.py",
    "data/degradation/levels.py": "data/degradation/test_realworld.py",
    "data/oracle.py": "data/test_dataset.py",
    "data/packing.py": "data/test_dataset.py",
    "evaluation/analysis_tables.py": "evaluation/test_analyse.py",
    "evaluation/figure.py": "evaluation/test_analyse.py",
    "evaluation/latent_swap.py": "evaluation/test_skip_analysis.py",
    "evaluation/model_run.py": "evaluation/test_analyse.py",
    "evaluation/plots.py": "evaluation/test_analyse.py",
    "evaluation/speedup.py": "evaluation/test_analyse.py",
    "evaluation/true_clips.py": "evaluation/test_skip_analysis.py",
    "evaluation/measures/backbones.py": "evaluation/measures/test_lpips.py",
    "evaluation/measures/dists.py": "evaluation/measures/test_lpips.py",
    "evaluation/measures/ms_ssim.py": "evaluation/measures/test_pixel.py",
    "evaluation/measures/registry.py": "evaluation/test_compare.py",
    "evaluation/measures/stream.py": "evaluation/measures/test_pixel.py",
    "inference/program_keys.py": "inference/test_program_cache.py",
    "inference/recent_programs.py": "inference/test_program_cache.py",
    "inference/boundaries.py": "inference/test_segments.py",
    "media/pixel_aspect.py": "media/test_video_writer.py",
    "media/packet_file.py": "media/test_segment_writer.py",
    "inference/done_notes.py": "cli/test_batch.py",
    "inference/fingerprint.py": "cli/test_batch.py",
    "inference/coding_plan.py": "inference/test_coder.py",
    "models/adapter.py": "training/test_adapter.py",
    "models/layers/lora.py": "training/test_adapter.py",
    "models/dit/remat.py": "models/dit/test_model.py",
    "models/dit/memory.py": "inference/test_cost.py",
    "inference/sparse_coding.py": "inference/test_pipeline.py",
    "inference/upscaled_input.py": "inference/test_pipeline.py",
    "kernels/attention/api.py": "kernels/attention/test_attention.py",
    "kernels/attention/gpu_tiled_attention.py": "kernels/attention/test_attention.py",
    "kernels/attention/hopper/[!o]*.py": "kernels/attention/hopper/test_op.py",
    "kernels/attention/residuals.py": "models/dit/test_model.py",
    "kernels/attention/problem.py": "kernels/attention/test_attention.py",
    "kernels/attention/tpu/[!o]*.py": "kernels/attention/tpu/test_op.py",
    "kernels/attention/triton.py": "kernels/attention/test_attention.py",
    "kernels/choice.py": "kernels/attention/test_attention.py",
    "kernels/convolution/*.py": "kernels/convolution/test_convolution.py",
    "kernels/norm_silu_concat/blocks/*.py": "kernels/norm_silu_concat/test_blocks.py",
    "kernels/norm_silu_concat/frames/*.py": "kernels/norm_silu_concat/test_frames.py",
    "kernels/norm_silu_concat/scale_shift.py": "kernels/norm_silu_concat/test_frames.py",
    "kernels/norm_silu_concat/triton_parts.py": "kernels/norm_silu_concat/test_frames.py",
    "kernels/qk_norm_rope/*.py": "kernels/qk_norm_rope/test_qk_norm_rope.py",
    "kernels/qkv_windows/*.py": "kernels/qkv_windows/test_qkv_windows.py",
    "kernels/quantized/formats.py": "kernels/quantized/test_product.py",
    "kernels/quantized/problem.py": "kernels/quantized/test_rows.py",
    "kernels/quantized/triton.py": "kernels/quantized/test_rows.py",
    "kernels/quantized/xla.py": "kernels/quantized/test_rows.py",
    "media/audio.py": "media/test_track_copy.py",
    "evaluation/page/files.py": "evaluation/page/test_write.py",
    "media/byte_layout.py": "media/test_early_end.py",
    "media/encoding.py": "media/test_video_writer.py",
    "media/frame_converter.py": "media/test_video.py",
    "media/hardware_encoders.py": "media/test_ffmpeg_pipe.py",
    "media/frame_filter.py": "media/test_video.py",
    "media/orientation.py": "media/test_video.py",
    "media/outputs.py": "media/test_image_writer.py",
    "media/yuv_format.py": "pixels/test_yuv.py",
    "models/dit/attention.py": "models/dit/test_block.py",
    "parallel/merged_heads.py": "models/dit/test_merged_attention.py",
    "models/dit/branch.py": "models/dit/test_block.py",
    "models/dit/config.py": "models/dit/test_model.py",
    "models/dit/mlp.py": "models/dit/test_block.py",
    "models/layers/linear.py": "models/dit/test_block.py",
    "models/light_coder/*coder.py": "models/light_coder/test_model.py",
    "models/light_coder/config.py": "models/light_coder/test_model.py",
    "models/light_coder/layers.py": "models/light_coder/test_model.py",
    "models/params.py": "models/dit/test_model.py",
    "models/presets.py": "parallel/test_presets.py",
    "models/quantized_params.py": "models/dit/test_quantized.py",
    "models/vae/config.py": "models/vae/test_model.py",
    "models/vae/decoder.py": "models/vae/test_model.py",
    "models/vae/encoder.py": "models/vae/test_model.py",
    "models/vae/upsample_kernel.py": "models/vae/test_upsample.py",
    "parallel/activations.py": "parallel/test_mesh_and_rules.py",
    "parallel/fsdp.py": "parallel/test_sequence.py",
    "parallel/hosts.py": "cli/test_train_on_meshes.py",
    "parallel/mesh.py": "parallel/test_mesh_and_rules.py",
    "parallel/overlapped_attention.py": "parallel/test_sequence.py",
    "parallel/rules.py": "parallel/test_mesh_and_rules.py",
    "tokens/kept.py": "tokens/test_plan.py",
    "tokens/layout.py": "tokens/test_plan.py",
    "training/held_out.py": "training/test_mixed_packs.py",
    "training/light_coder.py": "training/stages/test_coder.py",
    "training/losses/composited.py": "training/stages/test_registry.py",
    "training/initial_state.py": "training/test_loop.py",
    "training/mesh_checks.py": "training/test_meshes.py",
    "training/packed.py": "training/losses/test_flow.py",
    "training/previews.py": "training/stages/test_registry.py",
    "training/panels.py": "training/test_mixed_packs.py",
    "training/stage.py": "training/test_step.py",
    "training/stages/predictor.py": "training/stages/test_registry.py",
    "training/stages/sr.py": "training/stages/test_registry.py",
    "training/stages/vae.py": "training/stages/test_registry.py",
    "types.py": "tokens/test_plan.py",
}


@pytest.fixture(scope="module")
def trees():
    """Every module of the package by its path under it, parsed."""
    sources = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sources}


def room_of(module):
    return module.split("/")[0].removesuffix(".py")


def imported(tree):
    """Dotted names that a module imports, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def none_of(offenders, rule):
    assert not offenders, f"{rule}:\n  " + "\n  ".join(offenders)


def test_packages_import_in_one_direction(trees):
    offenders = []
    for module, tree in trees.items():
        room = room_of(module)
        if room == "__init__":
            continue
        allowed = MAY_IMPORT.get(room, set()) | FLOOR | {room}
        for name in imported(tree):
            if name.startswith("skipsr_jax.") and name.split(".")[1] not in allowed:
                offenders.append(f"{module} imports {name}")
    none_of(offenders, "imports against MAY_IMPORT")


def test_every_package_is_in_the_table_of_imports(trees):
    assert {room_of(module) for module in trees} - {"__init__"} == set(MAY_IMPORT)


def test_imports_are_absolute_and_needed_at_run_time(trees):
    none_of(
        [
            f"{module} imports {name}"
            for module, tree in trees.items()
            for name in imported(tree)
            if name.startswith(".") or name.split(".")[0] in NOT_AT_RUN_TIME | {"configs"}
        ],
        "imports that are relative, of configs, or of what only tests and tools install",
    )


def test_data_workers_never_import_jax(trees):
    """Followed through every module of the package that they import, __init__ files included."""

    def files_of(name):
        parts = name.split(".")[1:]
        packages = ["/".join([*parts[:i], "__init__.py"]) for i in range(len(parts) + 1)]
        return [file for file in (*packages, "/".join(parts) + ".py") if file in trees]

    reached = {module: module for module in trees if room_of(module) in WITHOUT_JAX}
    queue, offenders = list(reached), set()
    while queue:
        module = queue.pop()
        for name in imported(trees[module]):
            if name.split(".")[0] in JAX:
                offenders.add(f"{reached[module]} imports {name.split('.')[0]}")
            if name.split(".")[0] == "skipsr_jax":
                found = [file for file in files_of(name) if file not in reached]
                reached |= {file: f"{reached[module]} -> {file}" for file in found}
                queue += found
    none_of(sorted(offenders), f"jax is reached from {sorted(WITHOUT_JAX)}")


def test_kernels_take_pallas_from_the_module_that_defers_its_import(trees):
    none_of(
        [
            f"{module} imports {name}: take it from skipsr_jax.kernels.pallas"
            for module, tree in trees.items()
            for name in imported(tree)
            if name.startswith("jax.experimental.pallas")
        ],
        "imports of Pallas, which take 0.4 s of every start",
    )


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in sorted(PACKAGE.rglob("*.py"))}
    none_of(
        [f"{path.relative_to(ROOT)}: {n}" for path, n in lengths.items() if n > LONGEST],
        f"files of more than {LONGEST} lines",
    )


def test_modules_open_with_a_docstring(trees):
    none_of(
        [module for module, tree in trees.items() if tree.body and not ast.get_docstring(tree)],
        "modules without a docstring",
    )


def test_every_module_has_a_test_file(trees):
    def twin(module):
        folder, _, name = module.rpartition("/")
        return (TESTS / folder / f"test_{name}").exists()

    alone = [m for m in trees if not m.endswith("__init__.py") and not twin(m)]
    listed = {m for pattern in TESTED_IN for m in fnmatch.filter(alone, pattern)}
    none_of(
        [f"{module}: write tests/ + its path, or add it to TESTED_IN" for module in alone
         if module not in listed]
        + [f"{pattern}: delete this row of TESTED_IN, every module that it names has a test file"
           for pattern in TESTED_IN if not fnmatch.filter(alone, pattern)]
        + [f"{pattern}: tests/{test} does not exist" for pattern, test in TESTED_IN.items()
           if not (TESTS / test).exists()],
        "modules and test files do not correspond",
    )  # fmt: skip
