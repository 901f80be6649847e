"""Downloads weight files of one revision of a repository on the Hugging Face hub.

huggingface_hub (extra ``hub``) finds the files, with its own endpoint, token and proxies. The bytes
are fetched here, because it begins anew where a process was stopped. Invariants: a file under its
final name is complete and has the sha256 that was pinned, or else the one that the hub states for
it; what was fetched of one version of a file is never continued with another one.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
import sys
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from skipsr_jax.errors import UserError, imports_of_extra, message_of

_SPEC = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that was fetched.

    Attributes:
      path: where it lies.
      origin: OWNER/NAME@COMMIT, where the hub says which commit the revision is.
      sha256: of its bytes.
    """

    path: pathlib.Path
    origin: str
    sha256: str


def parse_spec(spec: str) -> tuple[str, str]:
    """(OWNER/NAME, REVISION) of ``OWNER/NAME@REVISION``. Raises UserError for anything else."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise UserError(
            f"--hub={spec}: it must be OWNER/NAME@REVISION, with a commit, a tag or a branch"
        )
    return found["repository"], found["revision"]


def parse_pins(pins: list[str]) -> dict[str, str]:
    """{file: sha256} of entries ``FILE=SHA256``. Raises UserError for anything else."""
    found = {}
    for pin in pins:
        name, _, digest = pin.rpartition("=")
        if not name or not _SHA256.fullmatch(digest.lower()):
            raise UserError(f"--sha256={pin}: it must be FILE=SHA256, with 64 hexadecimal digits")
        found[name] = digest.lower()
    return found


def fetch(
    spec: str, names: list[str], folder: pathlib.Path, pins: dict[str, str]
) -> list[Download]:
    """Downloads files into ``folder``, where it continues what an earlier call left there.

    Args:
      spec: OWNER/NAME@REVISION.
      names: of the files in the repository.
      folder: made if needed; keep it until all is done.
      pins: sha256 of some of the files; others have to match what the hub states.

    Raises:
      UserError: the extra hub is not installed, the hub cannot be reached, it does not have the
        repository, revision or file, a file has another sha256, or a pin is of no file.
    """
    repository, revision = parse_spec(spec)
    unknown = sorted(pins.keys() - set(names))
    if unknown:
        raise UserError(f"--sha256: {unknown[0]} is none of the files: {', '.join(names)}")
    with imports_of_extra("hub"):
        import huggingface_hub
        from huggingface_hub.errors import HTTPError
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for name in names:
        try:
            url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
            facts = huggingface_hub.get_hf_file_metadata(url)
            done.append(_fetch_one(url, facts, f"{spec}: {name}", folder, name, pins.get(name)))
        except (HTTPError, huggingface_hub.errors.HFValidationError, ConnectionError) as error:
            raise UserError(
                f"{spec}: {name} cannot be downloaded: {message_of(error)[:300]}; the same command "
                "continues"
            ) from error
    return [dataclasses.replace(one, origin=f"{repository}@{one.origin}") for one in done]


def _fetch_one(
    url: str, facts: Any, what: str, folder: pathlib.Path, name: str, pinned: str | None
) -> Download:
    """Downloads one file; ``facts``: what huggingface_hub says of it, ``what``: for messages."""
    stated = facts.etag if _SHA256.fullmatch(facts.etag or "") else None
    wanted = pinned or stated
    if pinned and stated and pinned != stated:
        raise UserError(f"{what}: the hub has sha256 {stated}, --sha256 has {pinned}")
    # A version of a file has its own name: what is there is only ever continued with the same one.
    version = hashlib.sha256(f"{facts.commit_hash} {facts.etag}".encode()).hexdigest()[:16]
    target = folder / version / pathlib.PurePosixPath(name).name
    partial = target.with_name(target.name + ".partial")
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        _continue(url, facts, partial)
    path = target if target.exists() else partial
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted is not None and found != wanted:
        path.unlink()
        raise UserError(f"{what}: it has sha256 {found}, not {wanted}; what was fetched is removed")
    os.replace(path, target)
    return Download(target, facts.commit_hash or "unknown", found)


def _continue(url: str, facts: Any, partial: pathlib.Path) -> None:
    """Fetches what ``partial`` lacks of a file."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    have = partial.stat().st_size if partial.exists() else 0
    if have and have == facts.size:
        return
    headers = build_hf_headers() | {"accept-encoding": "identity"}
    if urlsplit(facts.location).netloc != urlsplit(url).netloc:  # a token is for the hub alone
        headers.pop("authorization", None)
    if have:
        headers["range"] = f"bytes={have}-"
    with get_session().stream("GET", facts.location, headers=headers) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # from the beginning
            have = 0
        bar = tqdm(
            total=facts.size, initial=have, desc=partial.stem, unit="B", unit_scale=True,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        with bar, partial.open("ab" if have else "wb") as file:
            for piece in response.iter_bytes(_PIECE_BYTES):
                file.write(piece)
                bar.update(len(piece))
    if facts.size is not None and partial.stat().st_size != facts.size:
        raise ConnectionError(f"{partial.stat().st_size} of {facts.size} bytes came")
