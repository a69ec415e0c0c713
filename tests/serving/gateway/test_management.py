"""The management port of a gateway: ready while its database answers, whatever engines there are."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx

from tests.serving.certificates import Authority
from tests.serving.gateway.harness import running_service, text_request, until
from tests.serving.soak.places import postgres_behind
from tests.serving.soak.proxy import Proxy

ANY_PORT = "127.0.0.1:0"


def test_a_gateway_without_engines_is_ready_and_has_metrics(tmp_path: Path) -> None:
    with running_service(tmp_path, management=ANY_PORT) as service:
        base = f"http://{service.settings.management}"
        assert httpx.get(f"{base}/livez").text == "ok\n"
        assert httpx.get(f"{base}/readyz").status_code == 200
        assert httpx.get(f"{service.http}/readyz").status_code == 503, "clients are told of the engines there"
        service.videos.CreateVideo(text_request())
        assert 'zoetrope_jobs{state="queued"} 1.0' in httpx.get(f"{base}/metrics").text
        assert httpx.get(f"{base}/v1/predictions").status_code == 404


def test_a_gateway_that_drains_serves_on_but_is_not_ready(tmp_path: Path) -> None:
    with running_service(tmp_path, management=ANY_PORT, drain_seconds=60) as service:
        base = f"http://{service.settings.management}"
        service.gateway.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{base}/readyz").status_code == 503)
        assert httpx.get(f"{base}/readyz").text == "it is stopping\n"
        assert httpx.get(f"{base}/livez").status_code == 200
        assert httpx.get(f"{service.http}/readyz").status_code == 503
        assert service.videos.CreateVideo(text_request()).name
        status, errors = service.gateway.stop()  # a second signal ends it at once
        assert status == 0 and "Traceback" not in errors


def test_a_drain_ends_by_itself(tmp_path: Path) -> None:
    with running_service(tmp_path, drain_seconds=0.2) as service:
        service.gateway.process.send_signal(signal.SIGTERM)
        assert service.gateway.process.wait(20) == 0


def test_ready_follows_the_database(tmp_path: Path, postgres: str) -> None:
    connect, address = postgres_behind(postgres)
    proxy = Proxy(connect)
    database = address.format(port=proxy.port)
    try:
        with running_service(tmp_path, management=ANY_PORT, database=database) as service:
            base = f"http://{service.settings.management}"
            assert httpx.get(f"{base}/readyz", timeout=20).status_code == 200
            with proxy.away():
                until(lambda: httpx.get(f"{base}/readyz", timeout=20).status_code == 503)
                assert httpx.get(f"{base}/livez").status_code == 200, "a restart would not help"
            until(lambda: httpx.get(f"{base}/readyz", timeout=20).status_code == 200, 60)
    finally:
        proxy.close()


def test_probes_need_no_tls_where_clients_do(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path, "authority").sign("gateway")
    changes = {"tls_cert": certificate, "tls_key": key, "keys": "required", "management": ANY_PORT}
    with running_service(tmp_path, **changes) as service:
        assert httpx.get(f"http://{service.settings.management}/readyz").status_code == 200
