"""The adapters of a rank's segments: read from the service's storage, kept in the host's memory, loaded into slots."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from threading import Lock

from zoetrope.cluster.protocol.messages import one_line
from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.storage.open import STORAGE_ERRORS, Objects, error_line, open_objects
from zoetrope.model.adapters.registered import HostAdapter, prepared, read_registered
from zoetrope.model.adapters.slots import AdapterSlots, NoSlot
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.network.protocol import Network
from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.tasks import Role

log = logging.getLogger("zoetrope.adapters")

HOST_BYTES = 4 << 30  # of adapters that are kept in the host's memory beside those being read


class AdapterGone(Exception):
    """A segment's adapter was removed, or its file is not what was registered; fit for the client."""


class AdapterUnavailable(Exception):
    """The storage of adapters does not answer, or no slot is free; it may pass."""


class RankAdapters:
    """Loads the adapters of segments into the slots of a rank's networks. All ranks of a gang do the same, because the
    plans that they carry out are the same."""

    def __init__(
        self, denoiser: Denoiser, settings: EngineSettings, *, two_experts: bool, limit_bytes: int = HOST_BYTES
    ) -> None:
        """Make slots in the denoiser's networks; ``two_experts``: of the checkpoint, of which there may be one here."""
        self._settings = settings
        self._network = denoiser.transformer
        self._limit = limit_bytes
        self._kept: OrderedDict[str, HostAdapter] = OrderedDict()  # by digest, the last used at the end
        self._coming: dict[str, Future[HostAdapter]] = {}
        self._lock = Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")
        self._slots: AdapterSlots | None = None
        if settings.adapters is not None and settings.adapter_slots:
            sides = _networks(denoiser, two_experts, settings.role)
            self._slots = denoiser.adapters = AdapterSlots(sides, settings.adapter_slots, settings.adapter_rank)

    def hold(self, segment_id: str, loras: Sequence[AdapterUse]) -> None:
        """Load a segment's adapters into a slot until `release`. Their files must still be there, even if they were
        read before: what was removed starts no segment.

        Raises:
            AdapterGone, AdapterUnavailable.
        """
        if not loras:
            return
        if self._slots is None:
            raise AdapterGone("this service has no slots for adapters")
        for lora in loras:
            with _named(lora):
                self._objects.size(lora.key)
        adapters = [self._get(lora) for lora in loras]
        try:
            self._slots.acquire(segment_id, adapters)
        except NoSlot as error:
            raise AdapterUnavailable(str(error)) from None
        except ValueError as error:
            raise AdapterGone(str(error)) from None

    def release(self, segment_id: str) -> None:
        """End `hold`, if it began."""
        if self._slots is not None:
            self._slots.release(segment_id)

    def prefetch(self, loras: Sequence[AdapterUse]) -> None:
        """Read adapters in the background. What fails is read again, and reported, when a segment needs it."""
        with self._lock:
            for lora in loras:
                if self._slots is not None and lora.digest not in self._kept and lora.digest not in self._coming:
                    self._coming[lora.digest] = self._reader.submit(self._read, lora)

    def _get(self, lora: AdapterUse) -> HostAdapter:
        with self._lock:
            coming, kept = self._coming.pop(lora.digest, None), self._kept.get(lora.digest)
        found = kept
        if found is None and coming is not None:
            try:
                found = coming.result()
            except Exception as error:
                log.warning("adapter %s is read again: %s", lora.name, one_line(error))
        if found is None:
            found = self._read(lora)
        with self._lock:
            self._kept[lora.digest] = found
            self._kept.move_to_end(lora.digest)
            while len(self._kept) > 1 and sum(adapter.nbytes for adapter in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
        return found

    def _read(self, lora: AdapterUse) -> HostAdapter:
        with _named(lora):
            data = self._objects.read(lora.key)
        if hashlib.sha256(data).hexdigest() != lora.digest:
            raise AdapterGone(f"the file of its adapter {lora.name} has changed since it was registered")
        network = self._network
        return prepared(read_registered(data, lora.digest), network.dtype, pin=network.device.type == "cuda")

    @cached_property
    def _objects(self) -> Objects:
        assert self._settings.adapters is not None
        return open_objects(self._settings.adapters)


@contextmanager
def _named(lora: AdapterUse) -> Iterator[None]:
    """Turn a storage's errors into ours, with the adapter's name."""
    try:
        yield
    except FileNotFoundError:
        raise AdapterGone(f"its adapter {lora.name} was removed") from None
    except (*STORAGE_ERRORS, ValueError) as error:
        raise AdapterUnavailable(f"adapter {lora.name}: {error_line(error)}") from None


def _networks(denoiser: Denoiser, two_experts: bool, role: Role) -> dict[str, Network]:
    if not two_experts:
        return {"any": denoiser.transformer}
    if role != "both":
        return {role: denoiser.transformer}
    assert denoiser.low_noise is not None
    return {"high": denoiser.transformer, "low": denoiser.low_noise}
