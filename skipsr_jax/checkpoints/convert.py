"""Converts SeedVR / SeedVR2 weight files into a checkpoint of this project, and back.

    python -m skipsr_jax.checkpoints.convert --dit=seedvr2_ema_3b.pth --vae=ema_vae.pth \\
        --positive=pos_emb.pt --negative=neg_emb.pt --out=checkpoints/seedvr2_3b
    python -m skipsr_jax.checkpoints.convert --checkpoint=checkpoints/seedvr2_3b \\
        --to=safetensors --out=official --adapter=runs/lora

    python -m skipsr_jax.checkpoints.convert --hub=OWNER/NAME@REVISION --vae=ema_vae.pth \\
        --sha256=ema_vae.pth=HEX --out=checkpoints/vae

Files are .pth, .pt or .safetensors, of the 3B or 7B kind, in any float dtype. The network is
recognised by the names and shapes of its tensors. Either direction writes a new folder and needs as
much free disk again for temporary files; memory holds one array at a time. --adapter merges an
adapter (LoRA) into what is written. Invariant: a tensor converted there and back is the same, byte
for byte.
"""

import hashlib
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from skipsr_jax.checkpoints import (
    architecture,
    hub,
    keys,
    lazy,
    safetensors_file,
    staging,
    store,
    torch_file,
    torch_writer,
)
from skipsr_jax.checkpoints.adapter import StoredAdapter, read_adapter
from skipsr_jax.checkpoints.array_reader import batches
from skipsr_jax.checkpoints.lazy import LazyTensor
from skipsr_jax.commandline import parse_flags, print_result
from skipsr_jax.config import from_json, to_json
from skipsr_jax.disk_space import disk_errors_as_one_line, require_space
from skipsr_jax.errors import UserError
from skipsr_jax.files import check_absent, new_folder, temporary_folder
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.params import flatten, nbytes, unflatten
from skipsr_jax.models.vae import VAEConfig

CONFIG_CLASSES = {"dit": DiTConfig, "vae": VAEConfig}
TEXT_FILES = {"positive": "pos_emb.pt", "negative": "neg_emb.pt"}

_LISTED_MISMATCHES = 40
_BATCH_BYTES = 1 << 28  # of small arrays that are restored together


def read_tensors(path: str, section: str | None = None) -> dict[str, LazyTensor]:
    """Returns the tensors of a .safetensors or torch file, keys without wrappers.

    `lazy.strip_wrappers` says what wrappers and ``section`` are. Loading a tensor raises UserError
    where it is not finite.
    """
    reader = safetensors_file if path.endswith(".safetensors") else torch_file
    return lazy.refusing_non_finite(lazy.strip_wrappers(reader.read(path), path, section), path)


def read_text(path: str) -> np.ndarray:
    """Returns the text embedding in a file, an array (tokens, width).

    Raises UserError when the file holds anything else.
    """
    tensors = read_tensors(path)
    shapes = [list(tensor.shape) for tensor in tensors.values()]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise UserError(f"{path}: a text embedding is one (tokens, width); found {shapes[:4]}")
    (tensor,) = tensors.values()
    return np.array(tensor.load())


def _sha256(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": pathlib.Path(path).name, "sha256": digest}


def _bar(total: int, what: str) -> tqdm:
    return tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=not sys.stderr.isatty())


def _networks(
    sources: dict[str, str], section: str | None, norm_groups: int | None
) -> dict[str, tuple[DiTConfig | VAEConfig, list[keys.Entry], dict[str, LazyTensor]]]:
    """Returns config, key table and tensors of each network.

    Raises one UserError that lists the mismatches of all networks.
    """
    found, wrong = {}, []
    for part, path in sources.items():
        tensors = read_tensors(path, section)
        if part == "vae":
            tensors = keys.renamed(tensors)
            config = architecture.vae_config(architecture.shapes_of(tensors), path, norm_groups)
        else:
            config = architecture.dit_config(architecture.shapes_of(tensors), path)
        entries = keys.entries_of(config)
        wrong += [f"{path}: {line}" for line in keys.mismatches(entries, tensors)]
        found[part] = (config, entries, tensors)
    if wrong:
        more = len(wrong) - _LISTED_MISMATCHES
        lines = wrong[:_LISTED_MISMATCHES] + ([f"and {more} more"] if more > 0 else [])
        raise UserError(f"{len(wrong)} tensors do not fit:\n  " + "\n  ".join(lines))
    return found


