"""The router's part, played by hand, for tests of the Replicate API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from replicate.exceptions import ReplicateError

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.router_double import ending_jobs
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.jobs.job import Job, Result, State

T2V, I2V, R2V, EDIT = (f"wan-video/wan-2.7-{name}" for name in ("t2v", "i2v", "r2v", "videoedit"))
VIDEO = bytes(range(256)) * 10_001  # more than two chunks, and no multiple of 3
PROMPT = {"prompt": "a red circle"}


def claim(service: Service, job_id: str) -> Job:
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    assert job.id == job_id
    return job


def succeed(service: Service, job: Job, data: bytes = VIDEO) -> None:
    spec, key = job.spec, f"jobs/{job.id}/{job.lease_epoch}/video.mp4"
    stored = service.artifacts.put_bytes(key, data, "video/mp4")
    result = Result(stored, None, spec["frames"], spec["width"], spec["height"], spec["fps"], {"denoise": 1.5})
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)


def fail(service: Service, job: Job) -> None:
    end(service, job, "INTERNAL", "the picture fell off the wall")


def end(service: Service, job: Job, code: str, message: str) -> None:
    assert service.store.finish(job.id, job.lease_epoch, State.FAILED, error_code=code, error_message=message)


def router(service: Service, act: Callable[[Service, Job], None] = succeed) -> AbstractContextManager[list[Job]]:
    return ending_jobs(service, act)


def refused(call: Callable[[], object], status: int) -> str:
    with pytest.raises(ReplicateError) as caught:
        call()
    assert caught.value.status == status
    assert caught.value.title
    return str(caught.value.detail)


def certificate(directory: Path) -> tuple[Path, Path]:
    """Self-signed, for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "zoetrope test")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    paths[1].write_bytes(private)
    return paths
