"""Weights on this disk: resumed where they broke off, and placed once their digest is right."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import HubError, InputError
from gmi_registry.hubs.civitai.client import REFUSAL_LIMIT, CivitaiClient
from gmi_registry.hubs.civitai.documents import WireFile, require_loadable
from gmi_registry.hubs.civitai.errors import BusyError, CivitaiRequest, is_web_page, stranger
from gmi_registry.hubs.files import FileDigests
from gmi_registry.model import Kind
from gmi_registry.spec import ModelRef, WeightFile

if TYPE_CHECKING:
    import httpx2

    from gmi_registry.weights import Header

OnProgress = Callable[[int, int], None]
"""Told (bytes that are here, bytes in all) of the file that is being downloaded."""

_CHUNK = 1024 * 1024
_SPARE = 16 * 1024 * 1024
"""Bytes by which a file may be larger than Civitai says, which rounds to kilobytes."""
_PROGRESS = 32 * 1024 * 1024
"""Bytes after which a download that broke off several times is worth going on with."""
_ENOUGH = 512
"""Bytes that tell a page from tensors, which begin with the length of a header."""
_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/(?:[0-9]{1,15}|\*)")
_NUMBER = re.compile(r"[0-9]{1,15}")
_log = logging.getLogger(__name__)


@contextmanager
def watched(told: OnProgress | None, what: str) -> Iterator[OnProgress]:
    """``told``, or in its place a bar of huggingface_hub's, under the settings that it has for all.

    ``what`` stands before the bar.
    """
    if told is not None:
        yield told
        return
    from huggingface_hub.utils.tqdm import tqdm

    bar: Any = None

    def draw(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            settings: Any = {"total": total, "unit": "B", "unit_scale": True, "desc": what}
            bar = tqdm(initial=done, **settings)  # type: ignore[no-untyped-call]
        bar.update(done - bar.n)

    try:
        yield draw
    finally:
        if bar is not None:
            bar.close()


class Downloads:
    """Files of versions in ``folder``: ``models/MODEL/VERSION/FILE.safetensors``, all numbers.

    Beside it lies what is on its way, ``FILE.DIGEST.part``, and a lock for every version, so that
    two programs do not download the same file. ``digests`` remembers what was hashed.
    ``on_progress`` may be set at any time; without it a bar is drawn.
    """

    def __init__(self, client: CivitaiClient, folder: Path, digests: FileDigests) -> None:
        self.folder = folder
        self.on_progress: OnProgress | None = None
        self._client = client
        self._digests = digests

    def fetch(self, ref: ModelRef, file: WireFile, kind: Kind) -> tuple[Path, WeightFile]:
        """The file's place and identity, downloaded unless it is here with the right digest.

        A file that is here with another one was replaced at Civitai: it is downloaded anew and
        takes the old one's place. Raises HubError for too little room, for other bytes than
        Civitai says it has, for a file that diffusers cannot load, and where the disk cannot be
        written; OfflineError, AuthError and every other error of the hub. What has arrived stays
        for the next call, unless it is wrong.
        """
        asked = self._client.asked(ref, download=True)
        version = self.folder / "models" / ref.id / str(ref.revision)
        place = version / file.path
        with _explained(asked, self.folder):
            version.mkdir(parents=True, exist_ok=True)
            with _locked(version / ".lock"):
                if not self._is_here(place, file):
                    with watched(self.on_progress, str(ref)) as told:
                        self._download(ref, file, place, asked, kind, told)
            size = place.stat().st_size
        return place, WeightFile(path=file.path, size=size, sha256=str(file.sha256))

    def header(self, ref: ModelRef, file: WireFile) -> Header | None:
        """The header of a file: of this disk where it is here, else by a request for its beginning.

        None where the storage does not give it out; then the whole file tells. Raises
        WeightsFormatError for a file that is none of weights, and what Civitai says where it gives
        out nothing at all.
        """
        from gmi_registry.hubs.weights import header_from_ranges

        place = self.folder / "models" / ref.id / str(ref.revision) / file.path
        name = f"the file of {ref}"

        def read(length: int) -> bytes:
            return self._client.retried(lambda: self._beginning(ref, file, length))

        def read_here(length: int) -> bytes:
            with place.open("rb") as stream:
                return stream.read(length)

        if place.is_file() and not place.is_symlink():
            return header_from_ranges(read_here, place.stat().st_size, name)
        # Civitai rounds sizes to kilobytes, so what it says is no limit of the header.
        return header_from_ranges(read, None, name)

    def _beginning(self, ref: ModelRef, file: WireFile, length: int) -> bytes:
        asked = self._client.asked(ref, download=True)
        content = bytearray()
        with self._client.weights(ref, file.id, stop=length) as response:
            if response.status_code not in (200, 206):
                raise stranger(asked, f"it answers {response.status_code} in place of a file")
            for chunk in response.iter_raw():
                if not content:
                    self._client.require_file(chunk, response, asked)
                content += chunk
                if len(content) >= length:
                    break
        return bytes(content[:length])

    def missing(self, ref: ModelRef, file: WireFile) -> int:
        """Bytes of the file that are not on this disk yet, as near as Civitai says."""
        place = self.folder / "models" / ref.id / str(ref.revision) / file.path
        return 0 if place.is_file() else file.size

    def _is_here(self, place: Path, file: WireFile) -> bool:
        if place.is_symlink() or not place.is_file():
            return False
        if self._digests.sha256(place) == file.sha256:
            return True
        _log.warning("%s is no longer what Civitai has, and is downloaded again", place)
        return False

    def _download(
        self,
        ref: ModelRef,
        file: WireFile,
        place: Path,
        asked: CivitaiRequest,
        kind: Kind,
        told: OnProgress,
    ) -> None:
        # Named by the digest, so that half of an old file is never continued with a new one's.
        part = place.with_name(f"{file.id}.{str(file.sha256)[:16]}.part")
        for other in place.parent.glob(f"{file.id}.*.part"):
            if other != part:
                other.unlink(missing_ok=True)
        arrival = _Arrival(part, file, asked, told, self._client.require_file)
        for attempt in (1, 2):
            arrival.resume()
            self._persist(ref, file, arrival)
            if arrival.digest == file.sha256:
                break
            resumed = arrival.resumed
            part.unlink()
            # Halves of two files may have come together, if it was replaced between them.
            if attempt == 2 or not resumed:
                raise HubError(
                    f"{asked.name}: the download has the SHA-256 {arrival.digest[:16]}…, and "
                    f"Civitai says {str(file.sha256)[:16]}…",
                    hint="run the same command again; the wrong file was deleted",
                )
        try:
            require_loadable(part, asked)
        except HubError:
            part.unlink(missing_ok=True)
            raise
        part.replace(place)

    def _persist(self, ref: ModelRef, file: WireFile, arrival: _Arrival) -> None:
        """A long file may break off often: while enough of it arrives, nobody gives up."""
        while True:
            before = arrival.size
            try:
                self._client.retried(lambda: self._continue(ref, file, arrival))
                return
            except BusyError:
                if arrival.size - before < _PROGRESS:
                    raise

    def _continue(self, ref: ModelRef, file: WireFile, arrival: _Arrival) -> None:
        with self._client.weights(ref, file.id, start=arrival.size) as response:
            arrival.take(response)


class _Arrival:
    """The part of a file that is here, ``part``, and its digest so far."""

    def __init__(
        self,
        part: Path,
        file: WireFile,
        asked: CivitaiRequest,
        told: OnProgress,
        require_file: Callable[[bytes, httpx2.Response, CivitaiRequest], None],
    ) -> None:
        self._part = part
        self._require_file = require_file
        self._file = file
        self._asked = asked
        self._told = told
        self._most = file.size + _SPARE
        self._hash = hashlib.sha256()
        self.size = 0
        self.resumed = False

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def resume(self) -> None:
        """Go on from what an earlier call left."""
        self._begin()
        if self._part.is_symlink():
            self._part.unlink()
        if not self._part.exists():
            return
        with self._part.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                self._hash.update(chunk)
                self.size += len(chunk)
        self.resumed = self.size > 0

    def take(self, response: httpx2.Response) -> None:
        """What is left, from the answer to a request for the bytes from ``size`` on."""
        if response.status_code == 416:
            if self.size:
                return  # nothing is left, and the digest tells whether it is right
            raise stranger(self._asked, "it has no part of the file")
        if response.status_code == 206:
            stated = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if stated is None or int(stated[1]) != self.size:
                raise stranger(self._asked, "it sends another part of the file than was requested")
            self.resumed = True
        elif response.status_code == 200:
            self._begin()
        else:
            raise stranger(self._asked, f"it answers {response.status_code} in place of a file")
        pieces = response.iter_bytes()
        if self.size == 0:
            # What it is called says nothing: the digest tells the file, and a page is no tensors.
            pieces = self._without_page(pieces, response)
        total = self._total(response)
        self._require_room(total)
        with self._part.open("ab" if self.size else "wb") as stream:
            try:
                # As it arrives: gathered into larger pieces, the last one would be lost.
                for chunk in pieces:
                    stream.write(chunk)
                    self._hash.update(chunk)
                    self.size += len(chunk)
                    self._require_size(self.size)
                    self._told(self.size, max(total, self.size))
            finally:
                stream.flush()
                os.fsync(stream.fileno())
        if self.size < total:
            raise BusyError(
                f"{self._asked.name}: it broke off after {self.size:,} of {total:,} bytes",
                hint="run the same command again; it continues where it stopped",
            )

    def _without_page(self, pieces: Iterator[bytes], response: httpx2.Response) -> Iterator[bytes]:
        """The same pieces; raises what they say where they are a page or an error, not a file."""
        head = b""
        for piece in pieces:
            head += piece
            if len(head) >= _ENOUGH:
                break
        if is_web_page(head) or head.lstrip()[:1] == b"{":
            body = bytearray(head)
            for piece in pieces:
                body += piece
                if len(body) > REFUSAL_LIMIT:
                    break
            self._require_file(bytes(body[:REFUSAL_LIMIT]), response, self._asked)
            head = bytes(body)
        return itertools.chain((head,) if head else (), pieces)

    def _begin(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0
        self.resumed = False

    def _total(self, response: httpx2.Response) -> int:
        left = response.headers.get("Content-Length", "")
        total = self.size + int(left) if _NUMBER.fullmatch(left) else self._file.size
        self._require_size(total)
        return total if _NUMBER.fullmatch(left) else 0

    def _require_size(self, size: int) -> None:
        if size > self._most:
            self._part.unlink(missing_ok=True)
            raise HubError(
                f"{self._asked.name}: its file has {size:,} bytes or more, and Civitai says about "
                f"{self._file.size:,}",
                hint=f"see {self._asked.page}",
            )

    def _require_room(self, total: int) -> None:
        missing = max(total, self._file.size) - self.size
        free = shutil.disk_usage(self._part.parent).free
        if missing > free:
            raise HubError(
                f"{self._asked.name} needs {missing:,} more bytes in {self._part.parent}, and "
                f"{free:,} are free",
                hint="free some space, or choose another disk: --cache-dir DIR",
            )


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    # huggingface_hub, which is always there, locks its own cache with it.
    from filelock import FileLock

    with FileLock(place):
        yield


@contextmanager
def _explained(asked: CivitaiRequest, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HubError(
                f"{asked.name}: the disk is full",
                hint="free some space, or choose another disk: --cache-dir DIR",
            ) from error
        reason: Any = error.strerror or error
        raise InputError(
            f"{folder} cannot be written: {reason}",
            hint="choose a folder that you can write to: --cache-dir DIR",
        ) from error