def import_official(
    out: str,
    sources: dict[str, str],
    texts: dict[str, str],
    *,
    section: str | None = None,
    norm_groups: int | None = None,
    origins: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Writes official weight files as the checkpoint ``out`` and returns its config.

    Args:
      out: a folder that does not exist yet, or an empty one.
      sources: {"dit": file, "vae": file}, or one of them.
      texts: {"positive": file, "negative": file}, or fewer.
      section: the first name of the keys to take when a file has several (``ema``).
      norm_groups: the groups of the autoencoder's norms, where they are not the usual ones.
      origins: repository and commit of files that come from the hub, by the same names.

    Raises:
      UserError: ``out`` holds something, or a file cannot be read, is of another network, or has
        tensors that do not fit.
    """
    folder = pathlib.Path(store.absolute(out))
    check_absent(folder, folder=True)
    found = _networks(sources, section, norm_groups)
    text = {name: read_text(path) for name, path in texts.items()}
    if "dit" in found:
        width = found["dit"][0].text_width
        for name, array in text.items():
            if array.shape[1] != width:
                raise UserError(
                    f"{texts[name]}: embeddings of width {array.shape[1]}; the model wants {width}"
                )
    config: dict[str, Any] = {part: to_json(found[part][0]) for part in found}
    config["sources"] = {name: _sha256(path) for name, path in (sources | texts).items()}
    for name, origin in (origins or {}).items():
        config["sources"][name]["hub"] = origin
    config["mixed_dtypes"] = {
        part: staging.mixed_dtypes(entries, tensors)
        for part, (_, entries, tensors) in found.items()
    }
    weights = sum(t.nbytes for _, _, tensors in found.values() for t in tensors.values())
    require_space(folder, 2 * weights, "the checkpoint, with temporary files,")
    with disk_errors_as_one_line(folder), temporary_folder(folder) as scratch:
        params: dict[str, Any] = {"text": text} if text else {}
        for part, (_, entries, tensors) in found.items():
            (scratch / part).mkdir()
            with _bar(sum(t.nbytes for t in tensors.values()), f"read {part}") as bar:
                arrays = staging.gather(entries, tensors, scratch / part, bar.update)
            params[part] = unflatten(arrays)
        store.save_model(folder, params, config)
    return config


def _batch_reader(
    checkpoint: str, part: str, leaves: dict[str, jax.ShapeDtypeStruct]
) -> Callable[[str], np.ndarray]:
    """Returns a function that reads one array by its path, for `staging.scatter`.

    It restores consecutive small arrays together, because every restore takes a while, and returns
    each array once. Nothing is read twice if arrays are asked for in the order of ``leaves``.
    """
    numbered = enumerate(batches(leaves, _BATCH_BYTES))
    batch_of = {path: number for number, batch in numbered for path in batch}
    waiting: dict[str, np.ndarray] = {}

    def read(path: str) -> np.ndarray:
        if path not in waiting:
            waiting.clear()
            wanted = [f"{part}/{p}" for p, batch in batch_of.items() if batch == batch_of[path]]
            waiting.update(flatten(store.restore_host(checkpoint, paths=wanted)[part]))
        return waiting.pop(path)

    return read


def export_official(checkpoint: str, out: str, form: str, adapter: str | None = None) -> list[str]:
    """Writes the networks and text embeddings of a checkpoint as official files.

    ``form`` is ``pth`` or ``safetensors``; text embeddings are .pt files in both. A light coder and
    a mask predictor have no official form and are left out. ``adapter``: a workdir or checkpoint of
    an adapter, which is merged into the transformer. Returns the names of the files. Raises
    UserError when the checkpoint cannot be read, the adapter is for another transformer, or ``out``
    exists.
    """
    folder = pathlib.Path(store.absolute(out))
    check_absent(folder)
    config = store.load_config(checkpoint)
    shapes = store.stored_shapes(checkpoint)
    parts = [part for part in CONFIG_CLASSES if part in shapes]
    if not parts and "text" not in shapes:
        raise UserError(f"{checkpoint}: holds no transformer, autoencoder or text embeddings")
    if "precision" in config:
        raise UserError(
            f"{checkpoint}: its kernels are {config['precision']}; official files hold unquantised "
            "ones: name the checkpoint that it was exported from"
        )
    merging = None if adapter is None else read_adapter(adapter)
    if merging is not None:
        if "dit" not in parts:
            raise UserError(f"{checkpoint}: holds no transformer to merge {adapter} into")
        merging.check(from_json(DiTConfig, config["dit"], checkpoint), checkpoint)
    writer = torch_writer if form == "pth" else safetensors_file
    require_space(folder, 2 * nbytes(shapes), "the result, with temporary files,")
    with (
        disk_errors_as_one_line(folder),
        new_folder(folder) as done,
        temporary_folder(folder) as scratch,
    ):
        for part in parts:
            (scratch / part).mkdir()
            source = f"{checkpoint} ({part})"
            entries = keys.entries_of(from_json(CONFIG_CLASSES[part], config[part], source))
            stored = {k: np.dtype(leaf.dtype) for k, leaf in flatten(shapes[part]).items()}
            if stored.keys() != {entry.path for entry in entries}:
                raise UserError(f"{source}: its arrays are not those of its config")

            read = _batch_reader(checkpoint, part, flatten(shapes[part]))
            if part == "dit" and merging is not None:
                read = _merging(read, merging)
            mixed = config.get("mixed_dtypes", {}).get(part, {})
            tensors = staging.scatter(entries, stored, read, mixed, scratch / part)
            writer.write(done / f"{part}.{form}", tensors)
        if "text" in shapes:
            for name, array in store.restore_host(checkpoint, ("text",))["text"].items():
                torch_writer.write(done / TEXT_FILES[name], {"": lazy.of_array(array)})
    return sorted(file.name for file in folder.iterdir())


def _merging(
    read: Callable[[str], np.ndarray], adapter: StoredAdapter
) -> Callable[[str], np.ndarray]:
    """``read`` with the adapter merged into the arrays that it returns."""
    return lambda path: adapter.merged_array(path, read(path))


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()

    def define(name: str, text: str) -> None:
        flags.DEFINE_string(name, None, text, flag_values=values)

    define("dit", "Transformer weights, .pth or .safetensors.")
    define("vae", "Autoencoder weights, .pth or .safetensors.")
    define("positive", "Embedding of the positive text, .pt (pos_emb.pt).")
    define("negative", "Embedding of the negative text, .pt (neg_emb.pt).")
    define("out", "The folder to write; must not exist.")
    define("checkpoint", "One of our checkpoints: convert back.")
    define("adapter", "Adapter (LoRA) to merge into the transformer when converting back.")
    define("section", "Which section of the files to take when they hold several, e.g. ema.")
    define("hub", "OWNER/NAME@REVISION on the Hugging Face hub: the files are those of it.")
    text = "FILE=SHA256 of files of --hub; without one the hub's own is compared."
    flags.DEFINE_list("sha256", [], text, flag_values=values)
    flags.DEFINE_enum(
        "to", "safetensors", ["pth", "safetensors"], "Format when converting back.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "vae_norm_groups", None, "Groups of the autoencoder's norms, where unusual.",
        flag_values=values,
    )  # fmt: skip
    return values


def run(argv: Sequence[str]) -> str:
    """The command line; returns what to print. ``argv`` starts with the program's name."""
    values = parse_flags(argv, _flags(), __doc__, "dit")
    sources = {name: values[name].value for name in CONFIG_CLASSES if values[name].value}
    texts = {name: values[name].value for name in TEXT_FILES if values[name].value}
    if not values.out:
        raise UserError("--out is needed: the folder to write")
    if values.checkpoint:
        if sources or texts:
            raise UserError("--checkpoint converts back; give it alone, or --dit/--vae/... alone")
        files = export_official(values.checkpoint, values.out, values.to, values.adapter)
        left = sorted(
            store.stored_shapes(values.checkpoint).keys() - CONFIG_CLASSES.keys() - {"text"}
        )
        without = f"; left out, as it has no official form: {', '.join(left)}" if left else ""
        return f"{values.out}: wrote {', '.join(files)}{without}"
    if values.adapter:
        raise UserError("--adapter is merged when converting back: give --checkpoint too")
    if values["to"].present:
        raise UserError("--to is the format when converting back: give --checkpoint too")
    if not sources and not texts:
        raise UserError("nothing to convert: give --dit and --vae, or --checkpoint")
    options = {"section": values.section, "norm_groups": values.vae_norm_groups}
    if values.hub:
        return _import_from_hub(values.hub, values.sha256, values.out, sources, texts, options)
    if values.sha256:
        raise UserError("--sha256 pins files of --hub: give --hub too")
    config = import_official(values.out, sources, texts, **options)
    return _wrote(values.out, config, sources, texts)


def _import_from_hub(
    spec: str,
    pins: list[str],
    out: str,
    sources: dict[str, str],
    texts: dict[str, str],
    options: dict[str, Any],
) -> str:
    """Imports files of a repository; returns what to print. They are kept until it is done."""
    target = pathlib.Path(store.absolute(out))
    check_absent(target, folder=True)
    names = sources | texts
    kept = target.with_name(target.name + ".hub")
    fetched = hub.fetch(spec, list(names.values()), kept, hub.parse_pins(pins))
    found = dict(zip(names, fetched, strict=True))
    here = {name: str(one.path) for name, one in found.items()}
    config = import_official(
        out,
        {name: here[name] for name in sources},
        {name: here[name] for name in texts},
        origins={name: one.origin for name, one in found.items()},
        **options,
    )
    shutil.rmtree(kept)
    lines = [f"  {names[name]} of {one.origin}, sha256 {one.sha256}" for name, one in found.items()]
    return "\n".join([_wrote(out, config, sources, texts), *lines])


def _wrote(out: str, config: dict[str, Any], sources: dict[str, str], texts: dict[str, str]) -> str:
    parts = [f"{part} {_summary(config[part])}" for part in sources] + sorted(texts)
    return f"{out}: wrote {', '.join(parts)}"


def _summary(config: dict[str, Any]) -> str:
    """The sizes in a config by which a reader recognises the network."""
    names = ("width", "layers", "mm_layers", "heads", "block_channels")
    return "(" + ", ".join(f"{name} {config[name]}" for name in names if name in config) + ")"


def main(argv: Sequence[str]) -> int:
    """``run`` with errors as one message and exit status 1. Stays off accelerators."""
    jax.config.update("jax_platforms", "cpu")
    return print_result(run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
